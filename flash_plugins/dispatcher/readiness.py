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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..errors import DependencyError, FlashPluginsError, NoWorkers
from ..platforms import api

if TYPE_CHECKING:
    from ..platforms.answer import Answer
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


@dataclass(slots=True)
class _Wait:
    """One wait, which all requests of an endpoint share: each costs questions of a limited number."""

    task: asyncio.Task[None]
    requests: int = 0


class Readiness:
    """What is known about the workers of one endpoint. Loop thread.

    Attributes:
        reason: Why requests wait, None where they do not.
    """

    def __init__(self) -> None:
        self._ready_until: dict[str, float] = {}
        self._told: str | None = None
        self.reason: str | None = None
        self._waits: dict[str, _Wait] = {}

    def note(self, handle: EndpointHandle, idle_timeout_s: float) -> None:
        """A worker has answered just now."""
        self._told = self.reason = None
        self._ready_until[handle.id] = time.monotonic() + max(idle_timeout_s - _MARGIN_S, 0.0)

    def forget(self, handle: EndpointHandle) -> None:
        """The platform says that there is no worker."""
        self._ready_until.pop(handle.id, None)

    async def wait(
        self,
        client: RunpodClient,
        handle: EndpointHandle,
        idle_timeout_s: float,
        *,
        tell: Callable[[str, str], object],
        most_askers: int = 1,
    ) -> None:
        """Return once there is a worker, at once if one answered lately.

        Args:
            client: Of the platform.
            handle: The endpoint.
            idle_timeout_s: Seconds until an idle worker of it stops.
            tell: Takes a line for the user, and the name of the endpoint.
            most_askers: How many of those who wait ask for themselves: as many workers are started as requests wait.

        Raises:
            NoWorkers: Workers do not start, or none did in time; the message says why, with the worker's log.
            DependencyError: They do not start because something cannot be installed.
            TransportFailure: The platform itself does not answer.
        """
        if time.monotonic() < self._ready_until.get(handle.id, 0.0):
            return
        wait = self._waits.get(handle.id)
        if wait is None:
            task = asyncio.ensure_future(self._until_ready(client, handle, idle_timeout_s, tell))
            wait = self._waits[handle.id] = _Wait(task)
        wait.requests += 1
        asking = asyncio.ensure_future(_is_ready(client, handle)) if 1 < wait.requests <= most_askers else None
        try:
            await asyncio.shield(wait.task)
        finally:
            wait.requests -= 1
            if asking is not None:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)  # what it says the other one says, too
            if not wait.requests or wait.task.done():
                if self._waits.get(handle.id) is wait:
                    del self._waits[handle.id]
                wait.task.cancel()  # where it goes on, nobody wants to know any more
                await asyncio.wait([wait.task])

    async def _until_ready(
        self, client: RunpodClient, handle: EndpointHandle, idle_timeout_s: float, tell: Callable[[str, str], object]
    ) -> None:
        from ..platforms.diagnosis import Cause, Watcher

        began_at = looked_at = time.monotonic()
        self.reason = "it has no worker yet: one is starting"
        watcher = Watcher(client.rest, handle.id, handle.name)
        while not await _is_ready(client, handle):
            now = time.monotonic()
            if now - looked_at > _LOOK_AFTER_S:
                looked_at = now
                found = await _look(watcher)
                # What starts may pull a large image first, and install a lot: the platform ends what takes too long.
                is_starting = found.cause is Cause.STARTING
                limit_s = api.WORKER_INSTALL_TIMEOUT_S if is_starting else api.WORKER_INIT_TIMEOUT_S
                if found.is_fatal or now - began_at > limit_s:
                    raise NoWorkers(
                        f"endpoint {handle.name!r} has no worker after {now - began_at:.0f} s: {found.text}"
                    )
                self.reason = found.text
                if self._told != found.cause:
                    self._told = found.cause
                    tell(f"requests of endpoint {handle.name!r} wait: {found.text}", handle.name)
            await asyncio.sleep(_PAUSE_S)
        self.note(handle, idle_timeout_s)


async def _is_ready(client: RunpodClient, handle: EndpointHandle) -> bool:
    """Ask once for the health of a worker, for as long as the question may be held."""
    from ..platforms.runpod import RequestTimeout

    try:
        response = await client.http.answer("GET", handle.urls["health"], read_timeout_s=_HOLD_S)
    except RequestTimeout:  # held, so there is none yet
        return False
    if (failure := start_failure(response)) is not None:
        raise start_error(handle, failure)
    if response.status_code == 404 and api.WORKER_ID_HEADER not in response.headers:
        return True  # the endpoint is gone: the request itself will be told
    return response.status_code < 500 and response.status_code != 204 and not says_no_worker(response)


def says_no_worker(response: Answer) -> bool:
    """Return whether the platform, rather than a worker, answered that there is no worker: nothing has run."""
    if response.status_code < 400 or api.WORKER_ID_HEADER in response.headers:
        return False
    return api.NO_WORKERS_ERROR in response.text[:1000].lower()


def start_failure(response: Answer) -> str | None:
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
        async with asyncio.timeout(_HOLD_S):  # it may wait for its turn: a worker that comes must not wait for it
            found = await watcher.look()
    except (FlashPluginsError, TimeoutError) as error:
        reason = str(error) or f"the platform did not say within {_HOLD_S:g} s"
        return Diagnosis(Cause.NO_WORKER, f"and why could not be found out: {reason}")
    return found or Diagnosis(Cause.UNHEALTHY, "a worker runs, and does not answer in time")
