# SPDX-License-Identifier: Apache-2.0
"""A queue endpoint at work: its jobs and the workers that take them. It never touches HTTP or processes itself.

    client ── submit, cancel, retry ──> Fleet ── poll answers, stop requests ──> workers
                                          └─<─ polls, results, pings, exits

Everything happens by events, on one event loop: a job that is submitted, a poll, a result, an exit or a
timer leads to `_feed` (jobs to waiting polls) and `_rescale` (workers started and stopped: see `crew`).
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable
from typing import Any

from ...job import JobStatus
from .. import api
from .clock import Clock
from .crew import Crew, Identity
from .endpoints import EndpointSpec
from .jobs import Job, JobTable
from .processes import Processes
from .scaler import Demand, QueueDelay, wanted_workers
from .submission import Submission
from .wire import MalformedJson, dump, member, parse_object
from .workers import Poll, QueueWorker

__all__ = ["Fleet"]

_LOG = logging.getLogger(__name__)

#: Pings a worker may miss before it counts as lost, and seconds on top of them.
_PINGS_MISSED_MAX = 4
_SILENCE_EXTRA_S = 5.0
#: Seconds after a request to stop a job at which it is made again: the SDK ignores one for a job that it has
#: taken and not begun, and begins a job 0.1 s later at most. One that even then runs on is found by its pings.
_STOP_REPEATS_S = (0.3, 1.0)
#: A worker gets a job ahead where its running one, and that one, are expected to end so soon, seconds; and where the
#: running one is not late by more than so much. Handing over a job takes a worker 3 ms, which this hides.
_AHEAD_S, _LATE_S = 0.3, 0.1
#: What becomes of a job with an empty object as input, in the words of the official worker.
_EMPTY_INPUT_ERROR = 'missing field(s): id or input. Runpod drops an empty object: send {"__empty": true}'


class Fleet(Crew[QueueWorker]):
    """The jobs and workers of one endpoint. Not thread-safe: one event loop uses it.

    Args:
        environment: Returns the whole environment of a worker of an endpoint.
        on_job_end: Called with every job that reached a final state.
        is_uncapped: Whether workers get as many jobs as they ask for, at whichever of them asks: see `Faults`.
    """

    _FIRST_WORK = "a job was taken"

    def __init__(
        self,
        spec: EndpointSpec,
        *,
        clock: Clock,
        processes: Processes,
        environment: Callable[[EndpointSpec, QueueWorker], dict[str, str]],
        on_job_end: Callable[[Job], None] = lambda job: None,
        is_uncapped: bool = False,
    ) -> None:
        self._is_uncapped = is_uncapped
        super().__init__(spec, clock=clock, processes=processes, environment=environment)
        self.jobs = JobTable(clock, on_stop=self._stop_job, on_end=on_job_end)
        self._polling: dict[str, QueueWorker] = {}
        self._random = random.Random(0)  # which of several polls gets a job is the service's business
        self._rescale()

    def _apply_spec(self, spec: EndpointSpec) -> None:
        super()._apply_spec(spec)
        self._cap = None if self._is_uncapped else spec.worker_cap
        # A worker of ours whose handler does not stream sends results of a batch early, and at the end all of them.
        is_ours, handler = api.ENDPOINT_NAME_ENV in spec.env, spec.env.get(api.HANDLER_ENV)
        self._repeats_chunks = is_ours and handler != api.HANDLER_STREAMS
        #: Such a worker gives a job back that has waited in it for long.
        self._takes_ahead = self._repeats_chunks and self._cap is not None
        ping_ms = float(spec.env.get(api.PING_INTERVAL_ENV, api.PING_INTERVAL_DEFAULT_MS))
        self._silence_limit_s = _PINGS_MISSED_MAX * max(1.0, ping_ms / 1000) + _SILENCE_EXTRA_S

    # -- the client's side --------------------------------------------------------------------------------

    def submit(self, submission: Submission, *, is_sync: bool) -> Job:
        """Queue a request, hand it out if a worker waits, start one if none does."""
        job = self.jobs.submit(submission, is_sync=is_sync, timeout_s=self.spec.job_timeout_s)
        if submission.is_input_empty:
            # Runpod drops an empty object and the worker then refuses the job; told here without the detour.
            self.jobs.fail(job, _EMPTY_INPUT_ERROR)
            return job
        self._settle()
        return job

    def cancel(self, job: Job) -> None:
        """Cancel a job that has not ended."""
        self.jobs.cancel(job)
        self._settle()

    def retry(self, job: Job) -> bool:
        """Queue a failed job again; False if its state does not allow that."""
        is_queued = self.jobs.retry(job)
        self._settle()
        return is_queued

    def answer_polls(self) -> None:
        """Answer every held poll with nothing, so that workers can end without waiting for it."""
        for worker in self.workers.values():
            self._dismiss(worker)

    # -- the workers' side --------------------------------------------------------------------------------

    def poll(self, worker: QueueWorker, want: int, deliver: Callable[[list[Job]], None]) -> Poll:
        """Ask for up to `want` jobs; `deliver` is called once, maybe at once, with some or with none."""
        now = self._clock.monotonic()
        worker.seen_at = now
        if worker.ready_at is None:
            worker.ready_at = worker.idle_since = now
        if worker.poll is not None:  # the worker gave that one up
            self.withdraw(worker, worker.poll)
        poll = Poll(want, deliver)
        if worker.is_leaving:
            deliver([])
            return poll
        worker.poll = poll
        self._polling[worker.id] = worker
        self._settle()
        return poll

    def withdraw(self, worker: QueueWorker, poll: Poll) -> None:
        """End a poll with no jobs, if it has not been answered."""
        if worker.poll is poll:
            worker.poll = None
            self._polling.pop(worker.id, None)
            poll.deliver([])

    def take_back(self, worker: QueueWorker, jobs: list[Job]) -> None:
        """Undo a hand-over that could not be delivered: the jobs go back to the front of the queue."""
        for job in reversed(jobs):
            if worker.leases.pop(job.id, None) is not None:
                self.jobs.give_back(job, counts_as_attempt=False)
        worker.idle_since = self._clock.monotonic()
        self._settle()

    def await_stops(self, worker: QueueWorker, deliver: Callable[[list[str]], None]) -> None:
        """Ask which jobs to stop; `deliver` is called once, maybe at once, with their ids or with none."""
        worker.seen_at = self._clock.monotonic()
        worker.end_stop_poll()
        if worker.stops or worker.is_leaving:
            stops, worker.stops = worker.stops, []
            deliver(stops)
        else:
            worker.stop_poll = deliver

    def job_done(self, worker: QueueWorker, job_id: str, body: bytes) -> None:
        """Take what a worker reports about a job: progress or the end. A job it no longer holds is ignored.

        Raises:
            MalformedJson: The report is no JSON object.
        """
        report = parse_object(body)
        worker.seen_at = self._clock.monotonic()
        if report.get("stopPod"):
            worker.is_draining = True
        job = worker.leases.get(job_id)
        if job is None:
            return
        output = member(body, report, "output") if "output" in report else None
        if report.get("status") == JobStatus.IN_PROGRESS:
            job.output = output
            job.notify()
            return
        error = report.get("error")
        self._failed_starts = 0
        if self.jobs.is_ahead(job):  # what its worker ran before is still being reported
            self.jobs.begin(job)
        self._end_lease(worker, job)
        self.jobs.finish(job, output=output, error=_error_text(error) if error else None)
        self._settle(freed=worker)

    def fail_job(self, worker: QueueWorker, job_id: str, reason: str) -> None:
        """End a job because what its worker sent cannot be taken, and have the worker stop it."""
        job = worker.leases.get(job_id)
        if job is not None:
            self._end_lease(worker, job)
            self.jobs.fail(job, reason)
            self._request_stop(worker, job_id)
            self._settle(freed=worker)

    def job_chunk(self, worker: QueueWorker, job_id: str, body: bytes) -> None:
        """Take one streamed chunk.

        Raises:
            MalformedJson: It is no JSON object with an `output`.
        """
        report = parse_object(body)
        worker.seen_at = self._clock.monotonic()
        if "output" not in report:
            raise MalformedJson('a streamed chunk needs an "output"')
        job = worker.leases.get(job_id)
        if job is not None:
            self.jobs.add_chunk(job, member(body, report, "output"))

    def ping(self, worker: QueueWorker, *, ailment: str | None, job_ids: Iterable[str] = ()) -> None:
        """Note that a worker lives; `ailment` is what its own health check says is wrong.

        Jobs it still works on (`job_ids`) although its lease has ended are stopped once more.
        """
        worker.seen_at = self._clock.monotonic()
        worker.ailment = ailment
        for job_id in job_ids:
            self._repeat_stop(worker, job_id)
        if not worker.has_pinged:
            worker.has_pinged = True
            self._wake_by(worker.seen_at + self._silence_limit_s)

    # -- feeding ------------------------------------------------------------------------------------------

    def _settle(self, *, freed: QueueWorker | None = None) -> None:
        if freed is not None and freed.is_draining and not freed.leases:
            self._stop(freed)
        if self.jobs.queued and self._polling:
            self._feed()
        if not self.is_closed:
            self._rescale()

    def _feed(self) -> None:
        """Give queued jobs to the waiting polls: to the least busy worker first, and no more than its share."""
        while queued := self.jobs.queued:
            open_to_jobs = [worker for worker in self._polling.values() if self._room(worker) > 0]
            if not open_to_jobs:
                if self._takes_ahead:
                    self._feed_ahead()
                return
            if self._is_uncapped:
                worker, share = self._random.choice(open_to_jobs), queued
            else:
                worker, share = (
                    # The one that worked last of them: its caches are warm, and the others may become surplus.
                    min(open_to_jobs, key=lambda one: (len(one.leases), -(one.idle_since or 0.0))),
                    math.ceil(queued / len(open_to_jobs)),
                )
            poll = worker.poll
            assert poll is not None
            self._lease(worker, self.jobs.take(worker.id, min(share, poll.want, self._room(worker))))

    def _lease(self, worker: QueueWorker, jobs: list[Job]) -> None:
        for job in jobs:
            worker.leases[job.id] = job
            worker.forget_stop(job.id)  # of an earlier attempt
        worker.has_worked = True
        poll, worker.poll = worker.poll, None
        del self._polling[worker.id]
        assert poll is not None
        poll.deliver(jobs)

    def _room(self, worker: QueueWorker) -> int:
        return self._cap - len(worker.leases) if self._cap is not None else 1_000_000

    def _feed_ahead(self) -> None:
        """Give short jobs to workers that are busy with short ones, once there are all workers and none has room."""
        staying = [worker for worker in self.workers.values() if not worker.is_leaving]
        if len(staying) < self.spec.workers_max:
            return
        if any(worker.ready_at is None or self._room(worker) > 0 for worker in staying):
            return
        while (job := self.jobs.next) is not None and job.expected_s is not None and job.expected_s <= _AHEAD_S:
            soon = [
                (ends_at, worker) for worker in self._polling.values() if (ends_at := self._free_at(worker)) is not None
            ]
            if not soon:
                return
            _, worker = min(soon, key=lambda one: one[0])
            self._lease(worker, [self.jobs.take_ahead(worker.id)])

    def _free_at(self, worker: QueueWorker) -> float | None:
        """Return when a worker is expected to begin one more job, None unless that is soon."""
        now, ends = self._clock.monotonic(), []
        for job in worker.leases.values():
            if job.expected_s is None or job.started_at is None:
                return None  # nobody knows when it ends, or it has one ahead
            ends.append(job.started_at + job.expected_s)
        return min(ends) if now - _LATE_S <= min(ends) and max(ends) <= now + _AHEAD_S else None

    def _end_lease(self, worker: QueueWorker, job: Job) -> None:
        del worker.leases[job.id]
        if not worker.leases:
            worker.idle_since = self._clock.monotonic()
        ahead = [one for one in worker.leases.values() if self.jobs.is_ahead(one)]
        if ahead and self._cap is not None and len(worker.leases) - len(ahead) < self._cap:
            self.jobs.begin(ahead[0])

    def _stop_job(self, job: Job) -> None:
        """Free the slot of a job that ended while a worker had it, and tell that worker."""
        worker = self.workers.get(job.worker_id or "")
        if worker is not None and job.id in worker.leases:
            self._end_lease(worker, job)
            self._request_stop(worker, job.id)
            self._settle(freed=worker)

    def _request_stop(self, worker: QueueWorker, job_id: str) -> None:
        worker.request_stop(job_id)
        for delay_s in _STOP_REPEATS_S:
            self._clock.call_later(delay_s, lambda: self._repeat_stop(worker, job_id))

    def _repeat_stop(self, worker: QueueWorker, job_id: str) -> None:
        """Ask again, unless the worker has been given the job again meanwhile."""
        if job_id not in worker.leases and worker.id in self.workers:
            worker.request_stop(job_id)

    # -- scaling: see `Crew` ------------------------------------------------------------------------------

    def _rescale(self) -> None:
        super()._rescale()
        self._watch_queue()

    def _wanted(self, staying: list[QueueWorker]) -> int:
        spec = self.spec
        return wanted_workers(
            spec.scaling, self._demand(staying), workers_min=spec.workers_min, workers_max=spec.workers_max
        )

    def _demand(self, staying: list[QueueWorker]) -> Demand:
        queued, running = self.jobs.queued_urgent, self.jobs.counts.in_progress + self.jobs.ahead
        scaling = self.spec.scaling
        if queued == 0 or not isinstance(scaling, QueueDelay):
            return Demand(queued=queued, running=running)
        per_worker = self.spec.worker_cap or 1
        return Demand(
            queued=queued,
            running=running,
            overdue=self.jobs.waiting_longer_than(scaling.seconds, at_most=self.spec.workers_max * per_worker),
            ready=sum(worker.ready_at is not None for worker in staying),
            jobs_per_worker=per_worker,
        )

    def _watch_queue(self) -> None:
        """Look again when the next queued job has waited long enough to deserve another worker."""
        scaling = self.spec.scaling
        queued_at = self.jobs.oldest_queued_at()
        if queued_at is None or not isinstance(scaling, QueueDelay):
            return
        if sum(not worker.is_leaving for worker in self.workers.values()) < self.spec.workers_max:
            now = self._clock.monotonic()
            overdue_at = queued_at + scaling.seconds
            self._wake_by(overdue_at if overdue_at > now else now + scaling.seconds)

    # -- the life of a worker: see `Crew` -----------------------------------------------------------------

    def _hire(self, identity: Identity) -> QueueWorker:
        return QueueWorker(
            id=identity.id,
            token=identity.token,
            version=identity.version,
            started_at=identity.started_at,
            started_wall=identity.started_wall,
            seen_at=identity.started_at,
        )

    def _dismiss(self, worker: QueueWorker) -> None:
        if worker.poll is not None:
            self.withdraw(worker, worker.poll)
        worker.end_stop_poll()

    def _kill_by(self, worker: QueueWorker) -> tuple[float, str] | None:
        now = self._clock.monotonic()
        if worker.ready_at is None:
            took = f"{now - worker.started_at:.0f} s ({api.INIT_TIMEOUT_ENV} in its env allows more)"
            return worker.started_at + self._init_timeout_s, f"did not ask for a job for {took}"
        if worker.has_pinged:
            return (
                worker.seen_at + self._silence_limit_s,
                f"sent neither ping nor poll for {now - worker.seen_at:.0f} s",
            )
        return None

    def _lose(self, worker: QueueWorker, what: str) -> None:
        jobs = list(worker.leases.values())
        worker.leases.clear()
        for job in reversed(jobs):
            self._recover(job, worker, what)

    def _give_up(self, reason: str) -> None:
        for job in self.jobs:
            if job.status is JobStatus.IN_QUEUE and not self.jobs.is_ahead(job):
                self.jobs.fail(job, reason)

    def _drop_work(self) -> None:
        self.jobs.close()

    def _recover(self, job: Job, worker: QueueWorker, what: str) -> None:
        """Queue a lost worker's job again, unless it has had its attempts or its output was seen already."""
        if self.jobs.is_ahead(job):
            self.jobs.give_back(job, counts_as_attempt=False)
            return
        if job.chunks_read and not self._repeats_chunks:
            advice = "part of its stream had been read, so it is not run again"
        elif job.attempts >= api.MAX_ATTEMPTS:
            advice = f"attempt {job.attempts} of {api.MAX_ATTEMPTS}"
        else:
            _LOG.warning("worker %s %s; job %s is queued again", worker.id, what, job.id)
            self.jobs.give_back(job, counts_as_attempt=True)
            return
        self.jobs.fail(job, f"{api.WORKER_LOST_PREFIX}worker {worker.id} {what}; {advice}{self._log_text(worker)}")


def _error_text(error: Any) -> bytes:  # Any: whatever JSON the handler called its error
    return dump(error if isinstance(error, str) else dump(error).decode())
