# SPDX-License-Identifier: Apache-2.0
"""How many REST requests the account has left, by the minute, hour and day. It answers nothing itself.

Header forms: Runpod's REST v2 description (2026-08), which gives 60 a minute, 3,000 an hour and 50,000 a day as
examples. A platform of one's own has no reason to be that strict, but counts, so that clients can be tried.
"""

from __future__ import annotations

import math

from .clock import Clock

__all__ = ["REST_PER_MINUTE", "Quota"]

#: Requests that the local platform takes in a minute.
REST_PER_MINUTE = 60_000
#: Windows: name, length in seconds, and how many minutes' worth of requests fit (60 : 3,000 : 50,000).
_WINDOWS = (("minute", 60, 1), ("hour", 3_600, 50), ("day", 86_400, 833))


class Quota:
    """Counts requests in fixed windows, which begin when the platform does. Belongs to one event loop."""

    def __init__(self, clock: Clock, per_minute: int) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._limits = {name: per_minute * share for name, _, share in _WINDOWS}
        self._windows = dict.fromkeys(self._limits, 0)
        self._used = dict.fromkeys(self._limits, 0)

    def take(self) -> int | None:
        """Count a request; the seconds after which another one can succeed, if there is none left."""
        self._roll()
        waits = [self._reset_s(length_s) for name, length_s, _ in _WINDOWS if self._used[name] >= self._limits[name]]
        if waits:
            return max(waits)
        for name in self._used:
            self._used[name] += 1
        return None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return `RateLimit` and `RateLimit-Policy` as they are now."""
        self._roll()
        left = ", ".join(
            f'"{name}";r={self._limits[name] - self._used[name]};t={self._reset_s(length_s)}'
            for name, length_s, _ in _WINDOWS
        )
        policy = ", ".join(f'"{name}";q={self._limits[name]};w={length_s}' for name, length_s, _ in _WINDOWS)
        return [(b"ratelimit", left.encode()), (b"ratelimit-policy", policy.encode())]

    def _roll(self) -> None:
        """Begin the windows that have begun meanwhile."""
        for name, length_s, _ in _WINDOWS:
            window = int((self._clock.monotonic() - self._began) // length_s)
            if window != self._windows[name]:
                self._windows[name], self._used[name] = window, 0

    def _reset_s(self, length_s: int) -> int:
        return math.ceil(length_s - (self._clock.monotonic() - self._began) % length_s)
