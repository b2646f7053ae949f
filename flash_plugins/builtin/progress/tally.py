# SPDX-License-Identifier: Apache-2.0
"""Counts of one stretch of work, from what is told of its calls. It looks at no clock and shows nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from ...hooks import CallEvent, CallStage
from ...work import Work

__all__ = ["Snapshot", "Tally"]

_QUEUED: Final = CallStage.QUEUED
_SENT: Final = CallStage.SENT
_STARTED: Final = CallStage.STARTED
_RETURNED: Final = CallStage.RETURNED
_FAILED: Final = CallStage.FAILED
_CANCELLED: Final = CallStage.CANCELLED

#: Seconds that the rate is measured over, and between two of its marks: what was long ago says little about the rest.
_RATE_S: Final = 30.0
_MARK_EVERY_S: Final = 0.5
#: Seconds of work before there is a rate.
_LEAST_RATE_S: Final = 0.05
#: Names that are shown of work that is under way at once.
_MOST_LABELS: Final = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far a stretch of work is. Counts are tasks; a call on its own is one.

    Attributes:
        labels: Names of the work that is under way, or of all of it once it is done.
        unit: `tasks`, or `calls` where nothing else is known of them.
        done: That have ended, however.
        total: As far as known; more than `done` and `running` wait.
        is_open: Whether more may come.
        running: Calls that a worker has begun, as far as known: of the tasks of one, one runs at a time.
        failed: Of those done.
        cancelled: Of those done.
        starting: Endpoints that have calls and, as far as known, no worker yet.
        workers: That have ended a call.
        rate: Ended per second lately, None while nothing has.
        left_s: Seconds until all are done at that rate, None while that is unknown.
        seconds: Since the first call.
    """

    labels: tuple[str, ...] = ()
    unit: str = "calls"
    done: int = 0
    total: int = 0
    is_open: bool = False
    running: int = 0
    failed: int = 0
    cancelled: int = 0
    starting: tuple[str, ...] = ()
    workers: int = 0
    rate: float | None = None
    left_s: float | None = None
    seconds: float = 0.0


class _Part:
    """One work, or the calls of one endpoint that are part of none."""

    __slots__ = ("ended", "label", "seen", "work")

    def __init__(self, label: str, work: Work | None) -> None:
        self.label = label
        self.work = work
        self.seen = 0
        self.ended = 0

    @property
    def is_open(self) -> bool:
        """Whether nobody knows how many tasks it will have."""
        return self.work is not None and self.work.total is None and not self.work.is_complete

    @property
    def total(self) -> int:
        if self.work is None or self.work.total is None or self.work.is_complete:
            return self.seen
        return max(self.seen, self.work.total)


class _Endpoint:
    __slots__ = ("has_worker", "open")

    def __init__(self) -> None:
        self.open = 0
        self.has_worker = False


class Tally:
    """Counts calls; the caller sees to it that one thread at a time does.

    Args:
        began_at: When the first call was made, as all times in seconds of one clock.

    Attributes:
        idle_since: When the last call that was open ended.
    """

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.idle_since = began_at
        self._open: dict[int, tuple[int, _Part, _Endpoint]] = {}  # by call, with its tasks
        self._running: set[int] = set()
        self._parts: dict[Work | str, _Part] = {}
        self._endpoints: dict[str, _Endpoint] = {}
        self._workers: set[str] = set()
        self._ended = self._failed = self._cancelled = 0
        self._working_since: float | None = None  # when a worker began
        self._rated_since: float | None = None  # the same, of the work that the rate is of, and what had ended before
        self._ended_before = 0
        self._marks: deque[tuple[float, int]] = deque()  # times, and how many had ended by then
        self._ended_at = began_at

    @property
    def has_calls(self) -> bool:
        """Whether a call is not done."""
        return bool(self._open)

    def note(self, event: CallEvent, now: float) -> None:
        """Count what was told of a call."""
        stage = event.stage
        if stage is _QUEUED:
            self._note_queued(event, now)
        elif stage is _SENT:
            return
        elif stage is _STARTED:
            self._note_started(event, now)
        elif stage is _RETURNED:
            self._running.discard(event.call_id)
        else:
            self._note_end(event, now)

    def _note_queued(self, event: CallEvent, now: float) -> None:
        key = event.work or event.endpoint
        if (part := self._parts.get(key)) is None:
            label = event.endpoint if event.work is None else event.work.label
            part = self._parts[key] = _Part(label, event.work)
            if not self._open and self._working_since is not None:  # other work, which takes other times
                self._rated_since, self._ended_before = now, self._ended
                self._marks.clear()
        if (endpoint := self._endpoints.get(event.endpoint)) is None:
            endpoint = self._endpoints[event.endpoint] = _Endpoint()
        part.seen += event.tasks
        endpoint.open += 1
        self._open[event.call_id] = (event.tasks, part, endpoint)

    def _note_started(self, event: CallEvent, now: float) -> None:
        if (known := self._open.get(event.call_id)) is None:
            return
        endpoint = known[2]
        self._running.add(event.call_id)
        endpoint.has_worker = True
        if self._working_since is None:
            self._working_since = self._rated_since = now

    def _note_end(self, event: CallEvent, now: float) -> None:
        if (known := self._open.pop(event.call_id, None)) is None:
            return  # of a stretch before this one
        tasks, part, endpoint = known
        if self._running:
            self._running.discard(event.call_id)
        endpoint.open -= 1
        part.ended += tasks
        self._ended += tasks
        if event.stage is _FAILED:
            self._failed += tasks
        elif event.stage is _CANCELLED:
            self._cancelled += tasks
        if event.worker_id is not None:
            self._workers.add(event.worker_id)
            endpoint.has_worker = True
        if self._working_since is None:
            self._working_since = self._rated_since = max(self.began_at, now - (event.seconds or 0.0))
        if not self._marks or now - self._marks[-1][0] >= _MARK_EVERY_S:
            self._marks.append((now, self._ended))
        self._ended_at = now
        if not self._open:
            self.idle_since = now

    def snapshot(self, now: float) -> Snapshot:
        """Return how far the work is."""
        parts = self._parts.values()
        total = sum(part.total for part in parts)
        is_open = any(part.is_open for part in parts)
        under_way = [part for part in parts if part.is_open or part.ended < part.total] or list(parts)
        rate = self._rate()
        return Snapshot(
            labels=_labels(under_way),
            unit="tasks" if any(part.work is not None for part in parts) else "calls",
            done=self._ended,
            total=total,
            is_open=is_open,
            running=len(self._running),
            failed=self._failed,
            cancelled=self._cancelled,
            starting=tuple(name for name, one in self._endpoints.items() if one.open and not one.has_worker),
            workers=len(self._workers),
            rate=rate,
            left_s=None if is_open else self._left_s(total - self._ended, rate, now),
            seconds=(now if self._open else self.idle_since) - self.began_at,
        )

    def _rate(self) -> float | None:
        """Return how many ended per second: lately, of the work under way; of all, once all calls have ended."""
        if self._working_since is None or self._rated_since is None:
            return None
        since, before = self._working_since, 0
        if self._open:
            since, before = self._rated_since, self._ended_before
            while len(self._marks) > 1 and self._ended_at - self._marks[0][0] > _RATE_S:
                self._marks.popleft()
            if self._marks and self._ended_at - self._marks[0][0] >= _RATE_S / 2:
                since, before = self._marks[0]
        seconds = self._ended_at - since
        return None if seconds < _LEAST_RATE_S or self._ended <= before else (self._ended - before) / seconds

    def _left_s(self, left: int, rate: float | None, now: float) -> float | None:
        if rate is None or left <= 0 or not self._open:
            return None
        left_s = left / rate - (now - self._ended_at)
        if left_s <= 0.0 and self._rated_since is not None:  # slower than before
            left_s = left * (now - self._rated_since) / (self._ended - self._ended_before)
        return left_s


def _labels(parts: list[_Part]) -> tuple[str, ...]:
    labels = list(dict.fromkeys(part.label for part in parts))
    return tuple(labels if len(labels) <= _MOST_LABELS else [*labels[:_MOST_LABELS], "…"])
