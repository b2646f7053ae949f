# SPDX-License-Identifier: Apache-2.0
"""The lane of a queue endpoint: calls travel as jobs, followed from submission to outcome.

    queue ──(window)──► /runsync held 1 s ──► finished ──────────────────────────────► outcome
                             └── not yet: id known ──► /stream held until the end ──► /status ──► outcome

One request carries a short call; a longer one is followed by held requests, and by one poller where the
platform does not hold them. The id of a job is known after a second at the latest, so it can be cancelled.
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
)
from ..job import JobResult, JobStatus
from ..payload import CallEnvelope, Outcome, check_size, decode_failure_text, decode_outcome
from ..platforms import api
from .deadlines import execution_timeout_ms
from .endings import ending_of, unknown
from .lane import Lane, PlatformGone, Submission
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


class QueueLane(Lane):
    """Carries the calls of a queue endpoint; as `Lane`."""

    def __init__(self, session: Session, config: EndpointConfig, *, streams: bool) -> None:
        super().__init__(session, config, streams=streams)
        self._window = Window()
        self._known: set[str] = set()  # digests that some worker has
        self._carried: set[str] = set()  # digests that were sent at least once
        self._is_held = True  # whether the platform holds /stream, as far as known
        self._probe_at = 0.0  # when to find out again
        limit_ms = config.execution_timeout_ms or api.NO_EXECUTION_LIMIT_MS
        self._policy = {
            "executionTimeout": limit_ms,
            "ttl": min(limit_ms + _TTL_MARGIN_MS, api.POLICY_MAX_MS),
        }

    def _has_room(self) -> bool:
        return len(self._flying) < self._window.size

    async def _outcome(self, submission: Submission) -> Outcome:
        """Send the call, with more blobs each time a worker lacks some, and return what came of it."""
        envelope = await self._envelope_of(submission)
        blobs = self._blobs_to_carry(envelope)
        for _ in range(_MAX_RESENDS):
            body = envelope.encode(blobs, self._policy_of(submission))
            limit = api.RUN_MAX_BYTES if self.streams else api.RUNSYNC_MAX_BYTES
            check_size(len(body), limit, f"call of {submission.call.function_name}()")
            self._carried.update(blobs)
            job = await self._finished(submission, body)
            outcome = self._read(submission, job)
            if not outcome.missing:
                self._known.update(envelope.needs)
                return outcome
            envelope = with_objects(envelope, [submission.call._held], outcome.missing)
            blobs = [digest for digest in outcome.missing if digest in envelope.blobs]
            if not await stored_again([submission.call._held]) and not blobs:
                raise EnvelopeError(f"the worker asks for {outcome.missing}, which {submission.call!r} does not have")
        raise EnvelopeError(
            f"{submission.call!r} was sent {_MAX_RESENDS} times and each worker lacked its code; do the workers of "
            f"endpoint {self.config.name!r} keep their disk between calls?"
        )

    def _policy_of(self, submission: Submission) -> dict[str, int]:
        limit_ms = execution_timeout_ms(self._policy["executionTimeout"], submission.options.run_timeout)
        return {**self._policy, "executionTimeout": limit_ms}

    async def has_begun(self, submission: Submission) -> bool | None:
        """As `Lane.has_begun`; asks the platform where nothing is known here."""
        job_id = submission.call.job_id
        if submission.is_running or not submission.is_sent:
            return submission.is_running
        if job_id is None:
            return None if submission.is_asking else False
        if (handle := self._handle) is None:
            return None
        client = self.session.client
        job = await self._asked(submission, time.monotonic(), lambda: client.status(handle, job_id))
        return job.status is not JobStatus.IN_QUEUE

    def _blobs_to_carry(self, envelope: CallEnvelope) -> list[str]:
        unknown = [digest for digest in envelope.needs if digest not in self._known]
        if sum(len(envelope.blobs[digest]) for digest in unknown) <= _SMALL_BLOBS_BYTES:
            return unknown
        return [digest for digest in unknown if digest not in self._carried]

    async def _finished(self, submission: Submission, body: bytes) -> JobResult:
        """Submit a job and return it finished."""
        submission.call.job_id = None  # of an earlier job, if the call is sent again
        submission.call._begin_job()
        submission.is_cancel_sent = submission.is_cancel_done = False
        job = await self._submitted(submission, body)
        if job.status.is_terminal and not self.streams:
            return job
        submission.call.job_id = job.id
        if submission.is_cancelled or submission.verdict is not None:
            await self._send_cancel(submission)
        return await self._followed(submission, job)

    async def _submitted(self, submission: Submission, body: bytes) -> JobResult:
        from ..platforms.runpod import TransportFailure

        failures, was_remade = 0, False
        while True:
            handle = await self._provisioned()
            try:
                return await self._paced(
                    functools.partial(self._sent, submission, handle, body),
                    f"submitting {submission.call!r}",
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
                raise unknown(submission.call, error) from error
            except TransportFailure as error:
                failures += 1
                if error.was_sent:
                    raise unknown(submission.call, error) from error
                if (reason := self.lost_reason()) is not None:
                    raise PlatformGone(reason) from error
                if failures >= _MAX_TRANSPORT_ERRORS:
                    raise PlatformUnavailable(f"{submission.call!r} could not be sent: {error}") from error
                await asyncio.sleep(_TRANSPORT_PAUSE_S)

    async def _sent(self, submission: Submission, handle: EndpointHandle, body: bytes) -> JobResult:
        """Send a job, unless nobody wants it any more or the platform is gone."""
        if submission.is_cancelled:
            raise JobCancelled(f"{submission.call!r} was cancelled before the platform took it")
        if (reason := self.lost_reason()) is not None:
            raise PlatformGone(reason)
        client = self.session.client
        submission.is_asking = True
        try:
            if self.streams:
                job = await client.run(handle, body)
            else:
                job = await client.run_sync(handle, body, wait_ms=api.RUNSYNC_WAIT_MIN_MS)
            submission.call.job_id = job.id
            return job
        finally:
            submission.is_asking = False

    async def _followed(self, submission: Submission, job: JobResult) -> JobResult:
        """Wait for the end of a job that the platform has accepted."""
        client, handle, call = self.session.client, await self._provisioned(), submission.call
        sent_at = time.monotonic()
        job_id, status = job.id, job.status
        while True:
            submission.is_running = status is not JobStatus.IN_QUEUE
            if submission.is_running:
                self._watch.note_progress()
                if submission.deadlines is not None:
                    submission.deadlines.begun()
            else:
                self._watch.begin()
            if self.streams or self._is_held or self._is_probe_due():
                if isinstance(call, StreamCall):
                    await call._room()
                asked_at = time.monotonic()
                status, chunks = await self._asked(submission, sent_at, lambda: client.stream(handle, job_id))
                self._take_chunks(submission, status, chunks)
                has_news = status.is_terminal or bool(chunks)
                if not has_news and not self._learnt_held(time.monotonic() - asked_at):
                    await self.session.poller.turn(age_s=time.monotonic() - sent_at)
                if not status.is_terminal or (chunks and self.streams):
                    continue
            else:
                await self.session.poller.turn(age_s=time.monotonic() - sent_at)
            job = await self._asked(submission, sent_at, lambda: client.status(handle, job_id))
            if job.status.is_terminal:
                return job

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

    async def _asked(self, submission: Submission, sent_at: float, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask about an accepted job, through errors of transport or server and the moments until it is visible."""
        from ..platforms.runpod import TransportFailure

        failures = 0
        while True:
            try:
                return await self._paced(ask, f"asking about {submission.call!r}")
            except NotFoundError as error:
                if time.monotonic() - sent_at > _VISIBILITY_S or self.lost_reason() is not None:
                    raise JobExpired(
                        f"{submission.call!r}: the platform no longer has job {submission.call.job_id}; results are "
                        f"kept for {api.RUNSYNC_RETENTION_S:g} s, and this process may have slept longer; or the job "
                        f"lived, in the queue and running, longer than its ttl of {self._policy['ttl'] / 3.6e6:g} h",
                        job_id=submission.call.job_id,
                    ) from error
            except (TransportFailure, ApiError) as error:
                if isinstance(error, ApiError) and error.status < 500:
                    raise
                failures += 1
                if failures >= _MAX_TRANSPORT_ERRORS or self.lost_reason() is not None:
                    raise PlatformUnavailable(
                        f"{submission.call!r} was accepted, and then the platform stopped answering: {error}"
                    ) from error
            await asyncio.sleep(_TRANSPORT_PAUSE_S)

    async def _paced(self, ask: Callable[[], Awaitable[T]], what: str, *, window: Window | None = None) -> T:
        """Ask as often as the platform allows; only what submits jobs changes how many may fly."""
        from ..platforms.runpod import RateLimited

        patience = Patience()
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

    def _take_chunks(self, submission: Submission, status: JobStatus, chunks: Sequence[Any]) -> None:
        try:
            for chunk in chunks:
                submission.call._receive(decode_outcome(chunk))
        except FlashPluginsError:
            if not status.is_terminal:  # nobody will look at the rest
                self.session.loop.spawn(self._send_cancel(submission))
            raise

    def _read(self, submission: Submission, job: JobResult) -> Outcome:
        """Return the outcome of a finished job, or raise why there is none."""
        call = submission.call
        call.job_id = job.id
        call.worker_id = job.worker_id
        if job.status is JobStatus.COMPLETED:
            if self.streams:
                collected = job.output if isinstance(job.output, list) else []
                return call._complete(decode_outcome(entry) for entry in collected)
            return decode_outcome(job.output)
        if (outcome := decode_failure_text(job.error)) is not None:
            return outcome
        raise ending_of(call, job)

    async def _send_cancel(self, submission: Submission) -> None:
        job_id = submission.call.job_id
        if job_id is None or submission.is_cancel_sent or self._handle is None or not self.session.tells_platform:
            return  # not accepted yet: _finished sends it as soon as the id is known
        submission.is_cancel_sent = True
        client, handle = self.session.client, self._handle
        try:
            await self._asked(submission, time.monotonic(), lambda: client.cancel(handle, job_id))
        except FlashPluginsError as error:
            logger.warning("%r could not be cancelled on the platform: %s", submission.call, error)
            if submission.verdict is not None:  # it ends with its job, so the next look tries again
                submission.is_cancel_sent = False
        finally:
            submission.is_cancel_done = True  # or it never will be: the end of the process must not wait for it
