# SPDX-License-Identifier: Apache-2.0
"""The way of one endpoint's calls: they wait here, fly, and get their outcome. How they fly is for the kinds of lane.

    enqueue ──► backlog ──(_has_room)──► _launch: `queue_lane` jobs ──► settled: outcome, replayed output, event
                  └── dropped, failed, or given to the next platform where this one is gone

Lives on the dispatcher's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..config import EndpointConfig
from ..errors import FlashPluginsError, JobCancelled, WorkerStartFailed
from ..failure import decode_exception
from ..hooks import CallEvent, CallStage
from ..options import NO_OPTIONS, CallOptions
from ..payload import CallEnvelope, Outcome
from ..platforms.api import EndpointKind
from ..replay import replay
from .backlog import Backlog, FunctionKey
from .batching import MAX_CALLS
from .call import Call
from .deadlines import Deadlines
from .delay import delay_reason
from .endings import internal
from .flight import Flight, for_each
from .objects import addressed
from .retries import Attempts
from .watch import Watch

if TYPE_CHECKING:
    from ..platforms.runpod import EndpointHandle
    from .session import Session

__all__ = ["Lane", "PlatformGone", "SingleLane", "Submission"]

logger = logging.getLogger(__name__)

#: Seconds that the platform may take to say why calls wait.
_DELAY_TIMEOUT_S = 1.0


class PlatformGone(Exception):
    """The platform ended before it was given a call."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, eq=False)
class Submission:
    """One call on its way. Fields change on the loop only; the methods may be called from any thread.

    Attributes:
        envelope: What is sent, its arguments aside: many calls may share one.
        args: Its pickled arguments.
        size_bytes: What it adds to a job: its arguments, and their large parts where no store takes those.
        mates_max: With how many calls, itself among them, it may travel in one job; 0 for the usual number.
        is_queued: Whether it waits in the lane's backlog.
        is_running: Whether a worker has its job, as far as known.
        flight: The job that carries it, None while it waits, or where calls travel in no jobs.
        returns: How often it came back from a worker that had not begun it.
        deaths: How many processes died in it of which the worker itself tells, in this attempt.
        suspect: The step in which the last of them died, if it says such.
        moves: From platforms that ended to the next.
        verdict: What it ends with, whatever comes of its job.
        is_concluded: Whether its outcome was told: exactly one is.
        is_resting: Between two attempts.
        last_failure: Of the attempt before.
    """

    lane: Lane
    call: Call[Any]
    envelope: CallEnvelope
    options: CallOptions = NO_OPTIONS
    args: bytes = b""
    mates_max: int = 0
    is_queued: bool = False
    is_sent: bool = False
    is_cancelled: bool = False
    is_told_sent: bool = False
    is_told_started: bool = False
    is_running: bool = False
    flight: Flight | None = None
    returns: int = 0
    deaths: int = 0
    suspect: int | None = None
    moves: int = 0
    verdict: FlashPluginsError | None = None
    is_concluded: bool = False
    is_resting: bool = False
    last_failure: BaseException | None = None
    attempts: Attempts | None = None
    deadlines: Deadlines | None = None
    function_key: FunctionKey = field(init=False)
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        envelope = self.envelope
        self.args = self.args or envelope.args
        self.function_key = (
            envelope.code, envelope.method, envelope.bundle, envelope.instance, envelope.log_level, envelope.python,
        )  # fmt: skip
        self.mates_max = self.mates_max or MAX_CALLS
        shared = (envelope.code, envelope.bundle, envelope.instance)
        own = (len(content) for digest, content in envelope.blobs.items() if digest not in shared)
        self.size_bytes = len(self.args) + sum(own)
        if self.options is not NO_OPTIONS:
            self.attempts = Attempts(self.options)
            self.deadlines = Deadlines(self, self.lane.session.clock)
            if self.options.needs_own_job:
                self.mates_max = 1

    def refuses_attempt(self, pause_s: float) -> str | None:
        """Return why there can be no other attempt after so many seconds, None if there can. Loop thread."""
        if self.deadlines is not None and (why := self.deadlines.forbids(pause_s)) is not None:
            return why
        return None if self.call._restart() else "values of it were given out already"

    def begin_attempt(self, failure: BaseException) -> None:
        """Forget the attempt that failed. Loop thread."""
        self.lane._tell_returned(self)
        self.last_failure, self.verdict = failure, None
        self.is_resting = True
        self.is_sent = self.is_running = False
        self.deaths = 0
        self.flight = None
        self.call.job_id = None
        if self.attempts is not None:
            self.call.attempts = self.attempts.made
        if self.deadlines is not None:
            self.deadlines.attempt_ended()

    def cancel(self) -> None:
        """Have the platform told that nobody wants the outcome."""
        self.is_cancelled = True
        self.lane.session.loop.post(lambda: self.lane.drop(self))

    def delay(self) -> str | None:
        """Return why the call waits, None where nothing is wrong or the platform does not say. Not the loop thread."""
        try:
            reason: str | None = self.lane.session.loop.call(self.lane.delay(), _DELAY_TIMEOUT_S)
        except (TimeoutError, FlashPluginsError, RuntimeError) as error:  # RuntimeError: the loop has ended
            logger.debug("why %r waits is unknown: %s", self.call, error)
            return None
        return reason

    def interrupt(self) -> None:
        """Ctrl-C was pressed while somebody waited: cancel everything of this process."""
        self.lane.session.cancel_all()


class Lane(ABC):
    """Carries the calls of one endpoint.

    Args:
        session: The process's connection to its platform.
        config: What the endpoint is.
        streams: Whether its functions are generators.
    """

    _kind: ClassVar[EndpointKind] = EndpointKind.QUEUE

    def __init__(self, session: Session, config: EndpointConfig, *, streams: bool) -> None:
        self.session = session
        self.config = config
        self.streams = streams
        self._queue = Backlog()
        self._flying: set[Submission] = set()
        self._handle: EndpointHandle | None = None
        self._lost: str | None = None
        self._is_provisioning = False
        self._watch = Watch(self)

    @abstractmethod
    def _has_room(self) -> bool:
        """Return whether one more call may fly now."""

    @abstractmethod
    def _launch(self) -> bool:
        """Let the calls that are next fly; False if they had better wait for one that flies to end."""

    @abstractmethod
    async def _send_cancel(self, submission: Submission) -> None:
        """Have the platform told that nobody wants the outcome of a call that flies."""

    def uncancelled(self) -> list[str | None]:
        """Return the jobs that the platform may run and does not know to be cancelled; None for one without an id."""
        return []

    @property
    def submissions(self) -> list[Submission]:
        """All calls that are not done."""
        return [*self._queue, *self._flying]

    @property
    def handle(self) -> EndpointHandle | None:
        """The endpoint, None until it was made."""
        return self._handle

    @property
    def waits(self) -> bool:
        """Whether the platform has jobs of ours that no worker has taken, as far as known."""
        return False

    def give_up(self, why: str) -> None:
        """End all calls: the endpoint's workers do not start, and the platform would keep its jobs for ever."""
        for submission in self.take_queue():
            self.settle_error(submission, WorkerStartFailed(f"{submission.call!r}: {why}"))
        for submission in self._flying:
            submission.verdict = WorkerStartFailed(f"{submission.call!r}: {why}", job_id=submission.call.job_id)
        for submission in self._flying:
            self.session.loop.spawn(self._send_cancel(submission))  # which ends the question that is held for it

    def enqueue(self, submissions: Iterable[Submission]) -> None:
        """Take new calls."""
        for submission in submissions:
            self._tell(submission, CallStage.QUEUED)
            if submission.deadlines is not None:
                submission.deadlines.start()
            self._admit(submission)
        self._pump()

    def requeue(self, submission: Submission) -> None:
        """Take a call that another lane had and did not send, or that is tried again."""
        self._admit(submission)
        self._pump()

    def _admit(self, submission: Submission) -> None:
        submission.lane = self
        submission.is_resting = False
        if submission.deadlines is not None:
            submission.deadlines.queued()
        if self.session.uploads.wait(submission):
            return
        self._queue.add(submission)

    def lost_reason(self) -> str | None:
        """Return why the platform of this lane is gone, None while it lives or cannot tell."""
        return self._lost or self.session.lost_reason()

    def lose(self, reason: str) -> None:
        """Note that the platform of this lane is gone, whatever the session is connected to from here on."""
        self._lost = reason

    def provision(self) -> None:
        """Make sure that the endpoint exists, in the background."""
        if self._handle is None and not self._is_provisioning:
            self._is_provisioning = True
            self.session.loop.spawn(self._provision())

    async def delay(self) -> str | None:
        """Return why calls wait, None where nothing is wrong. Loop thread."""
        if self._handle is None:
            return "the endpoint is still being created"
        if self._watch.reason is not None:
            return self._watch.reason
        reason = delay_reason(str(self.config.name), await self.session.client.health(self._handle))
        if reason is None and self._queue and self._flying:
            calls = "1 call that is" if len(self._flying) == 1 else f"{len(self._flying)} calls that are"
            return f"{len(self._queue)} wait here for {calls} with its workers: allow more with workers=…"
        return reason

    async def has_begun(self, submission: Submission) -> bool | None:
        """Return whether a worker has begun the call; None while that cannot be told. Loop thread."""
        return submission.is_sent

    def end_early(self, submission: Submission, error: FlashPluginsError) -> None:
        """End a call here and now, and have the platform told if it has a job of it."""
        if not submission.is_concluded:
            self._conclude(submission, error)
            submission.is_cancelled = True  # from here on it is one that nobody wants
            self.drop(submission)

    def drop(self, submission: Submission) -> None:
        """Cancel a call wherever it is."""
        if self.session.pauses.drop(submission) or self.session.uploads.drop(submission):
            submission.call._let_go()
            self._tell(submission, CallStage.CANCELLED)
        elif not submission.is_sent:
            if self._queue.discard(submission):
                submission.call._let_go()
                self._tell(submission, CallStage.CANCELLED)
        elif submission in self._flying:
            self.session.loop.spawn(self._send_cancel(submission))

    def take_queue(self) -> list[Submission]:
        """Give up the calls that were not sent yet."""
        return self._queue.clear()

    def fail_all(self, error: FlashPluginsError) -> None:
        """End every call that waits here with `error`."""
        waiting = self.take_queue()
        for submission, one in zip(waiting, for_each(error, len(waiting)), strict=True):
            self.settle_error(submission, one)

    def _pump(self) -> None:
        if not self._queue:
            return
        if self._handle is None:
            self.provision()
            return
        while self._queue and self._has_room() and self._launch():
            continue

    def _begin(self, submissions: Sequence[Submission], flying: Awaitable[None], flight: Flight | None = None) -> None:
        """Let calls fly: `flying` gives them their outcome, unless they leave the flight before."""
        for submission in submissions:
            submission.is_sent = True
            submission.flight = flight
            self._flying.add(submission)
            if not submission.is_told_sent:
                submission.is_told_sent = True
                self._tell(submission, CallStage.SENT)
        self.session.loop.spawn(self._carry(submissions, flying, flight))

    async def _provision(self) -> None:
        try:
            self._handle = await self._ensured()
        except PlatformGone as gone:
            self.session.move_on(self, gone.reason, unsent=self.take_queue())
        except FlashPluginsError as error:
            waiting = self.take_queue()
            reason = self.session.explain(error, self)
            for submission, one in zip(waiting, for_each(reason, len(waiting)), strict=True):
                self.settle_error(submission, one)
        except Exception as error:  # whatever it is, no call may wait for ever
            self.fail_all(self._unexpected(error))
            if not self.session.is_ending:
                raise
        finally:
            self._is_provisioning = False
        self._pump()

    async def _provisioned(self) -> EndpointHandle:
        if self._handle is None:
            self._handle = await self._ensured()
        return self._handle

    async def _envelope_of(self, submission: Submission) -> CallEnvelope:
        """Return what to send of a call: only the platform that takes it knows where its objects go."""
        await self._provisioned()
        envelope = submission.envelope
        if envelope.args is not submission.args:  # it is that of many calls
            envelope = replace(envelope, args=submission.args)
        return addressed(envelope, submission.call, self.session, self.config)

    async def _ensured(self) -> EndpointHandle:
        """Have the endpoint made or brought up to date; what can safely be tried again was."""
        from ..platforms.runpod import TransportFailure

        try:
            return await self.session.provision(self.config, kind=self._kind, streams=self.streams)
        except TransportFailure as error:
            if (reason := self.lost_reason()) is not None:
                raise PlatformGone(reason) from error  # whatever was made is gone with it
            raise

    async def _carry(self, submissions: Sequence[Submission], flying: Awaitable[None], flight: Flight | None) -> None:
        """See calls through: whatever `flying` raises is for those that have no outcome yet."""
        try:
            await flying
        except PlatformGone as gone:
            unsent = self._left_of(submissions, flight)
            for submission in unsent:
                self._take_down(submission)
            self.session.move_on(self, gone.reason, unsent=unsent)
        except FlashPluginsError as error:
            left = self._left_of(submissions, flight)
            for submission, one in zip(left, for_each(self.session.explain(error, self), len(left)), strict=True):
                self.settle_error(submission, submission.verdict or one)
        except asyncio.CancelledError:
            for submission in self._left_of(submissions, flight):
                self.settle_error(submission, JobCancelled("the process is ending", job_id=submission.call.job_id))
            raise
        except Exception as error:  # whatever it is, the calls may not wait for ever
            for submission in self._left_of(submissions, flight):
                self.settle_error(submission, self._unexpected(error))
            if not self.session.is_ending:
                raise
        finally:
            self._pump()

    def _left_of(self, submissions: Iterable[Submission], flight: Flight | None) -> list[Submission]:
        """Return those that have no outcome yet. One that was handed back may fly again, with others."""
        return [one for one in submissions if one in self._flying and one.flight is flight]

    def _take_down(self, submission: Submission) -> None:
        """Note that a call flies no more and has no outcome."""
        self._tell_returned(submission)
        submission.is_sent = submission.is_running = False
        submission.flight = None
        self._flying.discard(submission)

    def _settle(self, submission: Submission, outcome: Outcome) -> None:
        """End a call with what its worker sent, or have it tried again."""
        self._watch.note_progress()
        self._flying.discard(submission)
        call = submission.call
        call.execution_s, call.worker_pid = outcome.seconds, outcome.pid
        call.worker_id = outcome.worker or call.worker_id
        if (failure := outcome.failure) is None:
            self._conclude(submission, outcome)
            return

        def conclude(noted: BaseException | None) -> None:
            self._conclude(submission, noted or outcome)

        if self.session.pauses.weigh(submission, lambda: decode_exception(failure), conclude, is_raised=True):
            self._show(submission, outcome)
        else:
            self._conclude(submission, outcome)

    def settle_error(self, submission: Submission, error: FlashPluginsError) -> None:
        """End a call with an error, or have it tried again."""
        self._flying.discard(submission)

        def conclude(_: BaseException | None) -> None:
            self._conclude(submission, error)

        if not self.session.pauses.weigh(submission, lambda: error, conclude, is_raised=False):
            self._conclude(submission, error)

    def _conclude(self, submission: Submission, outcome: Outcome | BaseException) -> None:
        """Give a call its one outcome."""
        if submission.is_concluded:
            return
        if submission.deadlines is not None:
            submission.deadlines.end()
        call = submission.call
        if isinstance(outcome, BaseException):
            self._tell(submission, CallStage.CANCELLED if isinstance(outcome, JobCancelled) else CallStage.FAILED)
            call._settle(outcome)
            return
        self._tell(submission, CallStage.DONE if outcome.failure is None else CallStage.FAILED)
        if outcome.records:  # showing them runs handlers of the user's
            self._show(submission, outcome, then=lambda: call._settle(replace(outcome, records=())))
        else:
            call._settle(outcome)

    def _show(self, submission: Submission, outcome: Outcome, *, then: Callable[[], object] = lambda: None) -> None:
        """Show what a call printed, logged and warned, in the thread for that, and go on there."""
        call = submission.call

        def deliver() -> None:
            try:
                replay(outcome.records)
            except Warning as warning:  # the caller's filters make it an error
                call._settle(warning)
                return
            except BaseException:  # a closed pipe, a handler of the user's, whatever it raises: the result is there
                logger.exception("what %r printed, logged or warned cannot be shown", call)
            then()

        self.session.delivery.post(deliver)

    def _unexpected(self, error: Exception) -> FlashPluginsError:
        if self.session.is_ending:
            return JobCancelled(f"the program ended before the call did ({type(error).__name__}: {error})")
        return internal(error)

    def _tell_started(self, submission: Submission) -> None:
        """Tell, once, that a worker has begun a call, as far as known."""
        if not submission.is_told_started and not submission.is_concluded:
            submission.is_told_started = True
            self._tell(submission, CallStage.STARTED)

    def _tell_returned(self, submission: Submission) -> None:
        """Tell that no worker has a call any more of which that was told."""
        if submission.is_told_started and not submission.is_concluded:
            submission.is_told_started = False
            self._tell(submission, CallStage.RETURNED)

    def _tell(self, submission: Submission, stage: CallStage) -> None:
        if stage.is_final:
            if submission.is_concluded:
                return
            submission.is_concluded = True
        hooks = self.session.hooks
        if not hooks.observes_calls:
            return
        call = submission.call
        hooks.call_event(
            CallEvent(
                stage if not (submission.is_cancelled and stage.is_final) else CallStage.CANCELLED,
                endpoint=call.endpoint_name,
                function=call.function_name,
                call_id=call.number,
                job_id=call.job_id,
                worker_id=call.worker_id,
                seconds=call.execution_s,
                tasks=call.tasks,
                work=call.work,
            )
        )


class SingleLane(Lane):
    """A lane whose calls fly one by one."""

    @abstractmethod
    async def _outcome(self, submission: Submission) -> Outcome:
        """Send the call and return what came of it.

        Raises:
            PlatformGone: It was surely not sent, and the platform is gone.
            FlashPluginsError: It has no outcome of its own.
        """

    def _launch(self) -> bool:
        oldest, _ = self._queue.oldest()
        submissions = self._queue.take(oldest, 1, 0)
        self._begin(submissions, self._fly(submissions[0]))
        return True

    async def _fly(self, submission: Submission) -> None:
        self._settle(submission, await self._outcome(submission))
