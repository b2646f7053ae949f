# SPDX-License-Identifier: Apache-2.0
"""A gate that lets no more requests through than a platform takes. It sends nothing."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

from .base import RateLimit

__all__ = ["Limiter"]

#: Part of the limit that is used in the long run, and part of it that may go at once after a pause. Together
#: under 1: clocks differ, and so do the ways of two requests.
_STEADY_PART = 0.8
_BURST_PART = 0.1
#: The same for requests that are rare: Ctrl-C cancels some dozen jobs, which should end at once.
_RARE_PARTS = (0.4, 0.5)


class Limiter:
    """Lets requests through no faster than a limit allows: `async with limiter:` around each. One event loop.

    Args:
        limit: The limit.
        is_rare: Whether such requests come all at once and then not for long, as cancels do: then half of the limit may
            go at once, and the rest more slowly.
    """

    def __init__(self, limit: RateLimit, *, is_rare: bool = False) -> None:
        steady_part, burst_part = _RARE_PARTS if is_rare else (_STEADY_PART, _BURST_PART)
        burst = max(1.0, limit.requests * burst_part)
        self._interval_s = limit.per_s / (limit.requests * steady_part)
        self._burst_s = (burst - 1) * self._interval_s
        self._open = asyncio.Semaphore(limit.at_once)
        self._booked_until = 0.0  # when the requests so far would be through, one interval apart

    async def __aenter__(self) -> None:
        await self._open.acquire()
        now = time.monotonic()
        at = self._booked_until - self._burst_s
        self._booked_until = max(self._booked_until, now) + self._interval_s
        if at > now:
            try:
                await asyncio.sleep(at - now)
            except BaseException:
                self._open.release()
                raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.release()
