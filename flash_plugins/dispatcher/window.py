# SPDX-License-Identifier: Apache-2.0
"""How many jobs may be in flight, and when to look at one again. Pure arithmetic and sleeping."""

from __future__ import annotations

import asyncio
import time

__all__ = ["Poller", "Window"]

#: Most jobs of one endpoint in flight; Runpod allows 200 concurrent `/run` and 400 `/runsync` requests.
MAX_IN_FLIGHT = 200

#: A job is looked at again after this part of its age, within these bounds, seconds.
_AGE_PART = 0.1
_MIN_INTERVAL_S = 0.25
_MAX_INTERVAL_S = 5.0
#: Seconds between any two looks: 2,000 `/status` per 10 s are allowed, half of that is used.
_SPACING_S = 0.01


class Window:
    """The number of jobs in flight: halved when the platform says 429, grown by one per window of successes."""

    def __init__(self, most: int = MAX_IN_FLIGHT) -> None:
        self._most = most
        self._size = float(most)

    @property
    def size(self) -> int:
        """Jobs that may be in flight now."""
        return int(self._size)

    def shrink(self) -> None:
        """Note that the platform wants fewer requests."""
        self._size = max(1.0, self._size / 2)

    def grow(self) -> None:
        """Note that a request was accepted."""
        if self._size < self._most:
            self._size = min(self._most, self._size + 1 / self._size)


class Poller:
    """Gives all jobs that must be looked at their turns, spaced out: one schedule instead of a loop per job."""

    def __init__(self) -> None:
        self._free_at = 0.0

    async def turn(self, *, age_s: float) -> None:
        """Wait until it is time to look at a job of this age."""
        interval = min(max(age_s * _AGE_PART, _MIN_INTERVAL_S), _MAX_INTERVAL_S)
        at = max(time.monotonic() + interval, self._free_at)
        self._free_at = at + _SPACING_S
        await asyncio.sleep(at - time.monotonic())
