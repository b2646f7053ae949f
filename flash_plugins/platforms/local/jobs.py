# SPDX-License-Identifier: Apache-2.0
"""The jobs of one endpoint: their queue, leases, states and lifetimes. It never does input or output.

    submit ──> IN_QUEUE ──take──> IN_PROGRESS ──finish──> COMPLETED | FAILED
                 │^                    │  │
                 │└──── give_back ─────┘  └─ cancel, execution timeout ──> CANCELLED | TIMED_OUT
                 └─take_ahead──> with a worker, not begun ──begin──> IN_PROGRESS

A job is leased by exactly one worker while IN_PROGRESS, and while it waits for a slot in one. `ttl` counts from
submission and is hard: the job is forgotten then, whatever its state. A finished job is forgotten when its retention
ends.
"""

from __future__ import annotations

import heapq
import itertools
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...job import JobStatus
from .. import api
from .clock import Clock, Timer
from .submission import Submission
from .wire import dump, with_member_in_front

__all__ = ["Job", "JobCounts", "JobTable"]

#: Deadlines further away than this are looked at again then, so that the heap does not hold a day of jobs, seconds.
_DEADLINE_HORIZON_S = 60.0


class Job:
    """One job. Times are the clock's monotonic seconds; `output` and `chunks` are JSON texts as they came."""

    __slots__ = (
        "attempts",
        "body",
        "chunks",
        "chunks_read",
        "error",
        "expected_s",
        "expires_at",
        "finished_at",
        "id",
        "is_low_priority",
        "is_sync",
        "listeners",
        "output",
        "queued_at",
        "retention_s",
        "started_at",
        "status",
        "timeout_s",
        "ttl_s",
        "watched_at",
        "webhook",
        "worker_id",
    )

    def __init__(self, job_id: str, submission: Submission, *, is_sync: bool, now: float, timeout_s: float) -> None:
        self.id = job_id
        self.body = submission.body
        self.webhook = submission.webhook
        self.is_low_priority = submission.is_low_priority
        self.is_sync = is_sync
        self.expected_s = submission.expected_s
        self.ttl_s = submission.ttl_s
        self.timeout_s = timeout_s
        self.retention_s = api.RUNSYNC_RETENTION_S if is_sync else api.RUN_RETENTION_S
        self.queued_at = now
        self.expires_at = now + submission.ttl_s
        self.status = JobStatus.IN_QUEUE
        self.attempts = 0
        self.worker_id: str | None = None
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self.output: bytes | None = None
        self.error: bytes | None = None
        self.chunks: list[bytes] = []
        self.chunks_read = 0
        #: Called with the job whenever it finishes, is forgotten or gets a chunk; each removes itself.
        self.listeners: list[Callable[[Job], None]] = []
        #: When the table looks at this job's deadlines next.
        self.watched_at = float("inf")

    def for_worker(self) -> bytes:
        """Return the job as a worker gets it: the request with an `id`."""
        return with_member_in_front(self.body, b'"id":"%b"' % self.id.encode())

    def to_json(self) -> bytes:
        """Return the job as `/status` shows it."""
        text = self.summary()[:-1]
        if self.output is not None:
            text += b',"output":' + self.output
        if self.error is not None:
            text += b',"error":' + self.error
        return text + b"}"

    def summary(self) -> bytes:
        """Return the job without what it has to say: id, state, times."""
        parts = [f'{{"id":"{self.id}","status":"{self.status.value}"']
        if self.started_at is not None:
            parts.append(f'"delayTime":{round((self.started_at - self.queued_at) * 1000)}')
            parts.append(f'"workerId":"{self.worker_id}"')
            if self.finished_at is not None:
                parts.append(f'"executionTime":{round((self.finished_at - self.started_at) * 1000)}')
        if self.attempts > 1:
            parts.append(f'"{api.ATTEMPTS_FIELD}":{self.attempts}')
        return ",".join(parts).encode() + b"}"

    def unread_chunks(self) -> list[bytes]:
        """Return the chunks no `/stream` has shown yet and count them as shown."""
        unread = self.chunks[self.chunks_read :]
        self.chunks_read = len(self.chunks)
        return unread

    def notify(self) -> None:
        """Tell everybody who waits for this job that something happened."""
        for listener in list(self.listeners):
            listener(self)


@dataclass(slots=True)
class JobCounts:
    """How many jobs are where; the finished ones since the endpoint exists."""

    completed: int = 0
    failed: int = 0
    retried: int = 0
    in_progress: int = 0


class JobTable:
    """All jobs of one endpoint. Not thread-safe: one event loop uses it.

    Args:
        on_stop: Called with a job whose worker should stop it (cancelled, timed out, expired). Its lease
            has ended by then; `worker_id` still says who has it.
        on_end: Called with every job that reached a final state.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        on_stop: Callable[[Job], None],
        on_end: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self.counts = JobCounts()
        self._clock = clock
        self._on_stop = on_stop
        self._on_end = on_end
        self._jobs: dict[str, Job] = {}
        self._queue: OrderedDict[str, Job] = OrderedDict()
        self._low_priority: OrderedDict[str, Job] = OrderedDict()
        self._ahead: OrderedDict[str, Job] = OrderedDict()
        self._deadlines: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._alarm: Timer | None = None
        self._alarm_at = float("inf")

    # -- looking ------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job | None:
        """Return the job, None if it is unknown or forgotten."""
        return self._jobs.get(job_id)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    @property
    def queued(self) -> int:
        """Jobs that wait, of any priority."""
        return len(self._queue) + len(self._low_priority)

    @property
    def queued_urgent(self) -> int:
        """Jobs that wait and may start workers."""
        return len(self._queue)

    @property
    def ahead(self) -> int:
        """Jobs that a worker has which it has not begun."""
        return len(self._ahead)

    @property
    def next(self) -> Job | None:
        """The first urgent job in the queue."""
        return next(iter(self._queue.values()), None)

    def waiting_longer_than(self, seconds: float, *, at_most: int) -> int:
        """Return how many urgent jobs have waited at least `seconds`, counted up to `at_most`."""
        since = self._clock.monotonic() - seconds
        overdue = itertools.takewhile(lambda job: job.queued_at <= since, self._queue.values())
        return sum(1 for _ in itertools.islice(overdue, at_most))

    def oldest_queued_at(self) -> float | None:
        """Return when the first urgent job in the queue got there."""
        return next(iter(self._queue.values())).queued_at if self._queue else None

    # -- the life of a job --------------------------------------------------------------------------------

    def submit(self, submission: Submission, *, is_sync: bool, timeout_s: float) -> Job:
        """Put a request at the end of the queue and return it as a job."""
        job_id = f"sync-{uuid.uuid4()}-u1" if is_sync else f"{uuid.uuid4()}-u1"
        if submission.execution_timeout_s is not None:
            timeout_s = submission.execution_timeout_s
        job = Job(job_id, submission, is_sync=is_sync, now=self._clock.monotonic(), timeout_s=timeout_s)
        self._jobs[job_id] = job
        self._queue_of(job)[job_id] = job
        self._watch(job, job.expires_at)
        return job

    def take(self, worker_id: str, limit: int) -> list[Job]:
        """Lease up to `limit` jobs to a worker, first come first served, low priority last."""
        now = self._clock.monotonic()
        taken: list[Job] = []
        while len(taken) < limit and (queue := self._queue or self._low_priority):
            _, job = queue.popitem(last=False)
            job.worker_id = worker_id
            self._begin(job, now)
            taken.append(job)
        return taken

    def take_ahead(self, worker_id: str) -> Job:
        """Lease the first urgent job to a worker that is to begin it later: until then it counts as IN_QUEUE."""
        job_id, job = self._queue.popitem(last=False)
        job.worker_id = worker_id
        self._ahead[job_id] = job
        return job

    def is_ahead(self, job: Job) -> bool:
        """Return whether a worker has a job that it has not begun."""
        return job.id in self._ahead

    def begin(self, job: Job) -> None:
        """Note that a worker has begun a job that it had: its execution time counts from here."""
        del self._ahead[job.id]
        self._begin(job, self._clock.monotonic())

    def give_back(self, job: Job, *, counts_as_attempt: bool) -> None:
        """Put a leased job back at the front of its queue; what it produced so far is dropped.

        One that was not begun has made no attempt.
        """
        if self._ahead.pop(job.id, None) is None:
            self.counts.in_progress -= 1
            if not counts_as_attempt:
                job.attempts -= 1
        self._reset(job)
        queue = self._queue_of(job)
        queue[job.id] = job
        queue.move_to_end(job.id, last=False)

    def finish(self, job: Job, *, output: bytes | None, error: bytes | None) -> None:
        """End a job with what its worker reported; an error makes it FAILED."""
        job.output = output
        if output == b"[]" and job.chunks:
            # Runpod shows the collected chunks of a generator that does not aggregate them itself.
            job.output = b"[" + b",".join(job.chunks) + b"]"
        job.error = error
        self._end(job, JobStatus.COMPLETED if error is None else JobStatus.FAILED)

    def fail(self, job: Job, reason: str) -> None:
        """End a job as FAILED with a reason of the platform's own."""
        job.output, job.error = None, dump(reason)
        self._end(job, JobStatus.FAILED)

    def cancel(self, job: Job) -> None:
        """End a job as CANCELLED; one that has ended already stays as it is."""
        if not job.status.is_terminal:
            self._interrupt(job, JobStatus.CANCELLED)

    def retry(self, job: Job) -> bool:
        """Queue a FAILED or TIMED_OUT job again; return False, and do nothing, in any other state."""
        if job.status not in (JobStatus.FAILED, JobStatus.TIMED_OUT):
            return False
        if job.status is JobStatus.FAILED:
            self.counts.failed -= 1
        self.counts.retried += 1
        self._reset(job)
        job.attempts = 0
        job.queued_at = self._clock.monotonic()
        self._queue_of(job)[job.id] = job
        return True

    def purge(self) -> int:
        """Cancel all queued jobs and return how many there were."""
        purged = [*self._ahead.values(), *self._queue.values(), *self._low_priority.values()]
        for job in purged:
            self.cancel(job)
        return len(purged)

    def add_chunk(self, job: Job, chunk: bytes) -> None:
        """Keep one streamed chunk, a JSON text, and wake the readers."""
        job.chunks.append(chunk)
        job.notify()

    def set_life(self, job: Job, ttl_s: float) -> None:
        """Let a job be forgotten `ttl_s` seconds from now, whatever was planned before."""
        now = self._clock.monotonic()
        job.expires_at = now + ttl_s
        if job.finished_at is not None:
            job.retention_s = now + ttl_s - job.finished_at
        self._watch(job, job.expires_at)

    def close(self) -> None:
        """Cancel everything and stop watching the clock."""
        for job in self:
            self.cancel(job)
        if self._alarm is not None:
            self._alarm.cancel()

    # -- inside -------------------------------------------------------------------------------------------

    def _queue_of(self, job: Job) -> OrderedDict[str, Job]:
        return self._low_priority if job.is_low_priority else self._queue

    def _begin(self, job: Job, now: float) -> None:
        job.status = JobStatus.IN_PROGRESS
        job.started_at = now
        job.attempts += 1
        self.counts.in_progress += 1
        self._watch(job, now + job.timeout_s)

    def _reset(self, job: Job) -> None:
        job.status = JobStatus.IN_QUEUE
        job.worker_id = job.started_at = job.finished_at = None
        job.output = job.error = None
        job.chunks = []
        job.chunks_read = 0

    def _end(self, job: Job, status: JobStatus) -> None:
        if job.status is JobStatus.IN_PROGRESS:
            self.counts.in_progress -= 1
        elif self._ahead.pop(job.id, None) is None:
            self._queue_of(job).pop(job.id, None)
        job.status = status
        job.finished_at = self._clock.monotonic()
        if status is JobStatus.COMPLETED:
            self.counts.completed += 1
            job.body = b""  # can be megabytes; only jobs that may be retried need theirs
        elif status is JobStatus.FAILED:
            self.counts.failed += 1
        self._watch(job, min(job.expires_at, job.finished_at + job.retention_s))
        job.notify()
        self._on_end(job)

    def _interrupt(self, job: Job, status: JobStatus) -> None:
        was_leased = job.status is JobStatus.IN_PROGRESS or self.is_ahead(job)
        job.output = None  # its progress so far is no result
        self._end(job, status)
        if was_leased:
            self._on_stop(job)

    def _watch(self, job: Job, when: float) -> None:
        """Look at the job's deadlines at `when`; one entry per job is enough, an earlier look finds the rest."""
        now = self._clock.monotonic()
        when = min(when, now + _DEADLINE_HORIZON_S)
        if when >= job.watched_at:
            return
        job.watched_at = when
        heapq.heappush(self._deadlines, (when, next(self._order), job.id))
        if when < self._alarm_at:
            self._set_alarm(when - now, when)

    def _set_alarm(self, delay_s: float, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = when
        self._alarm = self._clock.call_later(delay_s, self._check_deadlines)

    def _check_deadlines(self) -> None:
        self._alarm = None
        self._alarm_at = float("inf")
        now = self._clock.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            when, _, job_id = heapq.heappop(self._deadlines)
            job = self._jobs.get(job_id)
            if job is not None and job.watched_at == when:
                job.watched_at = float("inf")
                self._check_deadline(job, now)
        if self._deadlines:
            when = self._deadlines[0][0]
            self._set_alarm(when - now, when)

    def _check_deadline(self, job: Job, now: float) -> None:
        if now >= job.expires_at or (job.finished_at is not None and now >= job.finished_at + job.retention_s):
            self._forget(job)
            return
        if job.status is JobStatus.IN_PROGRESS and job.started_at is not None:
            ends_at = job.started_at + job.timeout_s
            if now >= ends_at:
                job.error = dump(f"job timed out: it ran longer than its execution timeout of {job.timeout_s:g} s")
                self._interrupt(job, JobStatus.TIMED_OUT)
                return
            self._watch(job, min(ends_at, job.expires_at))
        else:
            retained = float("inf") if job.finished_at is None else job.finished_at + job.retention_s
            self._watch(job, min(retained, job.expires_at))

    def _forget(self, job: Job) -> None:
        if not job.status.is_terminal:
            # Whoever holds a request for it learns this much; afterwards the job is unknown.
            job.error = dump(f"job expired: its time to live of {job.ttl_s:g} s passed")
            self._interrupt(job, JobStatus.TIMED_OUT)
        del self._jobs[job.id]
        job.notify()
