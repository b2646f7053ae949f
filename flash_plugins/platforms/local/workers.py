# SPDX-License-Identifier: Apache-2.0
"""What an endpoint knows about one of its workers. It decides nothing: see `crew`, `fleet` and `balanced`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from .jobs import Job

__all__ = ["BalancedWorker", "Poll", "QueueWorker", "Worker"]


@dataclass(eq=False, slots=True)
class Worker(ABC):
    """One worker process. Times are the clock's monotonic seconds, `started_wall` seconds since 1970."""

    id: str
    token: str = field(repr=False)
    version: int
    started_at: float
    started_wall: float
    seen_at: float
    ready_at: float | None = None
    idle_since: float = 0.0
    #: False until it has been given a job or a request: if it ends before, its start has failed.
    has_worked: bool = False
    #: Gets no more work and is stopped once it has none.
    is_draining: bool = False
    #: Has been told to end.
    is_stopping: bool = False
    killed_because: str | None = None
    ailment: str | None = None

    @property
    @abstractmethod
    def load(self) -> int:
        """Jobs or requests that the worker is busy with."""

    @property
    def is_leaving(self) -> bool:
        """True once the worker gets no more work."""
        return self.is_draining or self.is_stopping

    @property
    def status(self) -> str:
        """State in the words of REST v2."""
        if self.ailment is not None:
            return "UNHEALTHY"
        if self.ready_at is None:
            return "INITIALIZING"
        return "RUNNING" if self.load else "IDLE"


@dataclass(eq=False, slots=True)
class Poll:
    """A held request of a worker for up to `want` jobs; `deliver` is called once, with some or with none."""

    want: int
    deliver: Callable[[list[Job]], None]


@dataclass(eq=False, slots=True)
class QueueWorker(Worker):
    """A worker that asks for jobs."""

    has_pinged: bool = False
    leases: dict[str, Job] = field(default_factory=dict)
    poll: Poll | None = None
    stop_poll: Callable[[list[str]], None] | None = None
    stops: list[str] = field(default_factory=list)

    @property
    def load(self) -> int:
        """Jobs it has and has not reported."""
        return len(self.leases)

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


@dataclass(eq=False, slots=True)
class BalancedWorker(Worker):
    """A worker that serves HTTP on 127.0.0.1, and its health beside it or on the same port."""

    port: int = 0
    health_port: int = 0
    requests: int = 0
    #: Since when its health check fails; None while it passes, and before it first has.
    unwell_since: float | None = None
    #: What the last health check said, as the rest of a sentence.
    health: str = "has not been asked yet"
    #: What became of the process; `is_gone` is set by then.
    end: str | None = None
    is_gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def load(self) -> int:
        """Requests it has not answered to their end."""
        return self.requests

    @property
    def is_available(self) -> bool:
        """True while requests may be sent to it."""
        return self.ready_at is not None and self.ailment is None and not self.is_leaving
