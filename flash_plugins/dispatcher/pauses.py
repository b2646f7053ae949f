# SPDX-License-Identifier: Apache-2.0
"""Calls between two attempts: they hold no place among those that fly, and can be cancelled like any other.

attempt failed ──► weighed (delivery thread: runs `retry_on`) ──► pause ──► the lane of that name, again
                         └── the outcome of the call
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..clock import Timer
    from .lane import Submission
    from .session import Session

__all__ = ["Pauses"]

logger = logging.getLogger(__name__)


class Pauses:
    """The calls of one process that are between two attempts. Loop thread.

    Args:
        session: Whose calls.
        resume: Takes a call whose pause is over.
    """

    def __init__(self, session: Session, resume: Callable[[Submission], object]) -> None:
        self._session = session
        self._resume = resume
        self._timers: dict[Submission, Timer | None] = {}

    def __iter__(self) -> Iterator[Submission]:
        return iter(list(self._timers))

    def weigh(
        self,
        submission: Submission,
        failure: Callable[[], BaseException],
        conclude: Callable[[BaseException | None], object],
        *,
        is_raised: bool,
    ) -> bool:
        """Have it decided whether a call that failed is made again; False, at once, if it surely is not.

        Args:
            submission: The call, which no lane has any more.
            failure: Makes what it failed with; called in the delivery thread, as it may run users' code.
            conclude: Called on the loop if that is the outcome; with the exception if something was to be added to it.
            is_raised: Whether the called function raised it.
        """
        attempts = submission.attempts
        is_wanted = not submission.is_cancelled and not submission.call.done() and not self._session.is_ending
        if attempts is None or not attempts.may_go_on or not is_wanted:
            return False
        self._timers[submission] = None

        def decide() -> None:
            error = failure()
            pause_s: float | None = None
            noted: BaseException | None = None
            try:
                pause_s = attempts.next_in_s(error, is_raised=is_raised)
            except Exception as broken:  # users' code; the call must have its outcome
                noted = _noted(error, f"it was not tried again: retry_on raised {broken!r}")
                logger.exception("retry_on of %r failed", submission.call)
            self._session.loop.post(lambda: self._decided(submission, error, pause_s, noted, conclude))

        self._session.delivery.post(decide)
        return True

    def drop(self, submission: Submission) -> bool:
        """Forget a call that nobody wants any more; False if it is not here."""
        if submission not in self._timers:
            return False
        timer = self._timers.pop(submission)
        if timer is not None:
            timer.cancel()
        return True

    def _decided(
        self,
        submission: Submission,
        error: BaseException,
        pause_s: float | None,
        noted: BaseException | None,
        conclude: Callable[[BaseException | None], object],
    ) -> None:
        if submission not in self._timers:
            return  # dropped meanwhile, and told so
        if pause_s is None:
            del self._timers[submission]
            conclude(noted)
            return
        why_not = submission.refuses_attempt(pause_s)
        if why_not is not None:
            del self._timers[submission]
            conclude(_noted(error, f"it was not tried again: {why_not}"))
            return
        logger.info("%r failed and is tried again in %.1f s: %r", submission.call, pause_s, error)
        submission.begin_attempt(error)
        if pause_s > 0:
            self._timers[submission] = self._session.clock.call_later(pause_s, lambda: self._over(submission))
        else:
            self._over(submission)

    def _over(self, submission: Submission) -> None:
        del self._timers[submission]
        self._resume(submission)


def _noted(error: BaseException, note: str) -> BaseException:
    try:
        error.add_note(note)
    except Exception as refused:  # noqa: BLE001 - the user's class may refuse attributes
        logger.debug("%r takes no note: %r", error, refused)
    return error
