# SPDX-License-Identifier: Apache-2.0
"""`ProvisionedEndpoint`: an endpoint that the platform has, and where it takes requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ProvisionedEndpoint"]


@dataclass(frozen=True, slots=True)
class ProvisionedEndpoint:
    """What `Endpoint.provision` brings.

    Attributes:
        id: The platform's id of it.
        name: Its name.
        request_urls: URLs by operation, as REST v2 names them: `run`, `runSync`, `status`, … of a queue, `base` and
            `health` of a load-balanced endpoint. `{job_id}` stands for the id of a job.
        base_url: Where the paths of a load-balanced endpoint begin, for any HTTP client; None for a queue.
    """

    id: str
    name: str
    request_urls: Mapping[str, str]
    base_url: str | None = None
