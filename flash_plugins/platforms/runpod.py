# SPDX-License-Identifier: Apache-2.0
"""The one HTTP client: REST v2 for endpoints, the job API for calls. It decides nothing about retries of calls.

The cloud and the local platform speak the same HTTP, so what meets production runs in every test. Importing
this module imports httpx and aiohttp (half a second on a slow machine): do it off the user's thread.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlsplit

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from ..config import EndpointConfig
from ..errors import ApiError, AuthenticationError, ConfigError, NotFoundError, PlatformError
from ..hardware import ServerlessScalerType, cpu_flavors, gpu_pools
from ..job import JobResult, JobStatus
from . import api
from .base import Connection
from .limits import Limiter
from .resolver import LastingResolver

__all__ = ["EndpointHandle", "RateLimited", "RunpodClient", "TransportFailure", "endpoint_body"]

#: Seconds to connect and to wait for an answer that is not held.
_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0
#: Seconds more than the platform's own hold before a held request counts as dead.
_HOLD_SLACK_S = 30.0
#: Longest hold of `/stream` we wait for; Runpod's official 2.0 client allows 90 s.
_STREAM_HOLD_S = 90.0
#: Seconds an idle connection is kept; servers keep theirs longer, so that no request meets a closing one.
_KEEPALIVE_S = 15.0
#: Larger bodies are sent in slices of this size, so that writing one does not hold up the loop.
_SLICE_BYTES = 262_144


class TransportFailure(PlatformError, ConnectionError):
    """No answer came.

    Attributes:
        was_sent: Whether the request may have reached the platform; False means surely not.
    """

    def __init__(self, message: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class RateLimited(ApiError):
    """The platform wants fewer requests (429); nothing was accepted.

    Attributes:
        retry_after_s: Seconds it asks to wait, 1.0 if it named none.
    """

    def __init__(self, message: str, *, detail: str | None, retry_after_s: float) -> None:
        super().__init__(message, status=429, detail=detail)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class EndpointHandle:
    """An endpoint that exists: its id and the URLs it answers on."""

    id: str
    name: str
    urls: Mapping[str, str]

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
        self._limiters: dict[tuple[str, str], Limiter] = {}
        self._resolver = LastingResolver()
        self._is_closed = False
        self._headers = [
            ("Authorization", f"Bearer {connection.key}"),
            ("Content-Type", "application/json"),
            ("User-Agent", "flash-plugins"),
        ]
        # httpx's transport interface rather than its client: what the client adds (cookies, redirects, auth
        # flows, environment proxies) is of no use here and takes 0.4 ms of every call, half of the sending side.
        is_tls = connection.api_base.startswith("https")
        self._max_connections, self._uses_proxies = max_connections, is_tls
        self._transport = AiohttpTransport(verify=is_tls, client=self._session)

    async def aclose(self) -> None:
        """Close all connections; whoever still asks is told that nothing was sent."""
        self._is_closed = True
        await self._transport.aclose()
        await self._resolver.close()

    async def ensure_endpoint(self, config: EndpointConfig, env: Mapping[str, str]) -> EndpointHandle:
        """Return the endpoint of this name, created or brought up to date as needed.

        Args:
            config: What it should be.
            env: Environment that the package itself adds to `config.env`.

        Raises:
            ConfigError: An endpoint of that name exists and cannot become this one.
            ApiError: The platform refused.
        """
        connection = self.connection
        body = endpoint_body(config, env, connection.worker_command, queue_delay_s=connection.queue_delay_s)
        listed = await self._json("GET", self._rest(api.SERVERLESS_PATH))
        found = next((e for e in listed.get("endpoints") or () if e.get("name") == body["name"]), None)
        if found is None:
            return self._handle(await self._json("POST", self._rest(api.SERVERLESS_PATH), body))
        _refuse_impossible_change(found, body)
        changes = _changes(found, body)
        if changes:
            found = await self._json("PATCH", self._rest(f"{api.SERVERLESS_PATH}/{found['id']}"), changes)
        return self._handle(found)

    async def delete_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint; its workers end and its jobs are cancelled."""
        await self._request("DELETE", self._rest(f"{api.SERVERLESS_PATH}/{quote(endpoint_id, safe='')}"))

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
            response = await self._request("GET", url, read_timeout_s=_STREAM_HOLD_S + _HOLD_SLACK_S)
        try:
            answer = response.json()
            chunks = [entry.get("output") for entry in answer.get("stream") or ()]
            return JobStatus.parse(answer.get("status")), chunks
        except (ValueError, AttributeError) as error:
            raise self._not_understood("GET", url, response, error) from error

    async def cancel(self, handle: EndpointHandle, job_id: str) -> JobResult:
        """Cancel a job, queued or running."""
        async with self._limited(handle, "cancel"):
            return await self._job("POST", handle.url("cancel", job_id))

    async def health(self, handle: EndpointHandle) -> Mapping[str, Mapping[str, int]]:
        """Return the endpoint's job and worker counts."""
        return await self._json("GET", handle.url("health"))

    def _handle(self, answer: Mapping[str, Any]) -> EndpointHandle:
        try:
            urls = {str(name): self._rebased(str(url)) for name, url in answer["requestUrls"].items()}
            return EndpointHandle(id=str(answer["id"]), name=str(answer["name"]), urls=urls)
        except (KeyError, TypeError, AttributeError) as error:
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
        self, method: str, url: str, body: bytes | None = None, *, read_timeout_s: float = _READ_TIMEOUT_S
    ) -> JobResult:
        response = await self._request(method, url, body, read_timeout_s=read_timeout_s)
        try:
            return JobResult.from_json(response.json())
        except (ValueError, AttributeError) as error:
            raise self._not_understood(method, url, response, error) from error

    async def _json(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | None = None,
        *,
        read_timeout_s: float = _READ_TIMEOUT_S,
    ) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        response = await self._request(method, url, content, read_timeout_s=read_timeout_s)
        try:
            answer = response.json()
        except ValueError as error:
            raise self._not_understood(method, url, response, error) from error
        if not isinstance(answer, dict):
            raise self._not_understood(method, url, response, None)
        return answer

    def _not_understood(self, method: str, url: str, response: httpx.Response, error: Exception | None) -> ApiError:
        words = _without(self.connection.key, response.text)
        return ApiError(
            f"the answer to {method} {_public(url)} is not what Runpod's description says "
            f"({error or 'not an object'}): {words[:200]!r}",
            status=response.status_code,
        )

    async def _request(
        self, method: str, url: str, content: bytes | None = None, *, read_timeout_s: float = _READ_TIMEOUT_S
    ) -> httpx.Response:
        if self._is_closed:
            raise TransportFailure(f"{method} {_public(url)}: the connection is closed", was_sent=False)
        timeout = {"connect": _CONNECT_TIMEOUT_S, "read": read_timeout_s, "write": read_timeout_s, "pool": None}
        headers, body = self._headers, cast("bytes | AsyncIterator[bytes] | None", content)
        if content is not None and len(content) > _SLICE_BYTES:
            headers, body = [*headers, ("Content-Length", str(len(content)))], _slices(content)
        request = httpx.Request(method, _parsed(url), headers=headers, content=body, extensions={"timeout": timeout})
        try:
            response = await self._transport.handle_async_request(request)
            await response.aread()
        except httpx.TransportError as error:
            # httpx-aiohttp maps a broken connection to ConnectTimeout: only aiohttp's own class tells
            # "never connected" (safe to repeat) from "connection lost" (not safe).
            was_sent = not isinstance(error.__cause__, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
            raise TransportFailure(
                f"{method} {_public(url)} got no answer: {type(error.__cause__ or error).__name__}: {error}",
                was_sent=was_sent,
            ) from error
        if response.status_code >= 400:
            raise _refusal(method, url, response, self.connection)
        return response

    def _limited(self, handle: EndpointHandle, operation: str) -> AbstractAsyncContextManager[None]:
        """Return what a request waits in until the platform takes one more of its kind."""
        limit = (self.connection.limits or {}).get(operation)
        if limit is None:
            return contextlib.nullcontext()
        key = (handle.id, operation)
        if key not in self._limiters:
            self._limiters[key] = Limiter(limit)
        return self._limiters[key]

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._max_connections, keepalive_timeout=_KEEPALIVE_S, resolver=self._resolver
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._uses_proxies,  # of the environment; on loopback there are none, and looking costs 0.2 ms
        )


async def _slices(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _SLICE_BYTES):
        yield content[start : start + _SLICE_BYTES]


#: Parsing a URL takes 0.15 ms; most requests go to a few.
_parsed = functools.lru_cache(maxsize=256)(httpx.URL)


def endpoint_body(
    config: EndpointConfig, env: Mapping[str, str], worker_command: str, *, queue_delay_s: float | None = None
) -> dict[str, Any]:
    """Return the REST v2 body that creates this endpoint. Every setting is explicit: defaults may move.

    Args:
        config: What the endpoint should be.
        env: Environment that the package itself adds.
        worker_command: Command line that starts a worker.
        queue_delay_s: The platform's own delay for an endpoint whose scaling was left open.
    """
    by_count = config.scaler_type is ServerlessScalerType.REQUEST_COUNT
    workers: dict[str, int] = {"min": config.workers[0], "max": config.workers[1]}
    if by_count:
        scaling: dict[str, Any] = {"type": "REQUEST_COUNT", "requestCount": int(config.scaler_value)}
    else:
        is_open = config.has_default_scaling and queue_delay_s is not None
        scaling = {"type": "QUEUE_DELAY", "queueDelay": queue_delay_s if is_open else config.scaler_value}
        workers["idleTimeout"] = config.idle_timeout  # refused by REST v2 with REQUEST_COUNT
    body: dict[str, Any] = {
        "name": config.name,
        "type": "QUEUE",
        "scaling": scaling,
        "image": f"python:{env[api.PYTHON_ENV]}-slim" if config.cpu else _GPU_IMAGE,
        "args": worker_command,
        "env": {**config.env, **env, api.MAX_CONCURRENCY_ENV: str(config.max_concurrency)},
        "workers": workers,
        "timeout": config.execution_timeout_ms or api.NO_EXECUTION_LIMIT_MS,
        "flashboot": "FLASHBOOT" if config.flashboot else "OFF",
        "dataCenterIds": [str(center.value) for center in config.datacenter],
    }
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


def _changes(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the smallest PATCH that makes `found` what is wanted."""
    changes: dict[str, Any] = {}
    for field, value in wanted.items():
        if field in ("name", "type"):
            continue
        present = found.get(field)
        if field == "env":  # as a whole: a variable that is no longer wanted must go
            if dict(present or {}) != value:
                changes[field] = value
        elif isinstance(value, dict) and isinstance(present, Mapping):
            is_wider = field == "gpu" and bool(present.get("excludedTypes")) and "excludedTypes" not in value
            if is_wider or any(present.get(key) != entry for key, entry in value.items()):
                changes[field] = value
        elif field == "cpu" and isinstance(present, list):
            if [{key: entry.get(key) for key in ("id", "vcpuCount")} for entry in present] != value:
                changes[field] = value
        elif present != value:
            changes[field] = value
    return changes


def _refuse_impossible_change(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for what, present, asked in (
        ("type", found.get("type", "QUEUE"), wanted["type"]),
        ("kind of hardware", "CPU" if found.get("cpu") else "GPU", "CPU" if "cpu" in wanted else "GPU"),
    ):
        if present != asked:
            raise ConfigError(
                f"an endpoint named {wanted['name']!r} exists with {what} {present}, and {asked} is asked for, which "
                "the platform cannot change; use another name, or delete that endpoint first"
            )


def _refusal(method: str, url: str, response: httpx.Response, connection: Connection) -> PlatformError:
    detail = _detail(response, connection.key)
    said = f"{method} {_public(url)} was answered with {response.status_code}: {detail or response.reason_phrase}"
    match response.status_code:
        case 401 | 403:
            return AuthenticationError(said if connection.key_advice is None else f"{said}; {connection.key_advice}")
        case 404:
            return NotFoundError(said, status=404, detail=detail)
        case 429:
            return RateLimited(said, detail=detail, retry_after_s=_retry_after_s(response))
        case status:
            return ApiError(said, status=status, detail=detail)


def _detail(response: httpx.Response, key: str) -> str | None:
    try:
        answer = response.json()
    except ValueError:
        return _without(key, response.text)[:500] or None
    if not isinstance(answer, Mapping):
        return _without(key, str(answer))[:500]
    words = [str(answer[key]) for key in ("title", "detail", "error", "message") if answer.get(key)]
    words += [str(entry) for entry in answer.get("errors") or ()]
    return _without(key, "; ".join(words))[:2000] or None


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("Retry-After", "1")))
    except ValueError:  # an HTTP date: rare, and a second is a fair guess
        return 1.0


def _without(key: str, text: str) -> str:
    """Return the platform's words without the key, which some servers repeat in their errors."""
    return text.replace(key, "[key]") if key else text


def _public(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
