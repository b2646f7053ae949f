# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio

from flash_plugins.platforms.local.clock import FakeClock, MovableClock
from flash_plugins.platforms.local.faults import Faults, JobRates, Mishaps
from tests.unit.local.local_fakes import Scene


def test_so_many_requests_may_begin_in_any_ten_seconds() -> None:
    clock = FakeClock()
    rates = JobRates(clock, 2, at_once=10)
    assert rates.enter() is None
    clock.advance(4)
    assert rates.enter() is None
    assert rates.enter() == 6
    clock.advance(5.9)
    assert rates.enter() == 1
    clock.advance(0.2)
    assert rates.enter() is None  # the first has left the window, the second has not
    assert rates.enter() == 4


def test_so_many_requests_may_be_open_at_once() -> None:
    rates = JobRates(FakeClock(), 10, at_once=2)
    assert [rates.enter(), rates.enter(), rates.enter()] == [None, None, 1]
    rates.leave()
    assert rates.enter() is None


def test_limits_are_runpods_by_operation_and_endpoint() -> None:
    mishaps = Mishaps(Faults(is_rate_limited=True), FakeClock())
    run = mishaps.rates_of("one", "run")
    assert run is not None
    assert [run.enter() for _ in range(201)] == [None] * 200 + [1]
    assert mishaps.rates_of("one", "run") is run
    assert mishaps.rates_of("two", "run") is not run
    assert mishaps.rates_of("one", "runsync") is not None
    assert mishaps.rates_of("one", "health") is None
    assert Mishaps(Faults(), FakeClock()).rates_of("one", "run") is None


def test_an_uncapped_worker_gets_all_it_asks_for() -> None:
    scene = Scene(cap=1, workers={"min": 2}, is_uncapped=True)
    jobs = [scene.submit() for _ in range(5)]
    assert scene.poll(scene.worker(0), want=4) == [jobs[:4]]
    assert scene.poll(scene.worker(1), want=4) == [jobs[4:]]


def test_without_a_cap_a_job_goes_to_any_worker_that_asks_however_busy() -> None:
    scene = Scene(workers={"min": 2}, is_uncapped=True)
    busy, idle = scene.worker(0), scene.worker(1)
    for _ in range(3):
        scene.submit()
    scene.poll(busy, want=3)
    went_to_busy = 0
    for _ in range(40):
        at_busy, at_idle = scene.poll(busy), scene.poll(idle)
        job = scene.submit()
        assert at_busy + at_idle == [[job]]
        went_to_busy += bool(at_busy)
        scene.done(busy if at_busy else idle, job)
    assert 5 < went_to_busy < 35


def test_a_movable_clock_calls_what_is_due_when_it_is_moved() -> None:
    async def play() -> list[str]:
        clock, called = MovableClock(), list[str]()
        both = asyncio.Event()
        clock.call_later(60, lambda: called.append("in a minute"))
        clock.call_later(0.01, lambda: called.append("soon"))
        clock.call_later(61, both.set)
        clock.call_later(600, lambda: called.append("never"))
        clock.call_later(50, lambda: called.append("cancelled")).cancel()
        before = clock.monotonic(), clock.wall()
        clock.advance(100)
        assert 100 <= clock.monotonic() - before[0] < 200
        assert 100 <= clock.wall() - before[1] < 200
        await asyncio.wait_for(both.wait(), 30)
        await asyncio.sleep(0.05)  # for what is due in 10 ms anyway
        return called

    assert sorted(asyncio.run(play())) == ["in a minute", "soon"]
