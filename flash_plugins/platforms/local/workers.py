# SPDX-License-Identifier: Apache-2.0
"""What an endpoint knows about one of its workers. It decides nothing: see `fleet`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .jobs import Job

__all__ = ["Poll", "Worker"]


@dataclass(eq=False, slots=True)
class Poll:
    """A held request of a worker for up to `want` jobs; `deliver` is called once, with some or with none."""

    want: int
    deliver: Callable[[list[Job]], None]


@dataclass(eq=False, slots=True)
class Worker:
    """One worker process. Times are the clock's monotonic seconds, `started_wall` seconds since 1970."""

    id: str
    token: str = field(repr=False)
    version: int
    started_at: float
    started_wall: float
    seen_at: float
    ready_at: float | None = None
    idle_since: float = 0.0
    has_pinged: bool = False
    has_taken_a_job: bool = False
    #: Gets no more jobs and is stopped once it has none.
    is_draining: bool = False
    #: Has been told to end.
    is_stopping: bool = False
    killed_because: str | None = None
    ailment: str | None = None
    leases: dict[str, Job] = field(default_factory=dict)
    poll: Poll | None = None
    stop_poll: Callable[[list[str]], None] | None = None
    stops: list[str] = field(default_factory=list)

    @property
    def is_leaving(self) -> bool:
        """True once the worker gets no more jobs."""
        return self.is_draining or self.is_stopping

    @property
    def status(self) -> str:
        """State in the words of REST v2."""
        if self.ailment is not None:
            return "UNHEALTHY"
        if self.ready_at is None:
            return "INITIALIZING"
        return "RUNNING" if self.leases else "IDLE"

    def request_stop(self, job_id: str) -> None:
        """Have the worker stop a job, now if it asks just now, else when it does."""
        if job_id not in self.stops:
            self.stops.append(job_id)
        if self.stop_poll is not None:
            stops, self.stops = self.stops, []
            deliver, self.stop_poll = self.stop_poll, None
            deliver(stops)

    def forget_stop(self, job_id: str) -> None:
        """Withdraw a request to stop a job that the worker has not seen yet."""
        if job_id in self.stops:
            self.stops.remove(job_id)

    def end_stop_poll(self) -> None:
        """Answer the held request for jobs to stop with none."""
        if self.stop_poll is not None:
            deliver, self.stop_poll = self.stop_poll, None
            deliver([])
