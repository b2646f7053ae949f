# SPDX-License-Identifier: Apache-2.0
"""Time as the local platform sees it: a clock that tests can move. Nothing else here reads the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ...clock import Clock, FakeClock, SystemClock, Timer

__all__ = ["Clock", "FakeClock", "MovableClock", "SystemClock", "Timer"]


class MovableClock(SystemClock):
    """The real time, and whatever it was moved on by."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._timers: set[_MovableTimer] = set()

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s

    def wall(self) -> float:
        return time.time() + self._ahead_s

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        timer = _MovableTimer(self, callback, self.monotonic() + delay_s)
        self._timers.add(timer)
        timer.set()
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass at once: what is due by then is called as soon as the loop comes to it."""
        self._ahead_s += seconds
        for timer in self._timers:
            timer.set()

    def forget(self, timer: _MovableTimer) -> None:
        """Note that a timer has been called or cancelled."""
        self._timers.discard(timer)


class _MovableTimer:
    def __init__(self, clock: MovableClock, callback: Callable[[], object], at: float) -> None:
        self._clock = clock
        self._callback = callback
        self._at = at
        self._handle: asyncio.TimerHandle | None = None

    def set(self) -> None:
        """Wait for the moment anew."""
        if self._handle is not None:
            self._handle.cancel()
        delay_s = max(0.0, self._at - self._clock.monotonic())
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._run)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._clock.forget(self)

    def _run(self) -> None:
        self._clock.forget(self)
        self._callback()
