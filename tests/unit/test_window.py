# SPDX-License-Identifier: Apache-2.0
"""How many jobs fly, and when one is looked at again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_plugins.clock import FakeClock
from flash_plugins.dispatcher import window
from flash_plugins.dispatcher.window import MAX_IN_FLIGHT, PATIENCE_S, Patience, Poller, Window


class Clock(FakeClock):
    """Time that passes when a test says so; whoever sleeps is noted and goes on at once."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, _: object, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(window, "sleep", made.sleep)  # in that module only
    monkeypatch.setattr(window, "time", made)
    return made


def run(turns: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Drive a coroutine that never really waits; an event loop would ask for the time too."""
    with pytest.raises(StopIteration):
        turns().send(None)


def test_a_window_begins_at_its_most() -> None:
    assert Window().size == MAX_IN_FLIGHT == 200
    assert Window(5).size == 5


def test_a_refusal_halves_the_window(clock: Clock) -> None:
    made = Window(8)
    sizes = []
    for _ in range(5):
        clock.advance(1.0)
        made.shrink(sent_at=clock.monotonic())
        sizes.append(made.size)
    assert sizes == [4, 2, 1, 1, 1]


def test_requests_that_were_refused_together_halve_it_once(clock: Clock) -> None:
    made = Window(200)
    sent_at = clock.monotonic()
    clock.advance(0.1)
    for _ in range(8):
        made.shrink(sent_at=sent_at)
        clock.advance(0.001)
    assert made.size == 100
    made.shrink(sent_at=clock.monotonic())
    assert made.size == 50


def test_a_window_recovers_within_a_few_hundred_successes(clock: Clock) -> None:
    made = Window(200)
    for _ in range(10):
        clock.advance(1.0)
        made.shrink(sent_at=clock.monotonic())
    assert made.size == 1
    for _ in range(800):
        made.grow()
    assert made.size == 200


def test_success_never_passes_the_most(clock: Clock) -> None:
    made = Window(3)
    made.grow()
    assert made.size == 3
    made.shrink(sent_at=clock.monotonic())
    for _ in range(100):
        made.grow()
    assert made.size == 3


@given(st.integers(1, 500), st.lists(st.booleans(), max_size=200))
def test_a_window_lets_at_least_one_through_and_never_too_many(most: int, events: list[bool]) -> None:
    made = Window(most)
    for is_success in events:
        if is_success:
            made.grow()
        else:
            made.shrink(sent_at=time.monotonic())
        assert 1 <= made.size <= most


def test_a_request_that_is_refused_waits_longer_each_time(clock: Clock) -> None:
    patience = Patience(clock)
    for _ in range(7):
        run(lambda: patience.pause(1.0))
    for pause_s, least_s in zip(clock.slept, [1, 2, 4, 8, 16, 30, 30], strict=True):
        assert least_s <= pause_s <= least_s * 1.25


def test_no_pause_is_shorter_than_what_the_platform_asked_for(clock: Clock) -> None:
    run(lambda: Patience(clock).pause(100.0))
    assert 100.0 <= clock.slept[0] <= 125.0


def test_requests_that_were_refused_together_do_not_come_back_together(clock: Clock) -> None:
    for _ in range(20):
        run(lambda: Patience(clock).pause(1.0))
    assert len(set(clock.slept)) > 10


def test_patience_ends_after_ten_minutes(clock: Clock) -> None:
    patience, is_patient = Patience(clock), True

    async def ask() -> None:
        nonlocal is_patient
        is_patient = await patience.pause(1.0)
        clock.advance(clock.slept[-1])

    began = clock.monotonic()
    while is_patient:
        run(ask)
    assert 500 <= clock.monotonic() - began <= 640
    assert PATIENCE_S == 600


def test_a_pause_that_would_pass_the_end_is_not_begun(clock: Clock) -> None:
    answers = []

    async def ask() -> None:
        answers.append(await Patience(clock).pause(3_600.0))

    run(ask)
    assert (answers, clock.slept) == ([False], [])


@pytest.mark.parametrize(
    ("age_s", "interval_s"), [(0.0, 0.25), (2.5, 0.25), (5.0, 0.5), (20.0, 2.0), (50.0, 5.0), (3600.0, 5.0)]
)
def test_an_old_job_is_looked_at_less_often(clock: Clock, age_s: float, interval_s: float) -> None:
    run(lambda: Poller(clock).turn(age_s=age_s))
    assert clock.slept == pytest.approx([interval_s])


def test_looks_are_spaced_out(clock: Clock) -> None:
    poller = Poller(clock)
    for _ in range(4):
        run(lambda: poller.turn(age_s=0.0))
    assert clock.slept == pytest.approx([0.25, 0.26, 0.27, 0.28])


def test_a_pause_in_looks_is_not_made_up_for(clock: Clock) -> None:
    poller = Poller(clock)
    for _ in range(100):
        run(lambda: poller.turn(age_s=0.0))
    clock.advance(60.0)
    run(lambda: poller.turn(age_s=0.0))
    assert clock.slept[-1] == pytest.approx(0.25)


def test_two_thousand_jobs_are_looked_at_a_hundred_times_a_second(clock: Clock) -> None:
    poller = Poller(clock)
    for _ in range(2_000):
        run(lambda: poller.turn(age_s=0.0))
    assert clock.slept[-1] == pytest.approx(20.24)


def test_a_turn_really_waits() -> None:
    async def one() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await Poller().turn(age_s=0.0)
        return loop.time() - began

    assert asyncio.run(one()) >= 0.24
