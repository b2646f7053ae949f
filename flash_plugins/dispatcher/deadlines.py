# SPDX-License-Identifier: Apache-2.0
"""The time limits of one call, by its options: what passes them ends here and now, and on the platform.

timeout         the call is made ─────────────── attempts and pauses ─────────────────► outcome
queue_timeout   an attempt is queued ──► a worker begins it
run_timeout                              a worker begins it ──► done: kept by the worker, watched over here
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from ..clock import Clock, Timer, sleep
from ..errors import FlashPluginsError, JobTimeout
from ..platforms import api

if TYPE_CHECKING:
    from .lane import Submission

__all__ = ["Deadlines", "execution_timeout_ms"]

logger = logging.getLogger(__name__)

#: Seconds that the platform gets to say why a call waits: whoever set a limit does not wait much longer than that.
_REASON_WITHIN_S: Final = 1.0
#: Seconds between looks at a call whose submission is under way when it should have begun.
_LOOK_S: Final = 0.25
#: Seconds beyond `run_timeout` after which the platform stops the job: the worker does it at the limit, after a grace
#: period of 5 s, and on Runpod a job may wait inside its worker. Then so many more until it is given up here.
_PLATFORM_SLACK_S: Final = 60.0
_OWN_SLACK_S: Final = 15.0


def execution_timeout_ms(endpoint_ms: int, run_timeout_s: float | None) -> int:
    """Return the time that the platform gives a job: that of the endpoint, less for a call with a limit of its own."""
    if run_timeout_s is None:
        return endpoint_ms
    backstop_ms = round((run_timeout_s + _PLATFORM_SLACK_S) * 1000)
    return min(endpoint_ms, max(backstop_ms, api.EXECUTION_TIMEOUT_MIN_MS))


class Deadlines:
    """The limits of one call. Loop thread.

    Args:
        submission: The call.
        clock: Where time comes from.
    """

    def __init__(self, submission: Submission, clock: Clock) -> None:
        self._submission = submission
        self._clock = clock
        self._options = submission.options
        self._ends_at: float | None = None
        self._total: Timer | None = None
        self._begin: Timer | None = None
        self._run: Timer | None = None

    def start(self) -> None:
        """Note that the call is made."""
        if (timeout_s := self._options.timeout) is not None:
            self._ends_at = self._clock.monotonic() + timeout_s
            self._total = self._clock.call_later(timeout_s, lambda: self._spawn_end("timeout", timeout_s))

    def queued(self) -> None:
        """Note that an attempt is queued; one that only moved to another platform was before."""
        if (timeout_s := self._options.queue_timeout) is not None and self._begin is None:
            self._begin = self._clock.call_later(timeout_s, self._should_have_begun)

    def begun(self) -> None:
        """Note that a worker runs the call."""
        if self._begin is not None:
            self._begin.cancel()
        if (timeout_s := self._options.run_timeout) is not None and self._run is None:
            at_most_s = timeout_s + _PLATFORM_SLACK_S + _OWN_SLACK_S
            self._run = self._clock.call_later(at_most_s, lambda: self._spawn_end("run_timeout", timeout_s))

    def attempt_ended(self) -> None:
        """Note that the next attempt, if there is one, has its own limits."""
        for timer in (self._begin, self._run):
            if timer is not None:
                timer.cancel()
        self._begin = self._run = None

    def end(self) -> None:
        """Note that the call has its outcome."""
        self.attempt_ended()
        if self._total is not None:
            self._total.cancel()

    def forbids(self, pause_s: float) -> str | None:
        """Return why a pause would be in vain, None if it is not."""
        if self._ends_at is None or self._clock.monotonic() + pause_s < self._ends_at:
            return None
        return f"its timeout of {self._options.timeout:g} s leaves no room for a pause of {pause_s:.1f} s"

    def _should_have_begun(self) -> None:
        self._submission.lane.session.loop.spawn(self._look_whether_begun())

    async def _look_whether_begun(self) -> None:
        submission, limit_s = self._submission, self._options.queue_timeout
        assert limit_s is not None
        while not submission.is_concluded and self._begin is not None:
            try:
                begun = await submission.lane.has_begun(submission)
            except FlashPluginsError as error:  # whoever follows the call meets it too, and ends the call
                logger.debug("whether %r has begun is unknown: %s", submission.call, error)
                return
            if begun:
                self.begun()
                return
            if begun is False:
                await self._end("queue_timeout", limit_s)
                return
            await sleep(self._clock, _LOOK_S)

    def _spawn_end(self, limit: str, limit_s: float) -> None:
        self._submission.lane.session.loop.spawn(self._end(limit, limit_s))

    async def _end(self, limit: str, limit_s: float) -> None:
        submission = self._submission
        call, lane = submission.call, submission.lane
        reason: str | None = f"waiting for attempt {call.attempts}" if submission.is_resting else None
        if reason is None and not submission.is_running:
            try:
                reason = await asyncio.wait_for(lane.delay(), _REASON_WITHIN_S)
            except (TimeoutError, FlashPluginsError) as unknown:
                logger.debug("why %r waits is unknown: %s", call, unknown)
        words = {
            "timeout": f"had no outcome within its timeout of {limit_s:g} s",
            "queue_timeout": f"was begun by no worker within its queue_timeout of {limit_s:g} s",
            "run_timeout": f"ran longer than its run_timeout of {limit_s:g} s, and its worker did not end it",
        }[limit]
        attempts = f", in attempt {call.attempts}" if call.attempts > 1 and not submission.is_resting else ""
        why = "" if reason is None else f": {reason}"
        error = JobTimeout(f"{call!r} {words}{attempts}{why}; it is cancelled", job_id=call.job_id, limit=limit)
        error.__cause__ = submission.last_failure
        submission.lane.end_early(submission, error)
