# SPDX-License-Identifier: Apache-2.0
"""Requests to endpoints from Python: jobs and what became of them, HTTP requests to load-balanced ones."""

from .endpoint import TIMEOUT_S, EndpointClient
from .job import EndpointJob, JobStream
from .provisioned import ProvisionedEndpoint
from .targets import ExistingTarget, ImageTarget, Target

__all__ = [
    "TIMEOUT_S",
    "EndpointClient",
    "EndpointJob",
    "ExistingTarget",
    "ImageTarget",
    "JobStream",
    "ProvisionedEndpoint",
    "Target",
]
