# SPDX-License-Identifier: Apache-2.0
"""The lane of a queue endpoint: calls travel as jobs, followed from submission to outcome.

    flight ──► /runsync held 1 s ──► finished ─────────────────────────────────────────► outcome
                    └── not yet: id known ──► /stream held, results as they come ──► /status ──► outcome
           ──► /run, if long ─────────────────┘

One request carries what is over within a second; a longer job is followed by held requests, and by one poller where
the platform does not hold them. One that is known to be long is sent by `/run`: its id is known at once, and the
platform keeps its result for half an hour rather than a minute, whatever happens to connections meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..config import EndpointConfig
from ..errors import (
    ApiError,
    EnvelopeError,
    FlashPluginsError,
    JobCancelled,
    JobExpired,
    NotFoundError,
    PlatformUnavailable,
    WorkerLost,
)
from ..job import JobResult, JobStatus
from ..payload import CallEnvelope, Outcome, check_size, decode_failure_text, decode_outcome
from ..platforms import api
from .batch_lane import HANDED_BACK_AFTER_S, BatchLane
from .deadlines import execution_timeout_ms
from .endings import ending_of, unknown
from .flight import Flight
from .lane import PlatformGone, Submission
from .objects import stored_again, with_objects
from .stream import StreamCall
from .window import PATIENCE_S, Patience, Window

if TYPE_CHECKING:
    from ..platforms.runpod import EndpointHandle
    from .session import Session

__all__ = ["QueueLane"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Blobs up to this many bytes in all ride along until a worker is known to have them; larger ones once.
_SMALL_BLOBS_BYTES = 16_384
#: How often a call is sent again because a worker lacked blobs: each worker of a large endpoint may lack them once.
_MAX_RESENDS = 8
#: Consecutive transport errors after which following a job is given up, and the pause between them, seconds.
_MAX_TRANSPORT_ERRORS = 5
_TRANSPORT_PAUSE_S = 0.5
#: A platform that answers a held request sooner than this, with nothing to say, does not hold: poll instead.
_HOLDS_AT_LEAST_S = 0.5
#: How long that is believed before one job tries again, seconds: a quick answer may have had another reason.
_PROBE_INTERVAL_S = 60.0
#: Seconds a new job may be unknown to the platform's other servers.
_VISIBILITY_S = api.JOB_VISIBLE_WITHIN_S
#: Time to live of a job beyond its execution, ms.
_TTL_MARGIN_MS = 86_400_000
#: A job that is expected to take longer, seconds, is not waited for in the request that submits it.
_LONG_S = 0.8


class QueueLane(BatchLane):
    """Carries the calls of a queue endpoint; as `Lane`."""

    def __init__(self, session: Session, config: EndpointConfig, *, streams: bool) -> None:
        super().__init__(session, config, streams=streams)
        self._known: set[str] = set()  # digests that some worker has
        self._carried: set[str] = set()  # digests that were sent at least once
        self._is_held = True  # whether the platform holds /stream, as far as known
        self._probe_at = 0.0  # when to find out again

    def _policy(self, flight: Flight) -> dict[str, int]:
        """Return the limits of a job, ms. The limit of the endpoint is one of a single call."""
        limit_ms = self.config.execution_timeout_ms or api.NO_EXECUTION_LIMIT_MS
        limit_ms = execution_timeout_ms(limit_ms, flight.submissions[0].options.run_timeout)
        if flight.is_batch:
            limit_ms = min(limit_ms + int(_slack_s(flight) * 1000), api.POLICY_MAX_MS)
        return {"executionTimeout": limit_ms, "ttl": min(limit_ms + _TTL_MARGIN_MS, api.POLICY_MAX_MS)}

    async def _fly(self, flight: Flight) -> None:
        """Send a job, with more blobs each time a worker lacks some, and take what came of it."""
        envelope = await self._envelope_for(flight)
        blobs = self._blobs_to_carry(envelope)
        for _ in range(_MAX_RESENDS):
            body = envelope.encode(blobs, self._policy(flight), expected_s=flight.expected_s)
            limit = api.RUN_MAX_BYTES if self.streams else api.RUNSYNC_MAX_BYTES
            if flight.is_batch and len(body) > limit:
                self._divide(flight)
                return
            check_size(len(body), limit, f"call of {flight.call.title}")
            self._carried.update(blobs)
            outcome = self._read(flight, await self._finished(flight, body))
            if not outcome.missing or outcome.returned:
                self._known.update(envelope.needs)
                # What a worker lacks amid a batch goes along with what it hands back.
                self._known.difference_update(outcome.missing)
                self._carried.difference_update(outcome.missing)
                await self._land(flight, outcome)
                return
            leases = [submission.call._held for submission in flight.open.values()]
            envelope = with_objects(envelope, leases, outcome.missing)
            blobs = [digest for digest in outcome.missing if digest in envelope.blobs]
            if not await stored_again(leases) and not blobs:
                raise EnvelopeError(f"the worker asks for {outcome.missing}, which {flight!r} does not have")
        raise EnvelopeError(
            f"{flight!r} was sent {_MAX_RESENDS} times and each worker lacked its code; do the workers of "
            f"endpoint {self.config.name!r} keep their disk between calls?"
        )

    async def has_begun(self, submission: Submission) -> bool | None:
        """As `Lane.has_begun`; asks the platform where nothing is known here."""
        flight = submission.flight
        if flight is None or submission.is_running:
            return submission.is_running
        if (job_id := flight.job_id) is None:
            return None if flight.is_asking else False
        if (handle := self._handle) is None:
            return None
        client = self.session.client
        job = await self._asked(flight, time.monotonic(), lambda: client.status(handle, job_id))
        return job.status is not JobStatus.IN_QUEUE

    def _blobs_to_carry(self, envelope: CallEnvelope) -> list[str]:
        unknown = [digest for digest in envelope.needs if digest not in self._known]
        if sum(len(envelope.blobs[digest]) for digest in unknown) <= _SMALL_BLOBS_BYTES:
            return unknown
        return [digest for digest in unknown if digest not in self._carried]

    async def _finished(self, flight: Flight, body: bytes) -> JobResult:
        """Submit a job and return it finished."""
        flight.begin_job()
        job = await self._submitted(flight, body)
        if job.status.is_terminal and not self.streams:
            return job
        if flight.is_unwanted:
            await self._cancel(flight)
        try:
            return await self._followed(flight, job)
        except PlatformUnavailable:  # the job may run on, for nobody, or beside another attempt
            if self.lost_reason() is None:
                self.session.loop.spawn(self._cancel(flight))
            raise

    async def _submitted(self, flight: Flight, body: bytes) -> JobResult:
        from ..platforms.runpod import TransportFailure

        failures, was_remade = 0, False
        while True:
            handle = await self._provisioned()
            try:
                return await self._paced(
                    functools.partial(self._sent, flight, handle, body),
                    f"submitting {flight!r}",
                    window=self._window,
                )
            except NotFoundError:
                if was_remade:
                    raise
                was_remade = True
                self._handle = None  # somebody deleted the endpoint: nothing was accepted, so make it again
            except ApiError as error:
                if 400 <= error.status < 500:
                    raise
                raise unknown(flight, error) from error
            except TransportFailure as error:
                failures += 1
                if error.was_sent:
                    raise unknown(flight, error) from error
                if (reason := self.lost_reason()) is not None:
                    raise PlatformGone(reason) from error
                if failures >= _MAX_TRANSPORT_ERRORS:
                    raise PlatformUnavailable(f"{flight!r} could not be sent: {error}") from error
                await asyncio.sleep(_TRANSPORT_PAUSE_S)

    async def _sent(self, flight: Flight, handle: EndpointHandle, body: bytes) -> JobResult:
        """Send a job, unless nobody wants it any more or the platform is gone."""
        if all(submission.is_cancelled for submission in flight.open.values()):
            raise JobCancelled(f"{flight!r} was cancelled before the platform took it")
        if (reason := self.lost_reason()) is not None:
            raise PlatformGone(reason)
        client = self.session.client
        flight.is_asking = True
        try:
            if self.streams or (self._is_long(flight) and len(body) <= api.RUN_MAX_BYTES):
                job = await client.run(handle, body)
            else:
                job = await client.run_sync(handle, body, wait_ms=api.RUNSYNC_WAIT_MIN_MS)
            flight.name_job(job.id)
            return job
        finally:
            flight.is_asking = False

    def _is_long(self, flight: Flight) -> bool:
        expected_s = self._expected_s(flight)
        return expected_s is not None and expected_s > _LONG_S

    async def _followed(self, flight: Flight, job: JobResult) -> JobResult:
        """Wait for the end of a job that the platform has accepted."""
        client, handle, call = self.session.client, await self._provisioned(), flight.call
        sent_at = time.monotonic()
        job_id, status = job.id, job.status
        while True:
            self._note_running(flight, status is not JobStatus.IN_QUEUE)
            if flight.is_running:
                self._watch.note_progress()
            else:
                self._watch.begin()
            if self.streams or self._is_held or self._is_probe_due():
                if isinstance(call, StreamCall):
                    await call._room()
                asked_at = time.monotonic()
                status, chunks = await self._asked(flight, sent_at, lambda: client.stream(handle, job_id))
                await self._take_chunks(flight, status, chunks)
                has_news = status.is_terminal or bool(chunks)
                if not has_news and not self._learnt_held(time.monotonic() - asked_at):
                    await self.session.poller.turn(age_s=time.monotonic() - sent_at)
                if not status.is_terminal or (chunks and self.streams):
                    continue
            else:
                await self.session.poller.turn(age_s=time.monotonic() - sent_at)
            job = await self._asked(flight, sent_at, lambda: client.status(handle, job_id))
            if job.status.is_terminal:
                return job

    def _note_running(self, flight: Flight, is_running: bool) -> None:
        if flight.is_running == is_running:
            return
        flight.is_running = is_running
        for submission in flight.open.values():
            submission.is_running = is_running
            if is_running and submission.deadlines is not None:
                submission.deadlines.begun()
            if not is_running:
                self._tell_returned(submission)
        self._begun.said(flight, is_running)

    def _learnt_held(self, took_s: float) -> bool:
        """Return whether the platform held a request that brought no news."""
        self._is_held = took_s >= _HOLDS_AT_LEAST_S
        self._probe_at = time.monotonic() + _PROBE_INTERVAL_S
        return self._is_held

    def _is_probe_due(self) -> bool:
        """Return True for the one job that is to find out whether the platform holds requests by now."""
        if time.monotonic() < self._probe_at:
            return False
        self._probe_at = time.monotonic() + _PROBE_INTERVAL_S
        return True

    async def _asked(self, flight: Flight, sent_at: float, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask about an accepted job, through errors of transport or server and the moments until it is visible."""
        from ..platforms.runpod import TransportFailure

        failures = 0
        while True:
            try:
                return await self._paced(ask, f"asking about {flight!r}")
            except NotFoundError as error:
                ttl_h = self._policy(flight)["ttl"] / 3.6e6
                if time.monotonic() - sent_at > _VISIBILITY_S or self.lost_reason() is not None:
                    raise JobExpired(
                        f"{flight!r}: the platform no longer has job {flight.job_id}; results are "
                        f"kept for {api.RUNSYNC_RETENTION_S:g} s, and this process may have slept longer; or the job "
                        f"lived, in the queue and running, longer than its ttl of {ttl_h:g} h",
                        job_id=flight.job_id,
                    ) from error
            except (TransportFailure, ApiError) as error:
                if isinstance(error, ApiError) and error.status < 500:
                    raise
                failures += 1
                if failures >= _MAX_TRANSPORT_ERRORS or self.lost_reason() is not None:
                    raise PlatformUnavailable(
                        f"{flight!r} was accepted, and then the platform stopped answering: {error}"
                    ) from error
            await asyncio.sleep(_TRANSPORT_PAUSE_S)

    async def _paced(self, ask: Callable[[], Awaitable[T]], what: str, *, window: Window | None = None) -> T:
        """Ask as often as the platform allows; only what submits jobs changes how many may fly."""
        from ..platforms.runpod import RateLimited

        patience = Patience(self.session.clock)
        while True:
            asked_at = time.monotonic()
            try:
                answer = await ask()
            except RateLimited as limited:
                if window is not None:
                    window.shrink(sent_at=asked_at)
                if not await patience.pause(limited.retry_after_s):
                    raise PlatformUnavailable(
                        f"{what}: the platform refuses it for its rate limit, and {PATIENCE_S / 60:g} minutes of "
                        f"waiting are not enough; do other programs use the same key or endpoint? {limited}"
                    ) from limited
            else:
                if window is not None:
                    window.grow()
                return answer

    async def _take_chunks(self, flight: Flight, status: JobStatus, chunks: Sequence[Any]) -> None:
        try:
            for chunk in chunks:
                outcome = decode_outcome(chunk)
                if flight.is_batch:
                    await self._take_results(flight, outcome)
                else:
                    flight.call._receive(outcome)
        except FlashPluginsError:
            if not status.is_terminal:  # nobody will look at the rest
                self.session.loop.spawn(self._cancel(flight))
            raise

    def _read(self, flight: Flight, job: JobResult) -> Outcome:
        """Return the outcome of a finished job, or raise why there is none."""
        call = flight.call
        flight.name_job(job.id)
        for submission in flight.open.values():
            submission.call.worker_id = job.worker_id
        if job.status is JobStatus.COMPLETED:
            if self.streams:
                collected = job.output if isinstance(job.output, list) else []
                return call._complete(decode_outcome(entry) for entry in collected)
            return decode_outcome(job.output)
        if (outcome := decode_failure_text(job.error)) is not None:
            return outcome
        raise ending_of(flight, job)

    def _is_divisible(self, flight: Flight, error: FlashPluginsError) -> bool:
        if not super()._is_divisible(flight, error):
            return False
        # The one call that is left may have begun late, and then it had less time than it is allowed.
        return isinstance(error, WorkerLost) or len(flight.open) > 1 or flight.busy_s > _slack_s(flight)

    async def _cancel(self, flight: Flight) -> None:
        if flight.job_id is None or flight.is_cancel_sent or self._handle is None or not self.session.tells_platform:
            return  # not accepted yet: _finished sends it as soon as the id is known
        flight.is_cancel_sent = True
        if self.lost_reason() is not None:  # the job is gone with its platform
            flight.is_cancel_done = True
            return
        client, handle, job_id = self.session.client, self._handle, flight.job_id
        try:
            await self._asked(flight, time.monotonic(), lambda: client.cancel(handle, job_id))
        except FlashPluginsError as error:
            logger.warning("%r could not be cancelled on the platform: %s", flight, error)
            if any(one.verdict is not None for one in flight.open.values()):
                flight.is_cancel_sent = False  # it ends with its job, so the next look tries again
        finally:
            flight.is_cancel_done = True  # or it never will be: the end of the process must not wait for it


def _slack_s(flight: Flight) -> float:
    """Return by how much a batch may take longer than the limit of a call, seconds: what its other calls may take.

    A worker hands back those behind a call that is long.
    """
    return HANDED_BACK_AFTER_S + 2 * (flight.expected_s or 0.0)
