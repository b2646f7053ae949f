# SPDX-License-Identifier: Apache-2.0
"""What a platform is to the rest of the package: a place to connect to. It never sends a request.

Every platform speaks Runpod's HTTP, so the seam is small: start or find it, say where it is, say whether
it still lives, leave it. `platforms.runpod.RunpodClient` does the talking for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from . import api

if TYPE_CHECKING:
    from .carrier import Carrier

__all__ = ["Connection", "Platform", "RateLimit"]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Most requests of one operation of one endpoint.

    Attributes:
        requests: How many may begin within any `per_s` seconds.
        per_s: Length of that time, seconds.
        at_once: How many may be open at the same time.
    """

    requests: int
    per_s: float
    at_once: int


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a platform is, and how its workers start.

    Attributes:
        api_base: Base URL of REST v2, without `/v2`.
        key: The API key; never in `repr`.
        job_base: Base URL, without `/v2`, that replaces scheme and host of the endpoints' own request URLs;
            None to use those as they are.
        balanced_base: Base URL of a load-balanced endpoint, with `{id}` for its id; for endpoints known by id alone.
        worker_command: Command line that starts our worker there.
        has_package: Whether workers find this package installed; False where they are told what to install.
        limits: Most requests by operation (`run`, `runSync`, `status`, `stream`, `cancel`), kept by waiting;
            None where there are none.
        queue_delay_s: Seconds a request waits before workers are added, for endpoints whose user left that open;
            None for the default of `EndpointConfig`.
        key_advice: What to do when the key is refused, as one clause.
        runs_images: Whether workers start from the endpoint's image; False where `flash_local_image` finds a command
            that stands for it.
        volume_note: What its user should know when a network volume is created, as one clause.
        objects: URL of the store where large parts of arguments and results go, which its workers can read and write;
            None if there is none.
        keeps_endpoints: Use an endpoint that exists as it is, instead of bringing it up to date: a worker that calls
            another endpoint knows neither its environment nor what else its owner has changed.
        wrap: Returns what requests go through in the place of the carrier that it is given: what counts, records or
            disturbs them. None for nothing of the kind.
    """

    api_base: str
    key: str = field(repr=False)
    job_base: str | None = None
    balanced_base: str = api.CLOUD_BALANCED_BASE
    worker_command: str = api.WORKER_COMMAND
    has_package: bool = True
    limits: Mapping[str, RateLimit] | None = None
    key_advice: str | None = None
    queue_delay_s: float | None = None
    runs_images: bool = True
    volume_note: str = "it costs money until it is deleted"
    objects: str | None = None
    keeps_endpoints: bool = False
    wrap: Callable[[Carrier], Carrier] | None = field(default=None, repr=False)

    @property
    def jobs_base(self) -> str:
        """Base URL of the job API, without `/v2`, for endpoints known by id alone."""
        if self.job_base is not None:
            return self.job_base
        return api.CLOUD_JOB_BASE if self.api_base == api.CLOUD_API_BASE else self.api_base


@runtime_checkable
class Platform(Protocol):
    """A place that runs endpoints. Methods block; the dispatcher calls them off its event loop."""

    @property
    def name(self) -> str:
        """Short name, such as `local` or `runpod`."""

    @property
    def reason(self) -> str:
        """Why this platform was chosen, as one clause for the line the user sees."""

    @property
    def outlives_us(self) -> bool:
        """Whether jobs would go on after this process has ended, so that they must be cancelled first."""

    def connect(self) -> Connection:
        """Start or find the platform and return where it is. Idempotent; thread-safe.

        Raises:
            PlatformUnavailable: It cannot be started or found; the message says why.
            AuthenticationError: It needs a key and there is none.
            MissingDependencyError: A package it needs is not installed.
        """

    def lost_reason(self) -> str | None:
        """Return why the platform is gone, or None while it lives or cannot tell."""

    def close(self) -> None:
        """Leave the platform; one that this process started ends with everything on it. Idempotent."""
