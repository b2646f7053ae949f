# SPDX-License-Identifier: Apache-2.0
"""Requests go no faster than a platform's limits, and not slower than needed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from flash_plugins import RateLimit
from flash_plugins.platforms import limits
from flash_plugins.platforms.choice import RUNPOD_LIMITS
from flash_plugins.platforms.limits import Limiter


class Clock:
    """Time that passes when somebody sleeps, and only then."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.is_broken = False

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if self.is_broken:
            raise asyncio.CancelledError
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(limits, "time", made)
    monkeypatch.setattr(asyncio, "sleep", made.sleep)
    return made


def run(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Drive a coroutine that never really waits."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


@pytest.mark.parametrize("operation", sorted(RUNPOD_LIMITS))
def test_no_period_sees_more_requests_than_the_limit(clock: Clock, operation: str) -> None:
    limit = RUNPOD_LIMITS[operation]
    limiter, begun = Limiter(limit, is_rare=operation == "cancel"), []
    for _ in range(3 * limit.requests):
        run(limiter.__aenter__())
        begun.append(clock.now)
        run(limiter.__aexit__(None, None, None))
    most = max(
        sum(start <= other < start + limit.per_s for other in begun[i : i + limit.requests + 1])
        for i, start in enumerate(begun)
    )
    assert 0.8 * limit.requests <= most <= limit.requests


def test_cancels_go_four_a_second_after_a_burst_of_fifty(clock: Clock) -> None:
    limiter, begun = Limiter(RUNPOD_LIMITS["cancel"], is_rare=True), []
    for _ in range(90):
        run(limiter.__aenter__())
        begun.append(clock.now)
        run(limiter.__aexit__(None, None, None))
    assert begun[49] == 1_000.0
    assert begun[89] - begun[49] == pytest.approx(40 / 4)


def test_no_more_are_open_than_allowed() -> None:
    limiter, most, now_open = Limiter(RateLimit(1_000_000, 1.0, 20)), 0, 0

    async def one() -> None:
        nonlocal most, now_open
        async with limiter:
            now_open += 1
            most = max(most, now_open)
            await asyncio.sleep(0)
            now_open -= 1

    async def many() -> None:
        await asyncio.gather(*(one() for _ in range(100)))

    asyncio.run(many())
    assert most == 20


def test_whoever_gives_up_while_it_waits_leaves_no_place_taken(clock: Clock) -> None:
    limiter = Limiter(RateLimit(1, 1.0, 1))
    run(limiter.__aenter__())
    run(limiter.__aexit__(None, None, None))
    clock.is_broken = True
    with pytest.raises(asyncio.CancelledError):
        limiter.__aenter__().send(None)
    clock.is_broken = False
    run(limiter.__aenter__())
