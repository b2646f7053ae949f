# SPDX-License-Identifier: Apache-2.0
"""Which calls of a lane a worker has begun, for those who are told of calls. No request is made to find out.

The platform says so of jobs that it is asked about, which for a job that waits may be seconds later. Meanwhile: a job
that is sent while a warm worker is idle is begun, and a worker that has ended one begins the oldest that waits. Of the
calls of a job one runs at a time, in their order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .flight import Flight
    from .lane import Submission

__all__ = ["Begun"]

#: Calls that a worker needs less for are over before anybody would see that they run, seconds.
_BRIEF_S: Final = 0.05


class Begun:
    """What is known, or as good as known, of the jobs of one lane. Loop thread.

    Args:
        tell: Tells that a call was begun.
        idle_timeout_s: How long a worker stays that has nothing to do.
        calls_per_worker: How many jobs one runs at once.
    """

    def __init__(self, tell: Callable[[Submission], object], *, idle_timeout_s: float, calls_per_worker: int) -> None:
        self._tell = tell
        self._idle_timeout_s = idle_timeout_s
        self._calls_per_worker = calls_per_worker
        self._warm: dict[str | None, float] = {}  # when a worker ended a job last

    def sent(self, flights: Collection[Flight]) -> None:
        """Note that a job was sent: one of `flights`, which have not ended."""
        if self._warm:
            self._begin_next(flights)

    def ended(self, flight: Flight, flights: Collection[Flight]) -> None:
        """Take a job that its worker has ended; `flights` are those that have not."""
        self._warm[flight.call.worker_id] = time.monotonic()
        self._begin_next(flights)

    def said(self, flight: Flight, is_running: bool) -> None:
        """Take what the platform says of a job."""
        flight.has_begun = is_running
        self.went_on(flight)

    def went_on(self, flight: Flight) -> None:
        """Tell of the call of a job that runs now: the first that has not ended. Any job may be asked about."""
        if flight.has_begun and not _is_brief(flight):
            for submission in flight.open.values():
                self._tell(submission)
                break

    def _begin_next(self, flights: Collection[Flight]) -> None:
        """Let warm workers that have no job begin the oldest of those that wait."""
        since = time.monotonic() - self._idle_timeout_s
        warm = sum(at > since for at in self._warm.values())
        while sum(one.has_begun for one in flights) < warm * self._calls_per_worker:
            waiting = [one for one in flights if not one.has_begun]
            if not waiting:
                return
            flight = min(waiting, key=lambda one: one.began_at)
            flight.has_begun = True
            self.went_on(flight)


def _is_brief(flight: Flight) -> bool:
    return flight.expected_s is not None and flight.expected_s < _BRIEF_S * len(flight.submissions)
