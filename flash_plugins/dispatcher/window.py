# SPDX-License-Identifier: Apache-2.0
"""How many jobs may be in flight, and when to look at one again. Pure arithmetic and sleeping."""

from __future__ import annotations

import random
import time

from ..clock import Clock, SystemClock, sleep

__all__ = ["PATIENCE_S", "Patience", "Poller", "Window"]

#: Most jobs of one endpoint in flight; Runpod allows 200 concurrent `/run` and 400 `/runsync` requests.
MAX_IN_FLIGHT = 200

#: By how much each accepted request widens a window: from half of the most to all of it in 400 of them.
_GROWTH = 0.25
#: Seconds after which a request that is refused for its rate, again and again, is given up.
PATIENCE_S = 600.0
#: Longest pause of our own between two tries, seconds, and how much longer than that the jitter makes one.
_MAX_PAUSE_S = 30.0
_JITTER = 1.25

#: A job is looked at again after this part of its age, within these bounds, seconds.
_AGE_PART = 0.1
_MIN_INTERVAL_S = 0.25
_MAX_INTERVAL_S = 5.0
#: Seconds between any two looks: 2,000 `/status` per 10 s are allowed, half of that is used.
_SPACING_S = 0.01


class Window:
    """The number of jobs in flight: halved when the platform says 429, and quickly grown again by successes.

    Many requests of one round trip may be refused together; they say one thing, so they halve it once.
    """

    def __init__(self, most: int = MAX_IN_FLIGHT) -> None:
        self._most = most
        self._size = float(most)
        self._shrunk_at = 0.0

    @property
    def size(self) -> int:
        """Jobs that may be in flight now."""
        return int(self._size)

    def shrink(self, *, sent_at: float) -> None:
        """Note that a request, sent at this time of the monotonic clock, was one too many."""
        if sent_at >= self._shrunk_at:
            self._shrunk_at = time.monotonic()
            self._size = max(1.0, self._size / 2)

    def grow(self) -> None:
        """Note that a request was accepted."""
        self._size = min(self._most, self._size + _GROWTH)


class Patience:
    """How one request that is refused for its rate goes on: pauses that grow, each a bit different, and an end.

    Args:
        clock: Where time comes from; None for the real one.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._ends_at: float | None = None
        self._factor = 1.0

    async def pause(self, asked_s: float) -> bool:
        """Wait as long as the platform asked for, or longer; False, at once, if that would pass the end."""
        now = self._clock.monotonic()
        if self._ends_at is None:
            self._ends_at = now + PATIENCE_S
        pause_s = max(asked_s, min(asked_s * self._factor, _MAX_PAUSE_S)) * random.uniform(1.0, _JITTER)
        if now + pause_s > self._ends_at:
            return False
        self._factor *= 2
        await sleep(self._clock, pause_s)
        return True


class Poller:
    """Gives all jobs that must be looked at their turns, spaced out: one schedule instead of a loop per job.

    Args:
        clock: Where time comes from; None for the real one.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._free_at = 0.0

    async def turn(self, *, age_s: float) -> None:
        """Wait until it is time to look at a job of this age."""
        interval = min(max(age_s * _AGE_PART, _MIN_INTERVAL_S), _MAX_INTERVAL_S)
        now = self._clock.monotonic()
        at = max(now + interval, self._free_at)
        self._free_at = at + _SPACING_S
        await sleep(self._clock, at - now)
