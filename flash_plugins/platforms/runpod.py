# SPDX-License-Identifier: Apache-2.0
"""The one HTTP client: REST v2 for endpoints, the job API for calls. It decides nothing about retries of calls.

The cloud and the local platform speak the same HTTP, so what meets production runs in every test. Importing
this module imports aiohttp (0.15 s, more on a slow machine): do it off the user's thread.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from ..config import EndpointConfig
from ..errors import ApiError, NotFoundError
from ..job import JobResult, JobStatus
from . import api
from .api import EndpointKind
from .base import Connection
from .body import Wanted
from .http import READ_TIMEOUT_S, HttpClient, RateLimited, RequestTimeout, StatusError, TransportFailure
from .limits import Limiter
from .models import EndpointInfo
from .provision import Provisioner
from .rest import RestClient

__all__ = [
    "EndpointHandle",
    "EndpointKind",
    "RateLimited",
    "RequestTimeout",
    "RunpodClient",
    "StatusError",
    "TransportFailure",
]

logger = logging.getLogger(__name__)

#: Seconds more than the platform's own hold before a held request counts as dead.
_HOLD_SLACK_S = 30.0
#: Longest hold of `/stream` we wait for; Runpod's official 2.0 client allows 90 s.
_STREAM_HOLD_S = 90.0


@dataclass(frozen=True, slots=True)
class EndpointHandle:
    """An endpoint that exists: its id and the URLs it answers on.

    Attributes:
        id: The platform's id of it.
        name: Its name.
        urls: By operation, as REST v2 names them: `run`, `runSync`, … of a queue; `base`, `health` of a
            load-balanced endpoint.
        kind: How it takes requests.
    """

    id: str
    name: str
    urls: Mapping[str, str]
    kind: EndpointKind = EndpointKind.QUEUE

    @property
    def base_url(self) -> str | None:
        """Where the paths of a load-balanced endpoint begin, without a slash at the end; None for a queue."""
        return self.urls["base"].rstrip("/") if self.kind is EndpointKind.LOAD_BALANCER else None

    def url(self, operation: str, job_id: str | None = None) -> str:
        """Return the URL of an operation such as `runSync` or `status`."""
        url = self.urls[operation]
        return url if job_id is None else url.replace("{job_id}", quote(job_id, safe=""))


class RunpodClient:
    """Requests to one platform. Used from one event loop only.

    Args:
        connection: Where the platform is.
        max_connections: Most requests open at once.
        tell: Takes a line for the user.
        lost: Returns why the platform is gone, None while it lives or cannot tell.

    Attributes:
        rest: REST v2 with types.
        provisioner: From a config to an endpoint; its `plan` says what `ensure_endpoint` would do.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        max_connections: int = 1000,
        tell: Callable[[str], object] = logger.info,
        lost: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.connection = connection
        self.http = HttpClient(connection, max_connections=max_connections)
        self.rest = RestClient(self.http, lost=lost)
        self.provisioner = Provisioner(self.rest, connection, tell=tell, lost=lost)
        self._limiters: dict[tuple[str, str], Limiter] = {}

    async def aclose(self) -> None:
        """Close all connections; whoever still asks is told that nothing was sent."""
        await self.http.aclose()

    async def ensure_endpoint(
        self,
        config: EndpointConfig,
        env: Mapping[str, str],
        *,
        kind: EndpointKind = EndpointKind.QUEUE,
        cargo: Mapping[str, str] | None = None,
        image_args: str = "",
    ) -> EndpointHandle:
        """Return the endpoint of this name, created or brought up to date as needed.

        Args:
            config: What it should be; an image endpoint where `config.image` is set.
            env: Environment that the package itself adds to `config.env`.
            kind: How it takes requests.
            cargo: Variables with the code that is deployed with it; None leaves those that it has.
            image_args: Start command of an image endpoint; empty for the image's own.

        Raises:
            As `Provisioner.ensure`.
        """
        wanted = Wanted(config, env, kind, cargo, image_args)
        return self.handle_of(await self.provisioner.ensure(wanted))

    def existing(self, endpoint_id: str, kind: EndpointKind) -> EndpointHandle:
        """Return an endpoint of which only the id is known: where Runpod puts such, without asking."""
        connection = self.connection
        if kind is EndpointKind.LOAD_BALANCER:
            base = connection.balanced_base.replace("{id}", quote(endpoint_id, safe=""))
            urls = {"base": base, "health": base + api.HEALTH_CHECK_PATH_DEFAULT}
        else:
            base = f"{connection.jobs_base}/v2/{quote(endpoint_id, safe='')}"
            urls = {operation: base + path for operation, path in api.JOB_PATHS.items()}
        return EndpointHandle(id=endpoint_id, name=endpoint_id, urls=urls, kind=kind)

    async def look_up(self, endpoint_id: str) -> EndpointHandle:
        """Return an endpoint by its id, as the platform has it.

        Raises:
            NotFoundError: There is none.
        """
        return self.handle_of(await self.rest.endpoint(endpoint_id))

    async def exists(self, endpoint_id: str) -> bool:
        """Return whether the platform has an endpoint of this id. Raises as `RestClient` does."""
        try:
            await self.rest.endpoint(endpoint_id)
        except NotFoundError:
            return False
        return True

    async def find(self, name: str) -> EndpointHandle | None:
        """Return the endpoint of a name, the oldest if there are several, None if there is none."""
        found = await self.provisioner.named(name)
        return self.handle_of(found[0]) if found else None

    async def job_answer(
        self,
        handle: EndpointHandle,
        operation: str,
        job_id: str | None = None,
        *,
        body: bytes | None = None,
        query: str = "",
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Return what an operation of the job API, as `EndpointHandle.urls` names it, is answered with, as it is."""
        method = "GET" if operation in ("status", "stream", "health") else "POST"
        async with self._limited(handle, operation):
            return await self.http.json(
                method, handle.url(operation, job_id) + query, body, read_timeout_s=read_timeout_s
            )

    async def delete_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint; its workers end and its jobs are cancelled. Raises as `RestClient` does."""
        await self.rest.delete_endpoint(endpoint_id)

    async def run(self, handle: EndpointHandle, body: bytes) -> JobResult:
        """Submit a job; returns at once."""
        async with self._limited(handle, "run"):
            return await self._job("POST", handle.url("run"), body)

    async def run_sync(self, handle: EndpointHandle, body: bytes, *, wait_ms: int) -> JobResult:
        """Submit a job and wait for it up to `wait_ms`; the answer is unfinished if that was too short."""
        url = f"{handle.url('runSync')}?wait={wait_ms}"
        async with self._limited(handle, "runSync"):
            return await self._job("POST", url, body, read_timeout_s=wait_ms / 1000 + _HOLD_SLACK_S)

    async def status(self, handle: EndpointHandle, job_id: str) -> JobResult:
        """Return what the platform knows about a job."""
        async with self._limited(handle, "status"):
            return await self._job("GET", handle.url("status", job_id))

    async def stream(self, handle: EndpointHandle, job_id: str) -> tuple[JobStatus, list[Any]]:
        """Return the state of a job and its new chunks, held by the platform until there is something to say."""
        url = handle.url("stream", job_id)
        async with self._limited(handle, "stream"):
            answer = await self.http.accepted("GET", url, read_timeout_s=_STREAM_HOLD_S + _HOLD_SLACK_S)
        try:
            said = answer.json()
            chunks = [entry.get("output") for entry in said.get("stream") or ()]
            return JobStatus.parse(said.get("status")), chunks
        except (ValueError, AttributeError) as error:
            raise self.http.not_understood("GET", url, answer, error) from error

    async def cancel(self, handle: EndpointHandle, job_id: str) -> JobResult:
        """Cancel a job, queued or running."""
        async with self._limited(handle, "cancel"):
            return await self._job("POST", handle.url("cancel", job_id))

    async def health(self, handle: EndpointHandle) -> Mapping[str, Mapping[str, int]]:
        """Return the endpoint's job and worker counts."""
        return await self.http.json("GET", handle.url("health"))

    def handle_of(self, endpoint: EndpointInfo) -> EndpointHandle:
        """Return what requests to an endpoint go by.

        Raises:
            ApiError: The platform does not say where it takes requests.
        """
        kind = endpoint.kind or EndpointKind.QUEUE
        urls = endpoint.urls
        needed = "run" if kind is EndpointKind.QUEUE else "base"
        if needed not in urls:
            raise ApiError(
                f"the platform describes endpoint {endpoint.name!r} without what Runpod's description requires "
                f"(requestUrls.{needed})",
                status=200,
            )
        if kind is EndpointKind.QUEUE:  # the address of a load-balanced endpoint is its host
            urls = {name: self._rebased(url) for name, url in urls.items()}
        return EndpointHandle(id=endpoint.id, name=endpoint.name, urls=urls, kind=kind)

    def _rebased(self, url: str) -> str:
        base = self.connection.job_base
        return url if base is None else base + urlsplit(url).path

    async def _job(
        self, method: str, url: str, body: bytes | None = None, *, read_timeout_s: float = READ_TIMEOUT_S
    ) -> JobResult:
        answer = await self.http.accepted(method, url, body, read_timeout_s=read_timeout_s)
        try:
            return JobResult.from_json(answer.json())
        except (ValueError, AttributeError) as error:
            raise self.http.not_understood(method, url, answer, error) from error

    def _limited(self, handle: EndpointHandle, operation: str) -> AbstractAsyncContextManager[None]:
        """Return what a request waits in until the platform takes one more of its kind."""
        limit = (self.connection.limits or {}).get(operation)
        if limit is None:
            return contextlib.nullcontext()
        key = (handle.id, operation)
        if key not in self._limiters:
            self._limiters[key] = Limiter(limit, is_rare=operation == "cancel")
        return self._limiters[key]
