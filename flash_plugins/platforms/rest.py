# SPDX-License-Identifier: Apache-2.0
"""Runpod's REST v2 with types: endpoints, workers, logs, volumes, templates, the catalog. It decides nothing.

What may be repeated is repeated: reading, changing and deleting after a lost connection, 502, 503 or 504, and anything
that was surely not taken (never sent, or 429). A POST that may have arrived never is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

from ..errors import ApiError, NotFoundError, PlatformUnavailable
from . import api
from .answer import Answer, Sent
from .http import HttpClient, RateLimited, TransportFailure
from .models import (
    CpuInfo,
    EndpointInfo,
    EndpointWorkers,
    GpuInfo,
    LogLine,
    Rollout,
    TemplateInfo,
    VolumeInfo,
)
from .quota import Quota

__all__ = ["RestClient"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: How often a request is sent at most, the first pause between two tries, and the longest, seconds.
MAX_TRIES: Final = 5
FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S: Final = 30.0
#: Seconds after which no further try begins: where the platform does not answer, and where it wants fewer requests.
_TRY_FOR_S: Final = 60.0
RATE_PATIENCE_S: Final = 600.0
#: Answers of proxies and of a service that starts or is too busy: they may be different a moment later.
_PASSING: Final = frozenset({502, 503, 504})
#: Longer pauses than this are said, seconds.
_QUIET_PAUSE_S: Final = 5.0
#: Most pages of one list: no account has as much, and a service that repeats itself must not hold us for ever.
_MAX_PAGES: Final = 1_000
#: A stream of log lines that ended sooner than this, with nothing new, is over rather than cut.
_STREAM_LIVES_S: Final = 5.0
#: Seconds that the first line of a log may take: Runpod's come from another continent.
FIRST_LINE_S = 3.0
#: Longest silence of a stream of log lines, seconds: heartbeats come more often.
_SILENCE_S: Final = 120.0


class RestClient:
    """Requests to REST v2 of one platform. Used from one event loop only.

    Every method raises:
        TransportFailure: No answer came, several times; a `PlatformUnavailable`.
        PlatformUnavailable: Fewer requests are wanted, for longer than ten minutes.
        AuthenticationError: The key is missing, wrong, or may not do this.
        NotFoundError: There is no such thing.
        ApiError: Any other refusal.

    Args:
        http: Sends the requests.
        lost: Returns why the platform is gone, None while it lives or cannot tell: nothing is repeated then.
    """

    def __init__(self, http: HttpClient, *, lost: Callable[[], str | None] = lambda: None) -> None:
        self._http = http
        self._lost = lost
        self._quota = Quota()

    @property
    def base(self) -> str:
        """Base URL of the platform, without `/v2`."""
        return self._http.connection.api_base

    # -- serverless endpoints -------------------------------------------------------------------------------

    async def endpoints(self) -> list[EndpointInfo]:
        """Return all endpoints of the account."""
        return await self._listed(api.SERVERLESS_PATH, "endpoints", EndpointInfo.parse)

    async def endpoint(self, endpoint_id: str) -> EndpointInfo:
        """Return one endpoint."""
        return await self._one("GET", _endpoint(endpoint_id), EndpointInfo.parse)

    async def create_endpoint(self, body: Mapping[str, Any]) -> EndpointInfo:
        """Create an endpoint.

        Raises:
            TransportFailure: No answer came; where `was_sent`, it may exist.
        """
        return await self._one("POST", api.SERVERLESS_PATH, EndpointInfo.parse, body)

    async def update_endpoint(self, endpoint_id: str, patch: Mapping[str, Any]) -> EndpointInfo:
        """Change the given fields of an endpoint; returns what it is then."""
        return await self._one("PATCH", _endpoint(endpoint_id), EndpointInfo.parse, patch)

    async def delete_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint; its workers end and its jobs are cancelled."""
        await self._sent("DELETE", _endpoint(endpoint_id))

    async def workers(self, endpoint_id: str) -> EndpointWorkers:
        """Return the workers of an endpoint."""
        return await self._one("GET", f"{_endpoint(endpoint_id)}/workers", EndpointWorkers.parse)

    async def releases(self, endpoint_id: str) -> Rollout:
        """Return how far the newest configuration of an endpoint is rolled out, and its releases."""
        return await self._one("GET", f"{_endpoint(endpoint_id)}/releases", Rollout.parse)

    async def logs(
        self, endpoint_id: str, worker_id: str, *, source: str | None = None, tail: int = 100, since: str | None = None
    ) -> AsyncGenerator[LogLine]:
        """Yield the lines of a worker's log: what is there, then what comes, until the worker is gone.

        Goes on where it was when the connection breaks.

        Args:
            endpoint_id: The endpoint.
            worker_id: One of its workers.
            source: `container` or `system`; None for both.
            tail: Lines to begin with, 0 to 5000.
            since: RFC 3339 time to begin at.
        """
        given = {"source": source, "tail": str(tail), "since": since}
        path = f"{_endpoint(endpoint_id)}/workers/{quote(worker_id, safe='')}/logs"
        url = f"{self._url(path)}?{urlencode({key: value for key, value in given.items() if value is not None})}"
        last_id, failures = None, 0
        while True:
            headers = {"Accept": "text/event-stream"} | ({} if last_id is None else {"Last-Event-ID": last_id})
            began_at, has_news = time.monotonic(), False
            try:
                await self._quota.turn()
                stream = self._http.lines(url, headers, read_timeout_s=_SILENCE_S)
                async with stream as lines, contextlib.aclosing(_events(lines)) as events:
                    async for event in events:
                        if event.id is None or event.id != last_id:
                            last_id, failures, has_news = event.id or last_id, 0, True
                            yield event
            except NotFoundError:
                if last_id is None:
                    raise
                return  # its worker is gone
            except (TransportFailure, RateLimited) as error:
                failures = failures + 1 if time.monotonic() - began_at < _SILENCE_S else 1
                if failures >= MAX_TRIES or self._lost() is not None:
                    raise
                asked_s = error.retry_after_s if isinstance(error, RateLimited) else 0.0
                await asyncio.sleep(max(asked_s, _pause_s(failures)))
            else:
                if not has_news and time.monotonic() - began_at < _STREAM_LIVES_S:
                    return

    async def log_tail(
        self, endpoint_id: str, worker_id: str, *, lines: int = 50, since: str | None = None, quiet_s: float = 1.0
    ) -> list[LogLine]:
        """Return the last lines of a worker's log. It has no end while the worker lives: a pause stands for it.

        Args:
            endpoint_id: The endpoint.
            worker_id: One of its workers.
            lines: Most lines, 1 to 5000.
            since: RFC 3339 time to begin at.
            quiet_s: Seconds without a further line after which it counts as read; the first may take longer.
        """
        found: list[LogLine] = []
        async with contextlib.aclosing(self.logs(endpoint_id, worker_id, tail=lines, since=since)) as log:
            with contextlib.suppress(TimeoutError, StopAsyncIteration):
                while len(found) < lines:
                    async with asyncio.timeout(quiet_s if found else max(quiet_s, FIRST_LINE_S)):
                        found.append(await anext(log))
        return found

    # -- volumes, templates, catalog ------------------------------------------------------------------------

    async def volumes(self) -> list[VolumeInfo]:
        """Return all network volumes of the account."""
        return await self._listed(api.VOLUMES_PATH, "networkVolumes", VolumeInfo.parse)

    async def volume(self, volume_id: str) -> VolumeInfo:
        """Return one network volume."""
        return await self._one("GET", f"{api.VOLUMES_PATH}/{quote(volume_id, safe='')}", VolumeInfo.parse)

    async def create_volume(self, *, name: str, size_gb: int, data_center: str) -> VolumeInfo:
        """Create a network volume; raises as `create_endpoint` does."""
        body = {"name": name, "size": size_gb, "dataCenter": data_center}
        return await self._one("POST", api.VOLUMES_PATH, VolumeInfo.parse, body)

    async def delete_volume(self, volume_id: str) -> None:
        """Delete a network volume with all that is on it."""
        await self._sent("DELETE", f"{api.VOLUMES_PATH}/{quote(volume_id, safe='')}")

    async def template(self, template_id: str) -> TemplateInfo:
        """Return one template, of the account or public."""
        return await self._one("GET", f"{api.TEMPLATES_PATH}/{quote(template_id, safe='')}", TemplateInfo.parse)

    async def gpus(self) -> list[GpuInfo]:
        """Return the GPU types of the catalog with their prices."""
        return await self._listed(f"{api.CATALOG_PATH}/gpus", "gpus", GpuInfo.parse)

    async def cpus(self) -> list[CpuInfo]:
        """Return the CPU flavors of the catalog with their prices."""
        return await self._listed(f"{api.CATALOG_PATH}/cpus", "cpus", CpuInfo.parse)

    # -- sending --------------------------------------------------------------------------------------------

    async def _listed(self, path: str, name: str, parse: Callable[[Mapping[str, Any]], T]) -> list[T]:
        """Return a list, all pages of it: the description has one page, and Runpod's own client expects more."""
        found: list[T] = []
        cursor, seen = None, set[str]()
        for _ in range(_MAX_PAGES):
            page_path = path if cursor is None else f"{path}?{urlencode({'cursor': cursor})}"

            def page(answer: Mapping[str, Any]) -> tuple[list[T], object]:
                more = answer.get("pagination") or {}
                return [parse(entry) for entry in answer[name]], more.get("hasNextPage") and more.get("nextCursor")

            entries, following = await self._one("GET", page_path, page)
            found += entries
            if not following or str(following) in seen:
                break
            cursor = str(following)
            seen.add(cursor)
        return found

    async def _one(
        self, method: str, path: str, parse: Callable[[Mapping[str, Any]], T], body: Mapping[str, Any] | None = None
    ) -> T:
        response = await self._sent(method, path, body)
        try:
            return parse(response.json())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._http.not_understood(method, self._url(path), response, error) from error

    async def _sent(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Send a request, again where that is safe, and return its answer."""
        content = None if body is None else json.dumps(body).encode()
        began_at, tries, is_repeated = time.monotonic(), 0, False
        failure: TransportFailure | ApiError
        while True:
            await self._quota.turn()
            try:
                response = await self._http.accepted(method, self._url(path), content)
            except RateLimited as error:
                is_limit, failure, pause_s = True, error, max(error.retry_after_s, _pause_s(tries + 1))
            except NotFoundError as error:
                if method == "DELETE" and is_repeated:
                    return Answer(
                        Sent(method, self._url(path), ()), 204
                    )  # an earlier try did it, and its answer got lost
                raise error
            except (TransportFailure, ApiError) as error:
                if not _is_safe(method, error) or self._lost() is not None:
                    raise
                is_limit, failure, pause_s = False, error, _pause_s(tries + 1)
                is_repeated = True
            else:
                self._quota.note(response.headers.get("RateLimit"))
                return response
            tries += not is_limit
            self._check_patience(failure, began_at, tries, pause_s)
            if pause_s > _QUIET_PAUSE_S:
                logger.warning("%s; it is tried again in %.0f s", failure, pause_s)
            await asyncio.sleep(pause_s)

    def _check_patience(
        self, failure: TransportFailure | ApiError, began_at: float, tries: int, pause_s: float
    ) -> None:
        """Raise where another try would come too late."""
        waited_s = time.monotonic() - began_at + pause_s
        if isinstance(failure, RateLimited):
            if waited_s > RATE_PATIENCE_S:
                raise PlatformUnavailable(
                    f"the platform refuses requests for its rate limit, and {RATE_PATIENCE_S / 60:g} minutes of "
                    f"waiting are not enough; do other programs use the same key? {failure}"
                ) from failure
        elif tries >= MAX_TRIES or waited_s > _TRY_FOR_S:
            raise failure

    def _url(self, path: str) -> str:
        return self._http.connection.api_base + path


def _endpoint(endpoint_id: str) -> str:
    return f"{api.SERVERLESS_PATH}/{quote(endpoint_id, safe='')}"


def _is_safe(method: str, error: TransportFailure | ApiError) -> bool:
    """Whether a request that ended so may be sent again."""
    if isinstance(error, TransportFailure):
        return method != "POST" or not error.was_sent
    return method != "POST" and error.status in _PASSING


def _pause_s(tries: int) -> float:
    """Seconds before the next try after so many: doubling, each a bit different."""
    return min(FIRST_PAUSE_S * 2.0 ** (tries - 1), _MAX_PAUSE_S) * random.uniform(1.0, 1.25)


async def _events(lines: AsyncIterator[str]) -> AsyncGenerator[LogLine]:
    """Decode Server-Sent Events whose data is a log line; comments are heartbeats, anything else is skipped."""
    event_id, parts = None, list[str]()
    async for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            event_id = value
        elif name == "data":
            parts.append(value)
        elif not line and parts:
            with contextlib.suppress(ValueError):
                answer = json.loads("\n".join(parts))
                if isinstance(answer, dict):
                    yield LogLine.parse(answer, event_id)
            parts = []
