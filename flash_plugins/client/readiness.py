# SPDX-License-Identifier: Apache-2.0
"""Waiting for a first worker of a load-balanced endpoint, and finding out why there is none.

A request that is held while workers start cannot be told from one that runs, so it must not be given up and repeated.
A question for the worker's health can: it goes ahead of the first request, and again once the workers may have stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ..errors import DependencyError, FlashPluginsError, NoWorkers
from ..platforms import api

if TYPE_CHECKING:
    import httpx

    from ..platforms.diagnosis import Diagnosis, Watcher
    from ..platforms.runpod import EndpointHandle, RunpodClient

__all__ = ["Readiness", "says_no_worker", "start_error", "start_failure"]

#: Seconds that one question may be held, and between two.
_HOLD_S: Final = 20.0
_PAUSE_S: Final = 0.5
#: Seconds less than its idle timeout that a worker is counted on: clocks and ways differ.
_MARGIN_S: Final = 1.0
#: Seconds without a worker after which it is looked for why, each time.
_LOOK_AFTER_S: Final = 15.0


class Readiness:
    """What is known about the workers of one endpoint. Loop thread."""

    def __init__(self) -> None:
        self._ready_until: dict[str, float] = {}
        self._told: str | None = None

    def note(self, handle: EndpointHandle, idle_timeout_s: float) -> None:
        """A worker has answered just now."""
        self._told = None
        self._ready_until[handle.id] = time.monotonic() + max(idle_timeout_s - _MARGIN_S, 0.0)

    async def wait(
        self,
        client: RunpodClient,
        handle: EndpointHandle,
        idle_timeout_s: float,
        *,
        tell: Callable[[str, str], object],
    ) -> None:
        """Return once there is a worker, at once if one answered lately.

        Args:
            client: Of the platform.
            handle: The endpoint.
            idle_timeout_s: Seconds until an idle worker of it stops.
            tell: Takes a line for the user, and the name of the endpoint.

        Raises:
            NoWorkers: Workers do not start, or none did in time; the message says why, with the worker's log.
            DependencyError: They do not start because something cannot be installed.
            TransportFailure: The platform itself does not answer.
        """
        if time.monotonic() < self._ready_until.get(handle.id, 0.0):
            return
        from ..platforms.diagnosis import Watcher
        from ..platforms.runpod import RequestTimeout

        began_at = looked_at = time.monotonic()
        watcher = Watcher(client.rest, handle.id, handle.name)
        while True:
            with contextlib.suppress(RequestTimeout):  # held, so there is none yet
                response = await client.http.exchange("GET", handle.urls["health"], read_timeout_s=_HOLD_S)
                if (failure := start_failure(response)) is not None:
                    raise start_error(handle, failure)
                if response.status_code == 404 and api.WORKER_ID_HEADER not in response.headers:
                    return  # the endpoint is gone: the request itself will be told
                if response.status_code < 500 and response.status_code != 204 and not says_no_worker(response):
                    self.note(handle, idle_timeout_s)
                    return
            now = time.monotonic()
            if now - looked_at > _LOOK_AFTER_S or now - began_at > api.WORKER_INIT_TIMEOUT_S:
                looked_at = now
                found = await _look(watcher)
                if found.is_fatal or now - began_at > api.WORKER_INIT_TIMEOUT_S:
                    raise NoWorkers(
                        f"endpoint {handle.name!r} has no worker after {now - began_at:.0f} s: {found.text}"
                    )
                if self._told != found.cause:  # several requests may wait for the same
                    self._told = found.cause
                    tell(f"requests of endpoint {handle.name!r} wait: {found.text}", handle.name)
            await asyncio.sleep(_PAUSE_S)


def says_no_worker(response: httpx.Response) -> bool:
    """Return whether the platform, rather than a worker, answered that there is no worker: nothing has run."""
    if response.status_code < 400 or api.WORKER_ID_HEADER in response.headers:
        return False
    return api.NO_WORKERS_ERROR in response.text[:1000].lower()


def start_failure(response: httpx.Response) -> str | None:
    """Return why workers end before they take requests, where the platform says so in place of an answer."""
    if response.status_code < 500 or api.WORKER_ID_HEADER in response.headers:
        return None
    with contextlib.suppress(ValueError):
        answer: Any = response.json()
        error = answer.get("error") if isinstance(answer, dict) else None
        if isinstance(error, str) and error.startswith(api.WORKER_START_FAILED_PREFIX):
            return error.removeprefix(api.WORKER_START_FAILED_PREFIX)
    return None


def start_error(handle: EndpointHandle, failure: str) -> FlashPluginsError:
    """Return the error for workers that end before they take requests."""
    kind = DependencyError if api.DEPENDENCIES_FAILED_LOG in failure else NoWorkers
    return kind(f"no worker of endpoint {handle.name!r} starts: {failure}")


async def _look(watcher: Watcher) -> Diagnosis:
    """Return why an endpoint has no worker that is ready."""
    from ..platforms.diagnosis import Cause, Diagnosis

    try:
        found = await watcher.look()
    except FlashPluginsError as error:
        return Diagnosis(Cause.NO_WORKER, f"and why could not be found out: {error}")
    return found or Diagnosis(Cause.STARTING, "a worker runs, and does not answer in time")
