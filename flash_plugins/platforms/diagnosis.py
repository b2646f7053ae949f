# SPDX-License-Identifier: Apache-2.0
"""Why an endpoint takes no work: no capacity, workers that start, that are ill, or that end again and again.

It asks the platform and changes nothing. On Runpod a job whose workers end before they take it waits until its time to
live is over (a day and more), so somebody has to notice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ..errors import FlashPluginsError
from .models import EndpointWorkers, WorkerInfo
from .rest import RestClient

__all__ = ["Cause", "Diagnosis", "Watcher", "diagnose"]

#: Workers in a row that must have ended before they took work until waiting is in vain.
FAILED_STARTS: Final = 3
#: Looks in a row at which all workers must have been ill until waiting is in vain: one may recover.
ILL_LOOKS: Final = 4
#: Lines of a log that are quoted.
_LOG_LINES: Final = 40

_NO_CAPACITY: Final = "allow more types with gpu=[…] or cpu=[…], or more data centers"


class Cause(StrEnum):
    """Kinds of reasons why an endpoint takes no work."""

    NO_CAPACITY = "no capacity"
    STARTING = "starting"
    UNHEALTHY = "unhealthy"
    ENDING = "ending"
    NO_WORKER = "no worker"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why an endpoint takes no work.

    Attributes:
        cause: Which kind of reason it is.
        text: What is wrong and what to do, with the end of a worker's log where that says it.
        is_fatal: Whether waiting is in vain.
    """

    cause: Cause
    text: str
    is_fatal: bool = False


@dataclass(slots=True)
class _Seen:
    """One worker over several looks."""

    info: WorkerInfo
    since: float
    was_ready: bool = False
    log: list[str] = field(default_factory=list)
    has_run: bool = False  # whether its container wrote something; before that the platform itself has words, too


class Watcher:
    """Looks at the workers of one endpoint, several times, and remembers those that came and went. One event loop.

    Args:
        rest: REST v2 of the platform.
        endpoint_id: The endpoint.
        name: Its name, for messages.
    """

    def __init__(self, rest: RestClient, endpoint_id: str, name: str) -> None:
        self._rest = rest
        self._id = endpoint_id
        self._name = name
        self._seen: dict[str, _Seen] = {}
        self._ill_looks = 0

    async def look(self) -> Diagnosis | None:
        """Return why there is no worker that takes work, None where there is one.

        Raises:
            PlatformError: The platform does not say.
        """
        now = await self._rest.workers(self._id)
        self._note(now)
        if any(_is_ready(worker) for worker in now.workers):
            self._seen = {key: seen for key, seen in self._seen.items() if seen.was_ready}
            self._ill_looks = 0
            return None
        await self._read_log(now)
        ill = [worker for worker in now.workers if worker.status == "UNHEALTHY"]
        self._ill_looks = self._ill_looks + 1 if ill and len(ill) == len(now.workers) else 0
        listed = {worker.id for worker in now.workers}
        ended = [seen for key, seen in self._seen.items() if key not in listed and _failed(seen)]
        if len(ended) + len(ill) >= FAILED_STARTS or (ended and not now.workers):
            return self._crashing(ended, ill)
        if ill:
            return self._unhealthy(ill)
        return await self._waiting(now)

    def _note(self, now: EndpointWorkers) -> None:
        for worker in now.workers:
            seen = self._seen.setdefault(worker.id, _Seen(worker, time.monotonic()))
            seen.info = worker
            seen.was_ready = seen.was_ready or _is_ready(worker)

    async def _read_log(self, now: EndpointWorkers) -> None:
        """Keep the end of the log of the worker that may tell most: it is gone with its worker."""
        telling = [worker for worker in now.workers if worker.status in ("UNHEALTHY", "INITIALIZING")]
        for worker in sorted(telling, key=lambda worker: (worker.status != "UNHEALTHY", -self._seen[worker.id].since)):
            try:
                lines = await self._rest.log_tail(self._id, worker.id, lines=_LOG_LINES)
            except FlashPluginsError:
                continue  # it ended meanwhile, or has no log yet; without one the diagnosis is only shorter
            seen = self._seen[worker.id]
            seen.log = [line.line for line in lines]
            seen.has_run = seen.has_run or any(line.source != "system" for line in lines)
            return

    def _crashing(self, ended: Sequence[_Seen], ill: Sequence[WorkerInfo]) -> Diagnosis:
        failed = [*ended, *(self._seen[worker.id] for worker in ill)]
        ids = ", ".join(seen.info.id for seen in failed)
        told = max(reversed(failed), key=lambda seen: (seen.has_run, bool(seen.log)))
        # Where nothing of ours ran they may as well have been moved for want of capacity.
        is_fatal = len(failed) >= FAILED_STARTS and told.has_run
        text = f"its workers end before they take a first job ({ids}){_log_text(told)}"
        return Diagnosis(Cause.ENDING, text, is_fatal)

    def _unhealthy(self, ill: Sequence[WorkerInfo]) -> Diagnosis:
        told = next((self._seen[worker.id] for worker in ill if self._seen[worker.id].log), None)
        ids = ", ".join(worker.id for worker in ill)
        are = "worker is" if len(ill) == 1 else "workers are"
        text = f"{len(ill)} {are} unhealthy ({ids}){_log_text(told)}"
        return Diagnosis(Cause.UNHEALTHY, text, is_fatal=self._ill_looks >= ILL_LOOKS)

    async def _waiting(self, now: EndpointWorkers) -> Diagnosis:
        count = now.summary
        if count.throttled and count.initializing == 0:
            waits = "1 worker waits" if count.throttled == 1 else f"{count.throttled} workers wait"
            return Diagnosis(Cause.NO_CAPACITY, f"{waits} for capacity, no machine of the kind is free: {_NO_CAPACITY}")
        starting = [self._seen[worker.id] for worker in now.workers if worker.status == "INITIALIZING"]
        if starting:
            longest_s = max(max(seen.info.uptime_s or 0, time.monotonic() - seen.since) for seen in starting)
            last = next((seen.log[-1] for seen in starting if seen.log), None)
            are = "1 worker starts" if len(starting) == 1 else f"{len(starting)} workers start"
            words = "" if last is None else f"; the last line of its log: {last.strip()}"
            return Diagnosis(
                Cause.STARTING, f"{are} since {longest_s:.0f} s: a large image or many dependencies take minutes{words}"
            )
        return Diagnosis(Cause.NO_WORKER, await self._why_none())

    async def _why_none(self) -> str:
        endpoint = await self._rest.endpoint(self._id)
        if endpoint.workers_max == 0:
            return (
                "workers.max is 0, so no worker may start: Runpod lowers it to 0 when an endpoint was idle for a week; "
                "allow workers with workers=…"
            )
        return (
            f"it has no worker: one is about to start, or none can be had ({_NO_CAPACITY}), or the account's limit of "
            "workers in all is reached (5, more with a higher balance)"
        )


async def diagnose(rest: RestClient, endpoint_id: str, name: str = "") -> str | None:
    """Return why an endpoint takes no work, as one look at it tells; None where a worker takes some.

    Raises:
        PlatformError: The platform does not say.
    """
    found = await Watcher(rest, endpoint_id, name or endpoint_id).look()
    return None if found is None else found.text


def _is_ready(worker: WorkerInfo) -> bool:
    return worker.status in ("RUNNING", "IDLE")


def _failed(seen: _Seen) -> bool:
    """Whether a worker that is gone never took work, and was not taken away for a newer configuration."""
    return not seen.was_ready and not seen.info.is_stale and seen.info.status in ("INITIALIZING", "UNHEALTHY")


def _log_text(seen: _Seen | None) -> str:
    if seen is None or not seen.log:
        return "; no log of them could be read"
    return f"; the log of {seen.info.id} ends with:\n" + "\n".join(seen.log)
