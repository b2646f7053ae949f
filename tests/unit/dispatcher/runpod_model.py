# SPDX-License-Identifier: Apache-2.0
"""A model of calls on Runpod, in virtual time: caller, platform without a cap, the official loop, our workers.

What is ours in it is the real thing: `Estimate` and `jobs_at_once` of the caller, `Declaration` and `HandBack` of the
worker. What is not is written down here as it was read in runpod 2.0.0rc2 (`rp_scale.JobScaler`), which is as in 1.12.
A minute of ten workers takes 20 ms.

    caller ── submits at most so many jobs ──► queue ──► any open poll ──► worker: SDK's loop ──► one call at a time
       ▲────────────────── outcomes, and what was handed back ──────────────────────────────────────────┘
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flash_plugins.dispatcher.batching import Estimate, jobs_at_once
from flash_plugins.worker.handback import HandBack
from flash_plugins.worker.queue import Declaration

#: Seconds that a request takes one way.
WAY_S = 0.04
#: What a job costs beside its calls, as `Overhead` would find it, seconds.
_OVERHEAD_S = 4 * WAY_S
#: Results wait so long for others, seconds.
_TOLD_WITHIN_S = 0.1
#: When all workers ask for jobs, seconds.
_SETTLED_S = 1.0
#: The SDK's pause when it believes itself full, seconds.
SDK_PAUSE_S = 1.0


class Time:
    """Events in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def run(self, until: Callable[[], bool]) -> None:
        while not until():
            self.now, _, event = heapq.heappop(self._events)
            event()


@dataclass(eq=False)
class Job:
    """Calls by their lengths, seconds; `begun` of them have begun."""

    lengths: list[float]
    begun: int = 0
    busy_s: float = 0.0
    untold: int = 0  # calls that ended and whose results wait for others
    untold_s: float = 0.0


class Queue:
    """The service: a job goes to any worker that asks, and one that asks for several gets them."""

    def __init__(self, time: Time, chance: random.Random) -> None:
        self._time = time
        self._chance = chance
        self._jobs: deque[Job] = deque()
        self._polls: list[tuple[Worker, int]] = []

    def submit(self, job: Job) -> None:
        self._jobs.append(job)
        self._feed()

    def poll(self, worker: Worker, wanted: int) -> None:
        self._polls.append((worker, wanted))
        self._feed()

    def _feed(self) -> None:
        while self._jobs and self._polls:
            worker, wanted = self._polls.pop(self._chance.randrange(len(self._polls)))
            jobs = [self._jobs.popleft() for _ in range(min(wanted, len(self._jobs)))]
            self._time.later(WAY_S, lambda worker=worker, jobs=jobs: worker.take(jobs))  # type: ignore[misc]


class Worker:
    """The SDK's loop as it is, and one slot behind it."""

    def __init__(self, time: Time, queue: Queue, caller: Caller, *, is_ours: bool) -> None:
        self._time = time
        self._queue = queue
        self._caller = caller
        self._rules = HandBack.without_cap(1) if is_ours else HandBack(float("inf"))
        self._declaration = Declaration(1, is_capped=False, is_held_up=lambda: self._is_held_up)
        if is_ours:
            self._declaration.note(0.0)  # it has run something before
        self._is_ours = is_ours
        self._held = 0  # jobs whose results the service has not acknowledged
        self._untaken = 0  # those that the SDK counts a second time
        self._size = 1
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._began_at = 0.0
        time.later(0.0, self._loop)

    @property
    def _is_held_up(self) -> bool:
        return self._running is not None and self._time.now - self._began_at >= self._rules.after_s

    # The SDK's loop.

    def _loop(self) -> None:
        declared = self._declaration() if self._is_ours else 1
        self._rescale(declared)

    def _rescale(self, declared: int) -> None:
        if declared != self._size and self._held + self._untaken > 0:
            self._time.later(SDK_PAUSE_S, lambda: self._rescale(declared))
            return
        self._size = declared
        wanted = declared - self._held - self._untaken
        if wanted <= 0:
            self._time.later(SDK_PAUSE_S, self._loop)
        else:
            self._time.later(WAY_S, lambda: self._queue.poll(self, wanted))

    def take(self, jobs: list[Job]) -> None:
        self._held += len(jobs)
        self._untaken = len(jobs)
        self._loop()
        self._untaken = 0
        for job in jobs:
            most = self._rules.waiting_max
            is_surplus = most is not None and (self._is_held_up or len(self._waiting) >= most)
            if self._running is not None and is_surplus:
                self._hand_back(job)
            else:
                self._waiting.append(job)
                self._begin_next()

    # What is behind it.

    def _begin_next(self) -> None:
        if self._running is None and self._waiting:
            self._running = self._waiting.popleft()
            self._step(self._running)

    def _step(self, job: Job) -> None:
        self._began_at = began_at = self._time.now
        length = job.lengths[job.begun]
        job.begun += 1
        self._time.later(length, lambda: self._ended(job, length))
        if self._rules.after_s < length:
            self._time.later(self._rules.after_s, lambda: self._relieve(job, began_at))

    def _relieve(self, job: Job, began_at: float) -> None:
        if self._running is job and self._began_at == began_at:
            rest, job.lengths = job.lengths[job.begun :], job.lengths[: job.begun]
            if rest:
                self._time.later(2 * WAY_S, lambda: self._caller.mates_returned(rest))
            while self._waiting:
                self._hand_back(self._waiting.popleft())

    def _hand_back(self, job: Job) -> None:
        self._time.later(4 * WAY_S, lambda: self._caller.job_returned(job))
        self._time.later(2 * WAY_S, self._acknowledged)

    def _ended(self, job: Job, length: float) -> None:
        job.busy_s += length
        job.untold += 1
        job.untold_s += length
        is_last = job.begun == len(job.lengths)
        if is_last or job.untold_s >= _TOLD_WITHIN_S:
            calls, busy_s = job.untold, job.untold_s
            job.untold, job.untold_s = 0, 0.0
            # Results before the end come with a chunk, those at the end with a look at the status after it.
            told_in_s = 4 * WAY_S if is_last else 2 * WAY_S
            self._time.later(told_in_s, lambda: self._caller.calls_ended(calls, busy_s))
        if not is_last:
            self._step(job)
            return
        self._declaration.note(job.busy_s)
        self._running = None
        self._time.later(4 * WAY_S, lambda: self._caller.job_ended(job))
        self._time.later(2 * WAY_S, self._acknowledged)
        self._begin_next()

    def _acknowledged(self) -> None:
        self._held -= 1


class Caller:
    """Forms jobs as `BatchLane` does; an official client sends all at once, one by one."""

    def __init__(self, time: Time, queue: Queue, lengths: Sequence[float], workers: int, *, is_ours: bool) -> None:
        self._time = time
        self._queue = queue
        self._calls = deque(lengths)
        self._left = len(lengths)
        self._workers = workers
        self._is_ours = is_ours
        self._flying = 0
        self._most = len(lengths)
        if is_ours:
            self._most = jobs_at_once(workers, is_capped=False, workers=workers, requests_per_worker=None)
        self._estimate = Estimate()
        self.jobs = 0
        self.returned = 0

    @property
    def is_done(self) -> bool:
        return self._left == 0

    def pump(self) -> None:
        while self._calls and self._flying < self._most:
            count = 1
            if self._is_ours:
                count = self._estimate.size(
                    waiting=len(self._calls), slots=self._workers, overhead_s=_OVERHEAD_S, is_capped=False
                )
                expected_s = self._estimate.expected_s(count)
                if self._flying >= self._workers and expected_s is not None and expected_s < _OVERHEAD_S:
                    return
            job = Job([self._calls.popleft() for _ in range(min(count, len(self._calls)))])
            self._flying += 1
            self.jobs += 1
            self._time.later(WAY_S, lambda job=job: self._queue.submit(job))  # type: ignore[misc]

    def calls_ended(self, calls: int, busy_s: float) -> None:
        self._left -= calls
        self._estimate.record(calls=calls, busy_s=busy_s, result_bytes=10 * calls)

    def job_ended(self, job: Job) -> None:
        self._flying -= 1
        self.pump()

    def mates_returned(self, lengths: list[float]) -> None:
        self._estimate.note_running(2.0)
        self._calls.extendleft(reversed(lengths))
        self.pump()

    def job_returned(self, job: Job) -> None:
        self.returned += 1
        self._flying -= 1
        self._calls.extendleft(reversed(job.lengths))
        self.pump()


@dataclass(frozen=True)
class Run:
    """What came of it: seconds, jobs that were submitted, and those of them that came back unbegun."""

    seconds: float
    jobs: int
    returned: int


def run(lengths: Sequence[float], workers: int, *, is_ours: bool, seed: int = 0) -> Run:
    """Return what becomes of calls of these lengths, seconds, on warm workers."""
    time = Time()
    queue = Queue(time, random.Random(seed))
    caller = Caller(time, queue, lengths, workers, is_ours=is_ours)
    for _ in range(workers):
        Worker(time, queue, caller, is_ours=is_ours)
    time.later(_SETTLED_S, caller.pump)
    time.run(lambda: caller.is_done)
    return Run(time.now - _SETTLED_S, caller.jobs, caller.returned)
