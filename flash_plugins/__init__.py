# SPDX-License-Identifier: Apache-2.0
"""Run the Python code you already have on Runpod Serverless, or on this machine with no account.

Importing this package does nothing but define names; each is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import EndpointClient, EndpointJob, JobStream, ProvisionedEndpoint
    from .config import EndpointConfig
    from .dispatcher import Call, StreamCall
    from .endpoint import Endpoint
    from .errors import (
        ApiError,
        AuthenticationError,
        ConfigError,
        DependencyError,
        EnvelopeError,
        FlashPluginsError,
        HookError,
        JobCancelled,
        JobError,
        JobExpired,
        JobFailed,
        JobTimeout,
        MissingDependencyError,
        NotFoundError,
        NoWorkers,
        PayloadError,
        PayloadTooLarge,
        PlatformError,
        PlatformUnavailable,
        RemoteError,
        ResultLost,
        StreamConsumed,
        SubmissionUnknown,
        UnknownParameterError,
        UnpicklableError,
        WaitTimeout,
        WorkerLost,
        WorkerStartFailed,
    )
    from .hardware import (
        CPU_DATACENTERS,
        CpuInstanceType,
        CudaVersion,
        DataCenter,
        GpuGroup,
        GpuType,
        ServerlessScalerType,
        ServerlessType,
    )
    from .hooks import CallEvent, CallStage, hookimpl
    from .images import LocalImage
    from .job import JobResult, JobStatus
    from .mapping import MapIterator
    from .objects.handles import ObjectRef
    from .objects.store import ObjectMissing
    from .options import CallOptions
    from .pending import Pending
    from .platforms.base import Connection, Platform, RateLimit
    from .process import close, configure, platform, register, unregister
    from .references import get, put
    from .remote import RemoteClass, RemoteFunction, RemoteGenerator, RemoteInstance, RemoteMethod
    from .resources import NetworkVolume, PodTemplate
    from .steps import note_step, suspected_step
    from .work import Work

__version__ = "0.1.0"

#: Public names by the module that defines them.
_HOMES = {
    "client": ("EndpointClient", "EndpointJob", "JobStream", "ProvisionedEndpoint"),
    "config": ("EndpointConfig",),
    "dispatcher": ("Call", "StreamCall"),
    "endpoint": ("Endpoint",),
    "errors": (
        "ApiError",
        "AuthenticationError",
        "ConfigError",
        "DependencyError",
        "EnvelopeError",
        "FlashPluginsError",
        "HookError",
        "JobCancelled",
        "JobError",
        "JobExpired",
        "JobFailed",
        "JobTimeout",
        "MissingDependencyError",
        "NoWorkers",
        "NotFoundError",
        "PayloadError",
        "PayloadTooLarge",
        "PlatformError",
        "PlatformUnavailable",
        "RemoteError",
        "ResultLost",
        "StreamConsumed",
        "SubmissionUnknown",
        "UnknownParameterError",
        "UnpicklableError",
        "WaitTimeout",
        "WorkerLost",
        "WorkerStartFailed",
    ),
    "hardware": (
        "CPU_DATACENTERS",
        "CpuInstanceType",
        "CudaVersion",
        "DataCenter",
        "GpuGroup",
        "GpuType",
        "ServerlessScalerType",
        "ServerlessType",
    ),
    "hooks": ("CallEvent", "CallStage", "hookimpl"),
    "images": ("LocalImage",),
    "job": ("JobResult", "JobStatus"),
    "mapping": ("MapIterator",),
    "objects.handles": ("ObjectRef",),
    "objects.store": ("ObjectMissing",),
    "options": ("CallOptions",),
    "pending": ("Pending",),
    "platforms.base": ("Connection", "Platform", "RateLimit"),
    "process": ("close", "configure", "platform", "register", "unregister"),
    "references": ("get", "put"),
    "resources": ("NetworkVolume", "PodTemplate"),
    "remote": ("RemoteClass", "RemoteFunction", "RemoteGenerator", "RemoteInstance", "RemoteMethod"),
    "steps": ("note_step", "suspected_step"),
    "work": ("Work",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CPU_DATACENTERS",
    "ApiError",
    "AuthenticationError",
    "Call",
    "CallEvent",
    "CallOptions",
    "CallStage",
    "ConfigError",
    "Connection",
    "CpuInstanceType",
    "CudaVersion",
    "DataCenter",
    "DependencyError",
    "Endpoint",
    "EndpointClient",
    "EndpointConfig",
    "EndpointJob",
    "EnvelopeError",
    "FlashPluginsError",
    "GpuGroup",
    "GpuType",
    "HookError",
    "JobCancelled",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobResult",
    "JobStatus",
    "JobStream",
    "JobTimeout",
    "LocalImage",
    "MapIterator",
    "MissingDependencyError",
    "NetworkVolume",
    "NoWorkers",
    "NotFoundError",
    "ObjectMissing",
    "ObjectRef",
    "PayloadError",
    "PayloadTooLarge",
    "Pending",
    "Platform",
    "PlatformError",
    "PlatformUnavailable",
    "PodTemplate",
    "ProvisionedEndpoint",
    "RateLimit",
    "RemoteClass",
    "RemoteError",
    "RemoteFunction",
    "RemoteGenerator",
    "RemoteInstance",
    "RemoteMethod",
    "ResultLost",
    "ServerlessScalerType",
    "ServerlessType",
    "StreamCall",
    "StreamConsumed",
    "SubmissionUnknown",
    "UnknownParameterError",
    "UnpicklableError",
    "WaitTimeout",
    "Work",
    "WorkerLost",
    "WorkerStartFailed",
    "__version__",
    "close",
    "configure",
    "get",
    "hookimpl",
    "note_step",
    "platform",
    "put",
    "register",
    "suspected_step",
    "unregister",
]


#: Names of `runpod_flash` that have no counterpart, and what does their work here.
_ELSEWHERE = {
    "FlashApp": "every Endpoint stands for itself, with no app around it; deploy the endpoints of a file with "
    "`flash-plugins deploy FILE` or endpoint.provision()",
}


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:  # no AttributeError, in whose place `from flash_plugins import …` puts words of its own
        raise ImportError(f"flash_plugins has no {name}: {_ELSEWHERE[name]}", name=__name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
