# SPDX-License-Identifier: Apache-2.0
"""Which jobs of a lane a worker has begun, for those who are told of calls. No request is made to find out.

The platform says so of jobs that it is asked about, which for a job that waits may be seconds later. Meanwhile: a job
that is sent while a warm worker is idle is begun, and a worker that has ended one begins the oldest that waits.
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

    def sent(self, flight: Flight, flights: Collection[Flight]) -> None:
        """Take a job that is sent now."""
        if not self._warm:
            return
        since = time.monotonic() - self._idle_timeout_s
        warm = sum(at > since for at in self._warm.values())
        if sum(one.has_begun for one in flights) < warm * self._calls_per_worker:
            self._begin(flight)

    def ended(self, flight: Flight, flights: Collection[Flight]) -> None:
        """Take a job that its worker has ended; `flights` are those that have not."""
        self._warm[flight.call.worker_id] = time.monotonic()
        waiting = [one for one in flights if not one.has_begun]
        if waiting:
            self._begin(min(waiting, key=lambda one: one.began_at))

    def said(self, flight: Flight, is_running: bool) -> None:
        """Take what the platform says of a job."""
        flight.has_begun = is_running
        if is_running:
            self._tell_all(flight)

    def _begin(self, flight: Flight) -> None:
        flight.has_begun = True
        expected_s = flight.expected_s
        if expected_s is None or expected_s >= _BRIEF_S * len(flight.submissions):
            self._tell_all(flight)

    def _tell_all(self, flight: Flight) -> None:
        for submission in flight.open.values():
            self._tell(submission)
