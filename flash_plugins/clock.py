# SPDX-License-Identifier: Apache-2.0
"""Time as the dispatcher and the local platform see it: a clock that tests can move instead of sleeping."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "FakeClock", "SystemClock", "Timer", "sleep"]


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Make the call not happen. Does nothing once it has."""


class Clock(Protocol):
    """Where time comes from. Used from one thread only."""

    def monotonic(self) -> float:
        """Return seconds that never go back; only differences mean anything."""

    def wall(self) -> float:
        """Return seconds since 1970."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` once, after `delay_s` seconds."""


async def sleep(clock: Clock, seconds: float) -> None:
    """Wait until `clock` has moved on by `seconds`; at least the other tasks get their turn."""
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not done.done():
            done.set_result(None)

    timer = clock.call_later(seconds, wake)
    try:
        await done
    finally:
        timer.cancel()


class SystemClock:
    """The real time; timers run in the asyncio loop that is running when they are set."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0.0, delay_s), callback)


class _FakeTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """A clock that stands still until `advance` moves it. Needs no event loop."""

    def __init__(self, *, wall: float = 1_800_000_000.0) -> None:
        self._now = 1_000.0
        self._wall_offset = wall - self._now
        self._timers: list[tuple[float, int, _FakeTimer]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self._wall_offset

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        timer = _FakeTimer(callback)
        heapq.heappush(self._timers, (self._now + max(0.0, delay_s), next(self._order), timer))
        return timer

    @property
    def pending(self) -> int:
        """Calls that are still to be made."""
        return sum(timer.callback is not None for _, _, timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Move `seconds` on and make every call that gets due, in order, each at its own time."""
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            if timer.callback is not None:
                timer.callback()
        self._now = end
