# SPDX-License-Identifier: Apache-2.0
"""The lane of a load-balanced endpoint: calls travel as HTTP requests straight to a worker, and wait only here.

    queue ──(room)──► a worker is there? ──► POST, held 1 s ──► done ─────────────────────────► outcome
                        ▲                      │    └── accepted ──► GET from that worker, held, until it is done
                        └── no worker took it ─┘                     (`courier`: requests about one call)

A worker that cannot begin a call at once gives it back, so that it gets to whichever worker is free first. A call that
a worker has accepted is that worker's: it is lost with it. What may have run is sent again only where the caller said
that it may run twice.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from .. import binary
from ..config import EndpointConfig
from ..errors import (
    EnvelopeError,
    JobCancelled,
    JobFailed,
    JobTimeout,
    NoWorkers,
    PlatformUnavailable,
    SubmissionUnknown,
    WorkerLost,
    WorkerStartFailed,
)
from ..exchange import CallAnswer, CallState, request_body
from ..payload import CallEnvelope, Outcome, check_size, decode_outcome
from ..platforms import api
from ..platforms.api import EndpointKind
from .carried import MOST_SENDS, Carried
from .courier import Courier, Fate, error_in, fate_of, gone, refusal, retry_after_s
from .endings import unknown
from .lane import PlatformGone, SingleLane, Submission
from .objects import stored_again, with_objects
from .readiness import Readiness, start_error, start_failure
from .room import Room
from .stream import StreamCall
from .window import PATIENCE_S, Patience

if TYPE_CHECKING:
    from ..platforms.answer import Answer
    from ..platforms.runpod import EndpointHandle
    from .call import Call
    from .session import Session

__all__ = ["BalancedLane"]

#: What to do about a call that was lost.
_NOT_AGAIN = (
    "a load-balanced call is not run again by itself: repeat it if it may run twice, or have that done by "
    "with_options(idempotent=True)"
)
#: Seconds that the request which begins a call is held. Short: until it is answered nobody knows which worker has the
#: call, so that it cannot be cancelled there.
_BEGIN_HOLD_S = 1.0
#: Most calls that ask for a worker at once while there is none: each is a held request.
_MOST_ASKERS = 64
#: Seconds that such a request, of a call that was cancelled, is waited for: so long does a worker take to say that
#: it has it.
_CANCEL_WAIT_S = 1.3
#: Tries to get a call to a platform that cannot be reached, and the pause between them, seconds.
_MAX_TRANSPORT_ERRORS = 5
_TRANSPORT_PAUSE_S = 0.5
#: Seconds between two looks at whether the platform is still there; a call that meets its end looks, too.
_LOOK_EVERY_S = 0.25
#: Pause after the platform said that it has no worker, seconds, and how long it may say so.
_NO_WORKER_PAUSE_S = 0.5
_NO_WORKER_MAX_S = api.WORKER_INSTALL_TIMEOUT_S


class _Flight:
    """A call on its way to a worker, or there."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(16)
        self.worker: str | None = None  # that has accepted it
        self.limit = asyncio.timeout(None)  # on what comes before that
        self.is_cancel_sent = False
        self.is_cancel_done = False
        self.posted_at: float | None = None  # while the request for it is open
        self.asked_at: float | None = None  # whether a worker has begun it

    @property
    def is_posting(self) -> bool:
        """Whether a worker may have it without having said so."""
        return self.posted_at is not None

    def may_be_running(self) -> bool:
        """Return whether it is too soon to say that no worker had it when this was asked first."""
        now = time.monotonic()
        if self.asked_at is None:
            self.asked_at = now
        # A request that began later means that the worker before gave the call back.
        return self.posted_at is not None and self.posted_at <= self.asked_at and now - self.posted_at < _CANCEL_WAIT_S

    def give_up(self) -> None:
        """Wait no longer for a worker, as nobody wants the call any more; but hear what one has to say that has it."""
        if self.worker is None:
            pause_s = _CANCEL_WAIT_S if self.is_posting else 0.0
            self.limit.reschedule(asyncio.get_running_loop().time() + pause_s)


class BalancedLane(SingleLane):
    """Carries the calls of a load-balanced endpoint; as `Lane`."""

    _kind: ClassVar[EndpointKind] = EndpointKind.LOAD_BALANCER

    def __init__(self, session: Session, config: EndpointConfig, *, streams: bool) -> None:
        super().__init__(session, config, streams=streams)
        self._room = Room(config)
        self._carried = Carried()
        self._readiness = Readiness()
        self._flights: dict[Submission, _Flight] = {}
        self._seen_at = 0.0  # when the platform was there

    def _has_room(self) -> bool:
        return len(self._flying) < self._room.size

    def uncancelled(self) -> list[str | None]:
        """As `Lane.uncancelled`."""
        return [
            flight.id if flight.worker is not None else None
            for flight in self._flights.values()
            if flight.is_posting or (flight.worker is not None and not flight.is_cancel_done)
        ]

    async def delay(self) -> str | None:
        """As `Lane.delay`."""
        if self._handle is None:
            return "the endpoint is still being created"
        others = len(self._flying) - 1
        if self._readiness.reason is None and others > 0:
            calls = "1 other call" if others == 1 else f"{others} other calls"
            return f"its workers are busy with {calls}: allow more with workers=…"
        return self._readiness.reason

    async def has_begun(self, submission: Submission) -> bool | None:
        """As `Lane.has_begun`: a worker says within a second that it has begun a call, or gives it back."""
        flight = self._flights.get(submission)
        if submission.is_running or flight is None:
            return submission.is_running
        return None if flight.may_be_running() else False

    async def _outcome(self, submission: Submission) -> Outcome:
        """Get the call to a worker and return what came of it; again after a loss, where it may run twice."""
        losses = 0
        while True:
            try:
                return await self._outcome_with_blobs(submission)
            except (WorkerLost, SubmissionUnknown) as error:
                losses += 1
                may_repeat = submission.options.idempotent and submission.options.worker is None
                if isinstance(error, WorkerStartFailed) or not may_repeat or losses >= api.MAX_ATTEMPTS:
                    raise
                await asyncio.sleep(_TRANSPORT_PAUSE_S)

    async def _outcome_with_blobs(self, submission: Submission) -> Outcome:
        """Send the call, with more blobs each time a worker lacks some, and return what came of it."""
        envelope, call = await self._envelope_of(submission), submission.call
        if submission.args is not envelope.args:  # an envelope may be that of many calls
            envelope = replace(envelope, args=submission.args)
        blobs = self._carried.begin(envelope)
        for _ in range(MOST_SENDS):
            flight = self._flights[submission] = _Flight()
            call.job_id = None
            call._begin_job()
            submission.is_running = False
            self._tell_returned(submission)
            try:
                outcome = await self._flown(submission, flight, self._body(submission, flight, envelope, blobs))
            finally:
                del self._flights[submission]
            self._carried.note_sent(blobs)
            if not outcome.missing:
                self._carried.note_known(envelope)
                self._room.note(outcome.seconds or 0.0)
                return outcome
            envelope = with_objects(envelope, [call._held], outcome.missing)
            is_stored = await stored_again([call._held])
            blobs = self._carried.lacking(envelope, outcome.missing, repr(call), are_elsewhere=is_stored)
        raise EnvelopeError(
            f"{call!r} was sent {MOST_SENDS} times and each worker lacked its code; do the workers of endpoint "
            f"{self.config.name!r} keep their disk between calls?"
        )

    def _body(self, submission: Submission, flight: _Flight, envelope: CallEnvelope, blobs: list[str]) -> bytes:
        call, limit_ms = submission.call, self.config.execution_timeout_ms
        body = request_body(
            flight.id,
            envelope,
            blobs,
            streams=isinstance(call, StreamCall),
            hold_s=_BEGIN_HOLD_S,
            limit_s=submission.options.run_timeout or (limit_ms / 1000 if limit_ms else None),
        )
        check_size(len(body), api.BALANCED_BODY_MAX_BYTES, f"call of {call.title}")
        return body

    async def _flown(self, submission: Submission, flight: _Flight, body: bytes) -> Outcome:
        """Get the call to a worker and see it through there."""
        call = submission.call
        try:
            async with flight.limit:
                answer, courier = await self._taken(submission, flight, body)
        except TimeoutError:
            raise JobCancelled(f"{call!r} was cancelled before a worker took it") from None
        del body
        received = 0
        while True:
            received = max(received, answer.first + len(answer.chunks))
            for chunk in answer.chunks:
                call._receive(decode_outcome(binary.unpack(chunk)))
            if answer.state is not CallState.ACCEPTED:
                return self._ended(submission, answer)
            if not submission.is_running:
                submission.is_running = True
                self._tell_started(submission)
                if submission.deadlines is not None:
                    submission.deadlines.begun()
            call.job_id, call.worker_id = flight.id, flight.worker
            if submission.is_cancelled or submission.verdict is not None:
                await self._send_cancel(submission)
            if isinstance(call, StreamCall):
                await call._room()
            answer = await courier.ask(flight.id, after=received)

    async def _taken(self, submission: Submission, flight: _Flight, body: bytes) -> tuple[CallAnswer, Courier]:
        """Send the call until a worker has taken it; return what it answered, and what asks it again."""
        call, options = submission.call, submission.options
        trouble = _Trouble(submission)
        while True:
            handle = await self._provisioned()
            if options.worker is None:
                await self._ready(submission, handle)
            if submission.is_cancelled:
                raise JobCancelled(f"{call!r} was cancelled before a worker took it")
            self._check_platform()
            response = await self._posted(submission, flight, handle, body, trouble)
            if response is None:
                continue
            match fate_of(response):
                case Fate.ANSWERED:
                    answer = CallAnswer.parse(response.content)
                    self._readiness.note(handle, self.config.idle_timeout)
                    if answer.state is not CallState.BUSY:
                        flight.worker = response.headers.get(api.WORKER_ID_HEADER) or answer.worker
                        return answer, Courier(self.session, handle, call, str(flight.worker), self.lost_reason)
                case Fate.NO_WORKER:
                    self._readiness.forget(handle)
                    await trouble.note_no_worker(response)
                case Fate.NOT_STARTING:
                    raise self._start_failed(submission, start_error(handle, start_failure(response) or ""))
                case Fate.ENDPOINT_GONE if trouble.may_make_anew():
                    self._handle = None  # somebody deleted it: nothing was accepted, so make it again
                case Fate.UNREACHED:
                    await trouble.note_failure(refusal(self.session.client, response))
                case Fate.LIMITED:
                    await trouble.note_limited(response)
                case Fate.WORKER_GONE:
                    raise gone(call, options.worker, response)
                case Fate.WORKER_LOST:
                    raise _lost(call, error_in(response))
                case Fate.UNKNOWN:
                    raise unknown(call, refusal(self.session.client, response))
                case _:
                    raise refusal(self.session.client, response)

    def _check_platform(self) -> None:
        """Raise PlatformGone if the platform is gone. Looking reads a file, so it is done a few times a second."""
        if (now := time.monotonic()) - self._seen_at > _LOOK_EVERY_S:
            if (reason := self.lost_reason()) is not None:
                raise PlatformGone(reason)
            self._seen_at = now

    async def _ready(self, submission: Submission, handle: EndpointHandle) -> None:
        """Return once there is a worker, or has been one lately."""
        try:
            await self._readiness.wait(
                self.session.client,
                handle,
                self.config.idle_timeout,
                tell=self.session.tell,
                most_askers=_MOST_ASKERS,
            )
        except NoWorkers as error:
            raise self._start_failed(submission, error) from error

    def _start_failed(self, submission: Submission, error: Exception) -> Exception:
        return WorkerStartFailed(f"{submission.call!r}: {error}") if isinstance(error, NoWorkers) else error

    async def _posted(
        self, submission: Submission, flight: _Flight, handle: EndpointHandle, body: bytes, trouble: _Trouble
    ) -> Answer | None:
        """Send the call and return the answer, None where it was surely not sent and is to be sent again."""
        from ..platforms.runpod import TransportFailure

        courier = Courier(self.session, handle, submission.call, submission.options.worker, self.lost_reason)
        flight.posted_at = time.monotonic()
        try:
            return await courier.begin(body, hold_s=_BEGIN_HOLD_S)
        except TransportFailure as error:
            if error.was_sent:
                raise unknown(submission.call, error) from error
            if (reason := self.lost_reason()) is not None:
                raise PlatformGone(reason) from error
            await trouble.note_failure(error)
            return None
        finally:
            flight.posted_at = None

    def _ended(self, submission: Submission, answer: CallAnswer) -> Outcome:
        """Return the outcome of a call that is over, or raise why there is none."""
        call = submission.call
        match answer.state:
            case CallState.DONE:
                outcome = decode_outcome(binary.unpack(answer.outcome or b""))
                if not isinstance(call, StreamCall) or outcome.missing or outcome.failure is not None:
                    return outcome
                call._receive(outcome)
                return call._complete(())
            case CallState.CANCELLED:
                raise JobCancelled(f"{call!r} was cancelled on its worker", job_id=call.job_id)
            case CallState.TIMED_OUT:
                limit = "run_timeout" if submission.options.run_timeout is not None else None
                raise JobTimeout(
                    f"{call!r} was stopped by its worker: {answer.reason}, and its limit is "
                    f"{limit or 'execution_timeout_ms of the endpoint'}",
                    job_id=call.job_id,
                    limit=limit,
                )
            case CallState.LOST:
                raise _lost(call, f"{api.WORKER_LOST_PREFIX}{answer.reason}")
            case CallState.UNKNOWN:
                reason = (
                    f"its worker {call.worker_id} does not know it any more: it was started again under its id, or "
                    "nobody asked for the call for minutes"
                )
                raise WorkerLost(f"{call!r}: {reason}", job_id=call.job_id, reason=reason)
            case _:
                raise JobFailed(f"{call!r} failed on the worker: {answer.reason}", job_id=call.job_id)

    async def _send_cancel(self, submission: Submission) -> None:
        flight = self._flights.get(submission)
        if flight is None or not self.session.tells_platform:
            return
        if flight.worker is None:
            flight.give_up()  # `_flown` cancels it where a worker says that it has it
            return
        if flight.is_cancel_sent or self._handle is None:
            return
        flight.is_cancel_sent = True
        courier = Courier(self.session, self._handle, submission.call, flight.worker, self.lost_reason)
        try:
            await courier.cancel(flight.id)
        finally:
            flight.is_cancel_done = True  # or it never will be: the end of the process must not wait for it


class _Trouble:
    """What went wrong so far with getting one call to a worker, and how much more of that is borne."""

    def __init__(self, submission: Submission) -> None:
        self._submission = submission
        self._failures = 0
        self._began_at = time.monotonic()
        self._was_remade = False
        self._patience = Patience()

    def may_make_anew(self) -> bool:
        """Return whether the endpoint may be made anew: once."""
        is_first, self._was_remade = not self._was_remade, True
        return is_first

    async def note_failure(self, error: Exception) -> None:
        """The call was surely not sent."""
        self._failures += 1
        if self._failures >= _MAX_TRANSPORT_ERRORS:
            raise PlatformUnavailable(f"{self._submission.call!r} could not be sent: {error}") from error
        await asyncio.sleep(_TRANSPORT_PAUSE_S)

    async def note_no_worker(self, response: Answer) -> None:
        """The platform says that it has no worker."""
        if time.monotonic() - self._began_at > _NO_WORKER_MAX_S:
            raise WorkerStartFailed(f"{self._submission.call!r}: {error_in(response)}")
        await asyncio.sleep(_NO_WORKER_PAUSE_S)

    async def note_limited(self, response: Answer) -> None:
        """The platform wants fewer requests."""
        if not await self._patience.pause(retry_after_s(response)):
            raise PlatformUnavailable(
                f"{self._submission.call!r}: the platform refuses it for its rate limit, and {PATIENCE_S / 60:g} "
                f"minutes of waiting are not enough: {error_in(response)}"
            )


def _lost(call: Call[Any], error: str) -> WorkerLost:
    reason = f"{error.removeprefix(api.WORKER_LOST_PREFIX)}; {_NOT_AGAIN}"
    return WorkerLost(f"{call!r}: {api.WORKER_LOST_PREFIX}{reason}", job_id=call.job_id, reason=reason)
