# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on purpose, and what a service far away is like: for tests and benchmarks. Nothing here is default.

request ──half a round trip──> too many? 429 ──> refuse, drop ──> answered as ever ──half a round trip──> client
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from .. import api
from .asgi import Message, Send, break_off, send_empty
from .clock import Clock
from .quota import REST_PER_MINUTE

__all__ = ["Faults", "JobRates", "Mishaps"]

#: Seconds that a client is asked to wait where too many requests are open at once: any of them may end soon.
_OPEN_RETRY_S = 1


@dataclass(slots=True)
class Faults:
    """What goes wrong, or is slower and stricter than on this machine; each count is used up by that many requests.

    Attributes:
        round_trip_s: Seconds that every request takes on its way and back, besides what it is held: those of clients
            and those of workers. Requests do not wait for one another.
        refuse: So many requests to the job API and to load-balanced endpoints are answered with 429.
        drop: So many of them have their connection closed, without an answer.
        cold_start_s: No worker gets a job earlier than this after it was started, seconds.
        rest_per_minute: REST requests that are answered in a minute.
        is_rate_limited: Whether the job API keeps Runpod's limits by operation (`api.RATE_LIMITS`), by 429.
        is_uncapped: Whether a worker gets as many jobs as it asks for, and whichever worker asks gets them, as on
            Runpod; else no more at once than its endpoint's `MAX_CONCURRENCY_ENV`, the least busy first.
        is_workerless: Whether no worker process is started, however many there should be.
        has_movable_clock: Whether `POST /_platform` with `{"advance_s": seconds}` lets time pass.
    """

    round_trip_s: float = 0.0
    refuse: int = 0
    drop: int = 0
    cold_start_s: float = 0.0
    rest_per_minute: int = REST_PER_MINUTE
    is_rate_limited: bool = False
    is_uncapped: bool = False
    is_workerless: bool = False
    has_movable_clock: bool = False


class JobRates:
    """Runpod's limits of one kind of request to one endpoint: how many may begin in 10 s, how many be open at once.

    Runpod publishes the numbers and not how it counts; this counts every 10 s there are, which is the strictest.
    """

    def __init__(self, clock: Clock, most: int, at_once: int) -> None:
        self._clock = clock
        self._most = most
        self._at_once = at_once
        self._began: deque[float] = deque()
        self._open = 0

    def enter(self) -> int | None:
        """Let a request in and return None, or return the seconds after which another one can succeed."""
        now = self._clock.monotonic()
        while self._began and self._began[0] <= now - api.RATE_LIMIT_PERIOD_S:
            self._began.popleft()
        if len(self._began) >= self._most:
            return max(1, math.ceil(self._began[0] + api.RATE_LIMIT_PERIOD_S - now))
        if self._open >= self._at_once:
            return _OPEN_RETRY_S
        self._began.append(now)
        self._open += 1
        return None

    def leave(self) -> None:
        """Note that a request that was let in has been answered."""
        self._open -= 1


class Mishaps:
    """Makes faults happen to requests, and counts them all. Belongs to one event loop.

    Attributes:
        requests: Requests so far, by who made them (`client`, `worker`) and operation; REST is `client rest`. Those
            that were refused for their rate are counted once more, as `refused`.
    """

    def __init__(self, faults: Faults, clock: Clock) -> None:
        self.faults = faults
        self.requests: Counter[str] = Counter()
        self._clock = clock
        self._rates: dict[tuple[str, str], JobRates] = {}

    async def travel(self, send: Send) -> Send:
        """Wait as long as the request is on its way, and return what sends its answer as late."""
        half_s = self.faults.round_trip_s / 2
        if not half_s:
            return send
        await self.pause(half_s)
        has_begun = False

        async def late(message: Message) -> None:
            nonlocal has_begun
            if not has_begun:  # the rest comes right behind
                has_begun = True
                await self.pause(half_s)
            await send(message)

        return late

    def rates_of(self, endpoint_id: str, operation: str) -> JobRates | None:
        """Return the limits of an operation of the job API, as its path names it; None where there are none."""
        limits = _LIMITS_BY_PATH.get(operation) if self.faults.is_rate_limited else None
        if limits is None:
            return None
        key = (endpoint_id, operation)
        if key not in self._rates:
            self._rates[key] = JobRates(self._clock, *limits)
        return self._rates[key]

    async def strike(self, send: Send) -> bool:
        """Answer a request wrongly if it is the turn of one, and return whether it was."""
        faults = self.faults
        if faults.refuse:
            faults.refuse -= 1
            await send_empty(send, 429)
            return True
        if faults.drop:
            faults.drop -= 1
            await break_off(send)
            return True
        return False

    async def pause(self, seconds: float) -> None:
        """Wait by the platform's clock."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        self._clock.call_later(seconds, wake)
        await done


#: By the first word of the path, where `api.RATE_LIMITS` has the names of REST v2.
_LIMITS_BY_PATH: Mapping[str, tuple[int, int]] = {
    api.JOB_PATHS[name].split("/")[1]: limits for name, limits in api.RATE_LIMITS.items()
}
