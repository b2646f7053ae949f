# SPDX-License-Identifier: Apache-2.0
"""What REST v2 says is left of a caller's requests, kept by waiting rather than by being refused. It sends nothing."""

from __future__ import annotations

import asyncio
import logging
import re
import time

__all__ = ["Quota"]

logger = logging.getLogger(__name__)

#: Longest wait for a window to end, seconds: longer ones (an hour, a day) are left to the platform's refusal.
_LONGEST_WAIT_S = 120.0

#: Longer waits than this are said, seconds.
_QUIET_PAUSE_S = 5.0

#: `"minute";r=59;t=12` of the header `RateLimit`: requests left, and seconds until there are more.
_WINDOW = re.compile(r'"?([\w-]+)"?((?:\s*;\s*\w+\s*=\s*[\d.]+)+)')
_MEMBER = re.compile(r";\s*(\w+)\s*=\s*([\d.]+)")


class Quota:
    """Requests left by window, as the platform last said. One event loop."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # window: requests, and when that ends on the monotonic clock

    def note(self, header: str | None) -> None:
        """Take what the header `RateLimit` of an answer says; one that nobody described says nothing."""
        for name, members in _WINDOW.findall(header or ""):
            found = {key: float(value) for key, value in _MEMBER.findall(members) if value.count(".") < 2}
            if "r" in found and "t" in found:
                self._left[name] = (found["r"], time.monotonic() + found["t"])

    async def turn(self) -> None:
        """Wait until the platform takes one more request."""
        pause_s = self._pause_s()
        if pause_s > _QUIET_PAUSE_S:
            logger.warning("the platform takes no more requests of this key for %.0f s, which are waited for", pause_s)
        while pause_s > 0:
            await asyncio.sleep(pause_s)
            pause_s = self._pause_s()  # another answer may have said more meanwhile
        now = time.monotonic()
        # Those that are on their way are not in the platform's figure yet.
        self._left = {name: (left - 1, until) for name, (left, until) in self._left.items() if until > now}

    def _pause_s(self) -> float:
        now = time.monotonic()
        pauses = [until - now for left, until in self._left.values() if left < 1 and until > now]
        return max((pause for pause in pauses if pause <= _LONGEST_WAIT_S), default=0.0)
