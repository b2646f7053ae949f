# SPDX-License-Identifier: Apache-2.0
"""The one HTTP client: REST v2 for endpoints, the job API for calls. It decides nothing about retries of calls.

The cloud and the local platform speak the same HTTP, so what meets production runs in every test. Importing
this module imports httpx and aiohttp (half a second on a slow machine): do it off the user's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from ..config import EndpointConfig
from ..errors import ApiError, ConfigError
from ..job import JobResult, JobStatus
from . import api
from .api import EndpointKind
from .base import Connection
from .http import READ_TIMEOUT_S, HttpClient, RateLimited, RequestTimeout, StatusError, TransportFailure
from .limits import Limiter
from .provision import changes, endpoint_body, refuse_impossible_change, with_cargo_of
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

#: Seconds more than the platform's own hold before a held request counts as dead.
_HOLD_SLACK_S = 30.0
#: Seconds between looks for an endpoint that its owner creates just now.
_CREATION_PAUSES_S = (0.1, 0.2, 0.5, 1, 1, 2, 2, 5, 5, 5, 10, 10)
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
    """

    def __init__(self, connection: Connection, *, max_connections: int = 1000) -> None:
        self.connection = connection
        self.http = HttpClient(connection, max_connections=max_connections)
        self.rest = RestClient(self.http)
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
            ConfigError: An endpoint of that name exists and cannot become this one.
            ApiError: The platform refused.
        """
        connection = self.connection
        body = endpoint_body(
            config,
            {**env, **(cargo or {})},
            connection.worker_command,
            kind=kind,
            queue_delay_s=connection.queue_delay_s,
            image_args=image_args,
        )
        found = await self._found(config)
        if found is None:
            return self._handle(await self.http.json("POST", self._rest(api.SERVERLESS_PATH), body))
        refuse_impossible_change(found, body)
        if connection.keeps_endpoints:
            return self._handle(found)
        patch = changes(found, body if cargo is not None else with_cargo_of(found, body))
        if patch:
            found = await self.http.json("PATCH", self._rest(f"{api.SERVERLESS_PATH}/{found['id']}"), patch)
        return self._handle(found)

    async def _found(self, config: EndpointConfig) -> dict[str, Any] | None:
        """Return the endpoint of this name as REST v2 shows it.

        On a worker, one whose `env` stayed where it was declared is waited for: its owner creates it just now.
        """
        pauses = _CREATION_PAUSES_S if self.connection.keeps_endpoints and config.lacks_env else ()
        for pause_s in (*pauses, None):
            listed = await self.http.json("GET", self._rest(api.SERVERLESS_PATH))
            found = next((e for e in listed.get("endpoints") or () if e.get("name") == config.name), None)
            if found is not None or (pause_s is None and not pauses):
                return found
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        raise ConfigError(
            f"endpoint {config.name!r} is called from a worker and does not exist; its env=… stays where it was "
            "declared, so the worker cannot create it: call it, or provision() it, from your program first"
        )

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
        path = f"{api.SERVERLESS_PATH}/{quote(endpoint_id, safe='')}"
        return self._handle(await self.http.json("GET", self._rest(path)))

    async def find(self, name: str) -> EndpointHandle | None:
        """Return the endpoint of a name, the oldest if there are several, None if there is none."""
        listed = await self.http.json("GET", self._rest(api.SERVERLESS_PATH))
        found = [e for e in listed.get("endpoints") or () if e.get("name") == name]
        return self._handle(min(found, key=lambda e: (e.get("createdAt") or "", e["id"]))) if found else None

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
        """Delete an endpoint; its workers end and its jobs are cancelled."""
        await self.http.request("DELETE", self._rest(f"{api.SERVERLESS_PATH}/{quote(endpoint_id, safe='')}"))

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
            response = await self.http.request("GET", url, read_timeout_s=_STREAM_HOLD_S + _HOLD_SLACK_S)
        try:
            answer = response.json()
            chunks = [entry.get("output") for entry in answer.get("stream") or ()]
            return JobStatus.parse(answer.get("status")), chunks
        except (ValueError, AttributeError) as error:
            raise self.http.not_understood("GET", url, response, error) from error

    async def cancel(self, handle: EndpointHandle, job_id: str) -> JobResult:
        """Cancel a job, queued or running."""
        async with self._limited(handle, "cancel"):
            return await self._job("POST", handle.url("cancel", job_id))

    async def health(self, handle: EndpointHandle) -> Mapping[str, Mapping[str, int]]:
        """Return the endpoint's job and worker counts."""
        return await self.http.json("GET", handle.url("health"))

    def _handle(self, answer: Mapping[str, Any]) -> EndpointHandle:
        try:
            kind = EndpointKind(answer.get("type", "QUEUE"))
            urls = {str(name): str(url) for name, url in answer["requestUrls"].items()}
            if kind is EndpointKind.QUEUE:  # the address of a load-balanced endpoint is its host
                urls = {name: self._rebased(url) for name, url in urls.items()}
            elif "base" not in urls:
                raise KeyError("requestUrls.base")
            return EndpointHandle(id=str(answer["id"]), name=str(answer["name"]), urls=urls, kind=kind)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ApiError(
                f"the platform describes endpoint {answer.get('name')!r} without what Runpod's description requires "
                f"({type(error).__name__}: {error})",
                status=200,
            ) from error

    def _rebased(self, url: str) -> str:
        base = self.connection.job_base
        return url if base is None else base + urlsplit(url).path

    def _rest(self, path: str) -> str:
        return self.connection.api_base + path

    async def _job(
        self, method: str, url: str, body: bytes | None = None, *, read_timeout_s: float = READ_TIMEOUT_S
    ) -> JobResult:
        response = await self.http.request(method, url, body, read_timeout_s=read_timeout_s)
        try:
            return JobResult.from_json(response.json())
        except (ValueError, AttributeError) as error:
            raise self.http.not_understood(method, url, response, error) from error

    def _limited(self, handle: EndpointHandle, operation: str) -> AbstractAsyncContextManager[None]:
        """Return what a request waits in until the platform takes one more of its kind."""
        limit = (self.connection.limits or {}).get(operation)
        if limit is None:
            return contextlib.nullcontext()
        key = (handle.id, operation)
        if key not in self._limiters:
            self._limiters[key] = Limiter(limit)
        return self._limiters[key]
