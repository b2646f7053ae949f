# SPDX-License-Identifier: Apache-2.0
"""A lane whose calls travel together: which of them share a job, and what becomes of each when it ends.

    backlog ──(oldest, and others of its function)──► flight ──► results, as they come ──► settled
       ▲                                                │
       └── not begun, or handed back ◄──────────────────┤
       └── alone: ran when its process died ◄───────────┘

A flight is formed as late as possible: at once where a worker should be idle, else when one of those ahead ends,
unless the calls that wait are worth a job of their own by then. How a job travels is for `queue_lane`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ..batches import CallResult
from ..config import EndpointConfig
from ..errors import EnvelopeError, FlashPluginsError, JobCancelled, JobTimeout, WorkerLost, WorkerStartFailed
from ..hardware import ServerlessScalerType
from ..payload import CallEnvelope, Outcome
from ..platforms import api
from ..replay import replay
from .backlog import FunctionKey
from .batching import MAX_ARGUMENT_BYTES, Estimate, Overhead, jobs_at_once
from .begun import Begun
from .flight import Flight
from .lane import Lane, Submission
from .window import Window

if TYPE_CHECKING:
    from .session import Session

__all__ = ["BatchLane"]

logger = logging.getLogger(__name__)

#: How often a call may come back from workers that had not begun it before it travels alone.
_MAX_RETURNS: Final = 4
#: How often it goes again at once: where workers take more than they run, it often meets a busy one before an idle one,
#: and each pause leaves that one idle. Then it waits so long, seconds; for each further time twice as long, at most so.
_QUICK_RETURNS: Final = 8
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0
#: How long a worker lets one call run before it hands back those behind it, seconds.
HANDED_BACK_AFTER_S: Final = 2.0
#: Into how many jobs the calls of one are spread that killed its worker, or took too long, where nobody knows which.
_SPLIT: Final = 4
#: Results after which other work gets its turn.
_SLICE: Final = 250


class BatchLane(Lane):
    """Carries calls in flights; as `Lane`."""

    def __init__(self, session: Session, config: EndpointConfig, *, streams: bool) -> None:
        super().__init__(session, config, streams=streams)
        self._window = Window()
        self._flights: set[Flight] = set()
        self._aside: set[Submission] = set()  # that came back more than once, and wait for a moment
        self._estimates: dict[FunctionKey, Estimate] = {}
        self._overhead = Overhead()
        self._slots = slots_of(config)
        self._begun = Begun(
            self._tell_started, idle_timeout_s=config.idle_timeout, calls_per_worker=config.max_concurrency
        )

    @abstractmethod
    async def _fly(self, flight: Flight) -> None:
        """Send the job, follow it, and have `_land` and `_take_results` told what came of it.

        Raises:
            PlatformGone: It was surely not sent, and the platform is gone.
            FlashPluginsError: Its calls have no outcome of their own.
        """

    @abstractmethod
    async def _cancel(self, flight: Flight) -> None:
        """Have the platform told that nobody wants the job."""

    @property
    def waits(self) -> bool:
        """As `Lane.waits`."""
        return any(one.job_id is not None and not one.is_running for one in self._flights)

    @property
    def submissions(self) -> list[Submission]:
        """As `Lane.submissions`."""
        return [*super().submissions, *self._aside]

    def take_queue(self) -> list[Submission]:
        """As `Lane.take_queue`."""
        self._queue.put_back(self._aside)
        self._aside.clear()
        return super().take_queue()

    def drop(self, submission: Submission) -> None:
        """As `Lane.drop`."""
        if submission in self._aside:
            self._fetch(submission)
        super().drop(submission)

    def uncancelled(self) -> list[str | None]:
        """As `Lane.uncancelled`."""
        return [flight.job_id for flight in self._flights if flight.needs_cancel]

    async def _send_cancel(self, submission: Submission) -> None:
        flight = submission.flight
        if flight is not None and flight.is_unwanted:
            await self._cancel(flight)

    def _has_room(self) -> bool:
        return len(self._flights) < (self._window.size if self.streams else self._most_flights())

    def _most_flights(self) -> int:
        config = self.config
        is_counting = config.scaler_type is ServerlessScalerType.REQUEST_COUNT
        wanted = jobs_at_once(
            self._slots,
            is_capped=not self.session.is_limited,
            workers=config.workers[1],
            requests_per_worker=config.scaler_value if is_counting else None,
        )
        return min(self._window.size, wanted)

    def _launch(self) -> bool:
        first, waiting = self._queue.oldest()
        estimate = self._estimate_of(first)
        count = 1
        if not self.streams:
            count = estimate.size(
                waiting=waiting,
                slots=self._slots,
                overhead_s=self._overhead.seconds,
                is_capped=not self.session.is_limited,
                idle=self._slots - len(self._flights),
            )
        expected_s = estimate.expected_s(count)
        is_idle = len(self._flights) < self._slots
        if not is_idle and not self.streams and expected_s is not None and expected_s < self._overhead.seconds:
            return False  # more may have come by the time that a worker is free
        submissions = self._queue.take(first, count, MAX_ARGUMENT_BYTES)
        flight = Flight(submissions, estimate.expected_s(len(submissions)), is_ahead=is_idle)
        self._flights.add(flight)
        self._begin(submissions, self._flown(flight), flight)
        self._begun.sent(self._flights)
        return True

    async def _envelope_for(self, flight: Flight) -> CallEnvelope:
        """Return what to send: only the platform that takes it knows where its objects go."""
        await self._provisioned()
        url = self.session.objects_url(self.config)
        for submission in flight.open.values():
            if submission.envelope.objects not in (None, url):  # of a platform that has ended
                submission.envelope = await self._envelope_of(submission)
        envelope = flight.envelope()
        return envelope if envelope.objects == url else replace(envelope, objects=url)

    async def _flown(self, flight: Flight) -> None:
        try:
            await self._fly(flight)
        except (WorkerLost, JobTimeout) as error:
            if isinstance(error, WorkerStartFailed) or not self._is_divisible(flight, error):
                raise
            logger.info("%r failed by one of its calls; they go on in smaller jobs: %s", flight, error)
            self._divide(flight)
        else:
            self._flights.discard(flight)
            if flight.returned < len(flight.submissions):
                self._begun.ended(flight, self._flights)
        finally:
            self._flights.discard(flight)

    def _estimate_of(self, submission: Submission) -> Estimate:
        return self._estimates.setdefault(submission.function_key[:2], Estimate())  # code and method

    def _expected_s(self, flight: Flight) -> float | None:
        """Return how long the outcome of a flight that begins now will take, None if nothing is known."""
        if flight.expected_s is None:
            return None
        ahead = sum(other.expected_s or 0.0 for other in self._flights if other is not flight)
        return flight.expected_s + ahead / self._slots

    # What came of a flight.

    async def _land(self, flight: Flight, outcome: Outcome) -> None:
        """Take the outcome of a job: of its one call, or all that is left of a batch."""
        if not flight.is_batch:
            (submission,) = flight.open.values()
            if outcome.returned:
                self._take_back(flight, outcome.returned)
                return
            if outcome.lost is not None:
                self._isolate(flight, outcome)
                return
            self._learn(flight, submission, 1, outcome.seconds, len(outcome.result or b""))
            flight.open.clear()
            self._settle(submission, outcome)
            return
        await self._take_results(flight, outcome)
        if outcome.failure is not None:  # of the code itself: no call was begun
            for submission in list(flight.open.values()):
                self._settle(submission, outcome)
            flight.open.clear()
        if outcome.lost is not None:
            self._isolate(flight, outcome)
        if flight.open:
            places = ", ".join(str(place) for place in list(flight.open)[:5])
            raise EnvelopeError(
                f"{flight!r}: the worker answered without the calls at {places} ({len(flight.open)} of "
                f"{len(flight.submissions)}), which it neither ran nor handed back; it may have run them: does the "
                "endpoint run another version of flash-plugins?"
            )

    async def _take_results(self, flight: Flight, outcome: Outcome) -> None:
        """Take what a worker tells of a batch, before its end or at it; what was told before is passed over."""
        by_call, of_job = _sorted_out(outcome.records)
        fresh = [result for result in outcome.results if result.index in flight.open]
        if fresh:
            busy_s = sum(result.seconds for result in fresh)
            size = sum(len(result.result or b"") for result in fresh)
            flight.busy_s += busy_s
            self._learn(flight, flight.open[fresh[0].index], len(fresh), busy_s, size)
        self._show_loading(of_job[flight.told_records :])
        flight.told_records = max(flight.told_records, len(of_job))
        for number, result in enumerate(fresh):
            if (submission := flight.open.pop(result.index, None)) is None:
                continue  # handed back meanwhile
            self._settle(submission, _outcome_of(result, outcome, by_call.get(result.index, ())))
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        if outcome.returned:
            self._take_back(flight, outcome.returned)
        self._begun.went_on(flight)

    def _take_back(self, flight: Flight, places: Iterable[int]) -> None:
        """Let calls wait again that a worker handed back without having begun them.

        At once: another worker may be idle. One that came back again and again waits for a moment, so that several
        callers whose workers are all busy do not play ping-pong.
        """
        back = [flight.open.pop(place) for place in sorted(set(places)) if place in flight.open]
        if not back:
            return
        flight.returned += len(back)
        if flight.open:  # one of them still runs, or the results were too large for one answer
            self._estimate_of(back[0]).note_running(HANDED_BACK_AFTER_S)
        for submission in back:
            submission.returns += 1
            if submission.returns >= _MAX_RETURNS:
                submission.mates_max = 1
        at_once = [one for one in back if one.returns <= _QUICK_RETURNS or flight.open]
        for submission in self._taken_down(one for one in back if one not in at_once):
            self._put_aside(submission)
        self._wait_again(at_once)
        if flight.open and flight.is_unwanted:
            self.session.loop.spawn(self._cancel(flight))
        self._pump()

    def _isolate(self, flight: Flight, outcome: Outcome) -> None:
        """The process of the worker died in one call: that runs alone, and those that were not begun once more.

        One that is alone already has caused enough of that after some times.
        """
        place, reason = outcome.lost or (0, "")
        suspect = flight.open.get(place)
        if suspect is not None:
            suspect.mates_max = 1
            suspect.deaths += 1
            suspect.suspect = outcome.step
            if suspect.deaths >= api.MAX_ATTEMPTS:
                del flight.open[place]
                self.settle_error(suspect, _lost(suspect, reason))
        self._wait_again(flight.open.values())
        flight.open.clear()

    def _is_divisible(self, flight: Flight, error: FlashPluginsError) -> bool:
        """Return whether calls of a job that ended with `error` are worth another try."""
        return flight.is_batch and bool(flight.open)

    def _divide(self, flight: Flight) -> None:
        """The job failed by one of its calls, and nobody knows by which: spread them over smaller jobs."""
        mates_max = max(1, len(flight.open) // _SPLIT)
        for submission in flight.open.values():
            submission.mates_max = min(submission.mates_max, mates_max)
        self._wait_again(flight.open.values())
        flight.open.clear()

    def _wait_again(self, submissions: Iterable[Submission]) -> None:
        """Put calls of a flight back in front of those that wait, unless nobody wants them any more."""
        self._queue.put_back(self._taken_down(submissions))

    def _taken_down(self, submissions: Iterable[Submission]) -> list[Submission]:
        """Return those of the calls that are still wanted, which fly no more; the others end."""
        wanted = []
        for submission in list(submissions):
            if submission.verdict is not None:
                self.settle_error(submission, submission.verdict)
            elif submission.is_cancelled:
                self.settle_error(submission, JobCancelled(f"{submission.call!r} was cancelled before it was begun"))
            else:
                self._take_down(submission)
                submission.call.job_id = None
                wanted.append(submission)
        return wanted

    def _put_aside(self, submission: Submission) -> None:
        self._aside.add(submission)
        pause_s = min(_FIRST_PAUSE_S * 2.0 ** min(submission.returns - _QUICK_RETURNS - 1, 16), _LONGEST_PAUSE_S)
        asyncio.get_running_loop().call_later(pause_s, self._fetch, submission)

    def _fetch(self, submission: Submission) -> None:
        if submission in self._aside:
            self._aside.discard(submission)
            self._queue.put_back([submission])
            self._pump()

    def _learn(self, flight: Flight, one: Submission, calls: int, busy_s: float | None, result_bytes: int) -> None:
        if busy_s is None or self.streams:
            return
        self._estimate_of(one).record(calls=calls, busy_s=busy_s, result_bytes=result_bytes)
        if flight.is_ahead and calls == len(flight.submissions):
            self._overhead.record(time.monotonic() - flight.began_at - busy_s)

    def _show_loading(self, records: list[Mapping[str, Any]]) -> None:
        """Show what was printed outside the calls, while their code was loaded."""
        if records:
            self.session.delivery.post(lambda: replay(records))


def _lost(submission: Submission, reason: str) -> WorkerLost:
    reason = f"attempt {submission.deaths} of {api.MAX_ATTEMPTS}: {reason}"
    call = submission.call
    return WorkerLost(f"{call!r}: {reason}", job_id=call.job_id, reason=reason, step=submission.suspect)


def slots_of(config: EndpointConfig) -> int:
    """Return how many calls the workers of an endpoint run at once, at most."""
    return max(1, config.workers[1] * config.max_concurrency)


def _outcome_of(result: CallResult, whole: Outcome, records: Iterable[Mapping[str, Any]]) -> Outcome:
    return Outcome(
        result=result.result,
        failure=result.failure,
        records=tuple(records),
        seconds=result.seconds,
        worker=whole.worker,
        pid=whole.pid,
    )


def _sorted_out(
    records: Iterable[Mapping[str, Any]],
) -> tuple[dict[int, list[Mapping[str, Any]]], list[Mapping[str, Any]]]:
    """Return what was printed by each call, and outside of them."""
    by_call: dict[int, list[Mapping[str, Any]]] = {}
    of_job = []
    for record in records:
        if (place := record.get("call")) is None:
            of_job.append(record)
        else:
            by_call.setdefault(place, []).append(record)
    return by_call, of_job
