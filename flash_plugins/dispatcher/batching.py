# SPDX-License-Identifier: Apache-2.0
"""How many calls travel in one job, from what workers told about the time of earlier ones. Pure arithmetic.

The worker's own time is what counts: that of the caller includes the way and the queue, so behind a round trip of
100 ms calls that do nothing would look slow, and each would travel alone.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Estimate", "Overhead", "jobs_at_once"]

#: The worker's time that one job aims at, seconds: with another job waiting for the worker this hides round trips up
#: to as long, and it is short enough not to leave one worker alone at the end. The second is for platforms whose
#: workers take more jobs than they run: found with a model of the official loop, 200 calls of log-normal length.
TARGET_S: Final = 0.7
UNCAPPED_TARGET_S: Final = 1.0
#: How many jobs for each slot fly, where workers take one job at a time and where they take more.
_FLYING: Final = 2
_UNCAPPED_FLYING: Final = 3
#: Into how many jobs for each slot what waits is divided, in the same two places. 200 calls of 5 ms on two local
#: workers took less time with 1.5 than with 2.
_SHARES: Final = 1.5
_UNCAPPED_SHARES: Final = 3.0
#: Calls that take so long travel alone, seconds: a round trip is little beside them.
LONG_S: Final = 0.5
#: Most calls of a job, and most bytes of their arguments and results: more save no requests worth counting, and their
#: outcomes would hold up the dispatcher.
MAX_CALLS: Final = 2_000
MAX_ARGUMENT_BYTES: Final = 4_000_000
MAX_RESULT_BYTES: Final = 3_000_000
#: A job has at most so many times the calls of the largest one that was measured: few tell little about many.
MAX_GROWTH: Final = 16
#: Towards the end jobs become smaller, until the calls of one take so many times what a job costs beside them. Where
#: that is little, several times as much is still short: of 2, 4 and 8, 4 did best there.
_ENOUGH: Final = 4.0
_UNCAPPED_ENOUGH: Final = 2.0
#: Shortest time that a call is taken to need on the worker, seconds: reading arguments and packing the result.
_LEAST_CALL_S: Final = 20e-6
#: By which part the difference counts when a job cost more than the cheapest so far.
_RISE: Final = 0.1


class Estimate:
    """What a call of one function takes, as far as known. Slower and larger ones count at once, others by halves."""

    def __init__(self) -> None:
        self.call_s: float | None = None  # None while nothing is known
        self._result_bytes = 1.0
        self._largest = 0

    def record(self, *, calls: int, busy_s: float, result_bytes: int) -> None:
        """Learn from calls that travelled in one job: the worker's time and the results of all of them."""
        self.call_s = _towards(self.call_s, max(busy_s / calls, _LEAST_CALL_S))
        self._result_bytes = _towards(self._result_bytes, max(result_bytes / calls, 1.0))
        self._largest = max(self._largest, calls)

    def note_running(self, seconds: float) -> None:
        """Note that a call has not ended after so long."""
        self.call_s = max(self.call_s or 0.0, seconds)

    def size(self, *, waiting: int, slots: int, overhead_s: float, is_capped: bool = True, idle: int = 1) -> int:
        """Return the number of calls for the next job, at least 1.

        Args:
            waiting: Calls that wait, all of which could go.
            slots: Calls that the workers run at once: each should get a share of what waits.
            overhead_s: What a job costs beside its calls.
            is_capped: Whether the platform gives a worker no more jobs than it runs at once.
            idle: Slots without a job: none of them may stay so while several calls go to another.
        """
        if self.call_s is None or self.call_s >= LONG_S:
            return 1
        most = min(
            (TARGET_S if is_capped else UNCAPPED_TARGET_S) / self.call_s,
            MAX_CALLS,
            MAX_GROWTH * self._largest,
            MAX_RESULT_BYTES / self._result_bytes,
        )
        shares = slots * (_SHARES if is_capped else _UNCAPPED_SHARES)
        enough_s = (_ENOUGH if is_capped else _UNCAPPED_ENOUGH) * overhead_s
        share = max(waiting / shares, enough_s / self.call_s)
        return max(1, int(min(most, share, -(-waiting // max(idle, 1)))))

    def expected_s(self, calls: int) -> float | None:
        """Return how long a worker will need for so many calls, None while nothing is known."""
        return None if self.call_s is None else calls * self.call_s


class Overhead:
    """What a job costs beside the calls in it, seconds: the way there and back, and handing it to a worker.

    The least that was seen lately: most jobs have waited for a worker besides.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def record(self, seconds: float) -> None:
        """Learn from a job that took so much longer than its calls."""
        seconds = max(seconds, 0.0)
        if self.seconds == 0.0 or seconds < self.seconds:
            self.seconds = seconds
        else:
            self.seconds += _RISE * min(seconds - self.seconds, self.seconds)


def jobs_at_once(slots: int, *, is_capped: bool = True, workers: int, requests_per_worker: float | None) -> int:
    """Return how many jobs should be with the platform while calls wait.

    One runs on each slot and one waits for it, which hides the round trip; on Runpod two wait, as there are two or
    three round trips, and workers give back what they cannot begin soon. Calls beyond that wait here, where they can
    still travel together and reach whichever worker is free first.

    Args:
        slots: Calls that the workers run at once.
        is_capped: As for `Estimate.size`.
        workers: Most workers.
        requests_per_worker: Jobs for each of which the platform starts another worker, None if it does not count them.
    """
    wanted = 0 if requests_per_worker is None else -int(-requests_per_worker * workers // 1)
    return max((_FLYING if is_capped else _UNCAPPED_FLYING) * slots, wanted)


def _towards(old: float | None, new: float) -> float:
    return new if old is None or new > old else (old + new) / 2
