# SPDX-License-Identifier: Apache-2.0
"""What an endpoint's config is in REST v2, and what must change where one of that name exists. It asks nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import EndpointConfig
from ..errors import ConfigError
from ..hardware import ServerlessScalerType, cpu_flavors, gpu_pools
from . import api
from .api import EndpointKind

__all__ = ["changes", "endpoint_body", "refuse_impossible_change", "with_cargo_of"]


def endpoint_body(
    config: EndpointConfig,
    env: Mapping[str, str],
    worker_command: str,
    *,
    kind: EndpointKind = EndpointKind.QUEUE,
    queue_delay_s: float | None = None,
    image_args: str = "",
) -> dict[str, Any]:
    """Return the REST v2 body that creates this endpoint. Every setting is explicit: defaults may move.

    Args:
        config: What the endpoint should be.
        env: Environment that the package itself adds.
        worker_command: Command line that starts a worker; unused for an endpoint with an image of its own.
        kind: How it takes requests.
        queue_delay_s: The platform's own delay for an endpoint whose scaling was left open.
        image_args: Start command of an endpoint with an image of its own; empty for the image's.
    """
    is_balanced = kind is EndpointKind.LOAD_BALANCER
    config = config.for_routes() if is_balanced else config
    by_count = config.scaler_type is ServerlessScalerType.REQUEST_COUNT
    workers: dict[str, int] = {"min": config.workers[0], "max": config.workers[1]}
    if by_count:
        scaling: dict[str, Any] = {"type": "REQUEST_COUNT", "requestCount": int(config.scaler_value)}
    else:
        is_open = config.has_default_scaling and queue_delay_s is not None
        scaling = {"type": "QUEUE_DELAY", "queueDelay": queue_delay_s if is_open else config.scaler_value}
    if is_balanced or not by_count:  # REST v2 refuses it for a queue with REQUEST_COUNT
        workers["idleTimeout"] = config.idle_timeout
    if is_balanced:
        env = {api.PORT_ENV: str(api.BALANCED_PORT_DEFAULT), api.PORT_HEALTH_ENV: str(api.BALANCED_PORT_DEFAULT), **env}
    body: dict[str, Any] = {
        "name": config.name,
        "type": kind.value,
        "scaling": scaling,
        "image": config.image or (f"python:{env[api.PYTHON_ENV]}-slim" if config.cpu else _GPU_IMAGE),
        "args": image_args if config.image else worker_command,
        "env": {**config.env, **env, api.MAX_CONCURRENCY_ENV: str(config.max_concurrency)},
        "workers": workers,
        "timeout": config.execution_timeout_ms or api.NO_EXECUTION_LIMIT_MS,
        "flashboot": "FLASHBOOT" if config.flashboot else "OFF",
        "dataCenterIds": [str(center.value) for center in config.datacenter],
    }
    if is_balanced:
        body["ports"] = [f"{api.BALANCED_PORT_DEFAULT}/http"]
    if config.cpu:
        body["cpu"] = cpu_flavors(config.cpu)
    else:
        pools, excluded = gpu_pools(config.gpu)
        body["gpu"] = {
            "pools": list(pools),
            "count": config.gpu_count,
            "minCudaVersion": str(config.min_cuda_version.value),
        }
        if excluded:
            body["gpu"]["excludedTypes"] = list(excluded)
    return body


#: Image of GPU workers: CUDA, torch and python, no ENTRYPOINT that would swallow the start command.
_GPU_IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"


def changes(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the smallest PATCH that makes an endpoint, as REST v2 shows it (`found`), what is wanted."""
    patch: dict[str, Any] = {}
    for field, value in wanted.items():
        if field in ("name", "type"):
            continue
        present = found.get(field)
        if field == "env":  # as a whole: a variable that is no longer wanted must go
            if dict(present or {}) != value:
                patch[field] = value
        elif isinstance(value, dict) and isinstance(present, Mapping):
            is_wider = field == "gpu" and bool(present.get("excludedTypes")) and "excludedTypes" not in value
            if is_wider or any(present.get(key) != entry for key, entry in value.items()):
                patch[field] = value
        elif field == "cpu" and isinstance(present, list):
            if [{key: entry.get(key) for key in ("id", "vcpuCount")} for entry in present] != value:
                patch[field] = value
        elif present != value:
            patch[field] = value
    return patch


def with_cargo_of(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is wanted with the deployed code that an endpoint, as REST v2 shows it, has already."""
    present = found.get("env") or {}
    cargo = {name: value for name, value in present.items() if name.startswith(api.CARGO_ENV_PREFIX)}
    return {**wanted, "env": {**cargo, **wanted["env"]}}


def refuse_impossible_change(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse what no PATCH can do.

    Raises:
        ConfigError: The endpoint is of another type or on another kind of hardware.
    """
    for what, present, asked in (
        ("type", found.get("type", "QUEUE"), wanted["type"]),
        ("kind of hardware", "CPU" if found.get("cpu") else "GPU", "CPU" if "cpu" in wanted else "GPU"),
    ):
        if present != asked:
            raise ConfigError(
                f"an endpoint named {wanted['name']!r} exists with {what} {present}, and {asked} is asked for, which "
                "the platform cannot change; use another name, or delete that endpoint first"
            )
