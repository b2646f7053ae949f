# SPDX-License-Identifier: Apache-2.0
"""Whether a call that failed is made again, and when. It decides; it neither waits nor sends.

Exactly one outcome of a call is seen, so this is asked before anybody sees one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from ..errors import (
    JobCancelled,
    JobExpired,
    JobTimeout,
    PlatformUnavailable,
    ResultLost,
    SubmissionUnknown,
    WorkerLost,
    WorkerStartFailed,
)
from ..options import CallOptions

__all__ = ["Attempts"]

#: Failures of the system rather than of the call: each is worth another try once any were asked for. Workers that do
#: not even start are not among them: three in a row have ended by then.
_OF_THE_SYSTEM: Final = (WorkerLost, ResultLost, PlatformUnavailable, JobExpired)
#: How often a call that may run twice is sent again because nobody knows whether it was taken.
_MOST_UNKNOWN: Final = 5
#: Longest pause between two attempts, seconds, unless the first is longer already; by which part of it pauses differ.
_LONGEST_PAUSE_S: Final = 60.0
_JITTER: Final = 0.25


class Attempts:
    """The attempts of one call.

    Args:
        options: How often it may be made, and after what.
        uniform: Returns a number between two others, for the jitter.

    Attributes:
        made: How many there were, from 1.
    """

    def __init__(self, options: CallOptions, *, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._options = options
        self._uniform = uniform
        self._unknown = 0
        self.made = 1

    @property
    def may_go_on(self) -> bool:
        """Whether any failure could lead to another attempt; False makes asking needless."""
        return self.made - self._unknown <= self._options.retries or self._options.idempotent

    def next_in_s(self, error: BaseException, *, is_raised: bool) -> float | None:
        """Return the pause before the next attempt, which is counted; None if `error` is the outcome of the call.

        Runs the user's `retry_on`, if that is a function; what it raises comes out.

        Args:
            error: What the attempt ended with.
            is_raised: Whether the called function raised it, rather than one of us.
        """
        if isinstance(error, SubmissionUnknown) and not is_raised:
            if not self._options.idempotent or self._unknown >= _MOST_UNKNOWN:
                return None
            self._unknown += 1
        elif self.made - self._unknown > self._options.retries or not self._is_retriable(error, is_raised=is_raised):
            return None
        first_s = self._options.backoff
        pause_s = min(first_s * 2.0 ** min(self.made - 1, 32), max(first_s, _LONGEST_PAUSE_S))
        self.made += 1
        return pause_s * self._uniform(1 - _JITTER, 1 + _JITTER)

    def _is_retriable(self, error: BaseException, *, is_raised: bool) -> bool:
        if is_raised or (isinstance(error, JobTimeout) and error.limit == "run_timeout"):
            return self._is_named(error)
        if isinstance(error, JobCancelled | JobTimeout):
            return False  # somebody's own wish; and a limit that passed would have passed again
        if isinstance(error, _OF_THE_SYSTEM) and not isinstance(error, WorkerStartFailed):
            return True
        # Others of ours would come again (a wrong key, a refusal), unless the user knows better.
        named = self._options.retry_on
        return isinstance(named, tuple) and any(isinstance(error, one) for one in named if one is not Exception)

    def _is_named(self, error: BaseException) -> bool:
        named = self._options.retry_on
        return isinstance(error, named) if isinstance(named, tuple) else bool(named(error))
