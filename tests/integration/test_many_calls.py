# SPDX-License-Identifier: Apache-2.0
"""Many calls on a real local platform: they share jobs, and each has its own outcome, once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flash_plugins
from flash_plugins import Call, Endpoint, JobCancelled, WorkerLost
from flash_plugins.platforms.runpod import RunpodClient

#: Generous: the box may be busy.
DEADLINE_S = 60.0

endpoint = Endpoint(name="many", cpu="cpu5c-4-8", workers=(2, 2))


@endpoint
def double(number: int) -> int:
    return 2 * number


@endpoint
def inverse(number: int) -> float:
    return 1 / number


@endpoint
def step(path: str, number: int, action: str = "") -> int:
    """Note that it runs; then end the process, take long or do nothing."""
    with open(path, "a") as file:
        file.write(f"{number}\n")
    if action == "die":
        os._exit(3)
    time.sleep({"nap": 60.0, "linger": 4.0}.get(action, 0.001))
    return number


@endpoint
class Tally:
    def __init__(self, start: int) -> None:
        self.start = start

    def plus(self, number: int) -> int:
        return self.start + number


@pytest.fixture(scope="module", autouse=True)
def platform() -> Iterator[None]:
    """One platform for all of these, with functions that are known to be short."""
    for function in (double, inverse):
        assert function(1).result(DEADLINE_S) is not None
    yield
    flash_plugins.process.close()


@pytest.fixture
def submissions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is sent as jobs."""
    sent: list[int] = []
    run, run_sync = RunpodClient.run, RunpodClient.run_sync

    async def counted_run(self: RunpodClient, handle: Any, body: bytes) -> Any:
        sent.append(len(body))
        return await run(self, handle, body)

    async def counted_run_sync(self: RunpodClient, handle: Any, body: bytes, *, wait_ms: int) -> Any:
        sent.append(len(body))
        return await run_sync(self, handle, body, wait_ms=wait_ms)

    monkeypatch.setattr(RunpodClient, "run", counted_run)
    monkeypatch.setattr(RunpodClient, "run_sync", counted_run_sync)
    return sent


def runs(path: Path) -> list[int]:
    return sorted(int(line) for line in path.read_text().split())


def test_calls_of_a_map_share_jobs(submissions: list[int]) -> None:
    assert list(double.map(range(3_000))) == [2 * number for number in range(3_000)]
    assert len(submissions) < 300
    assert sorted(double.map(range(500), order="completed")) == [2 * number for number in range(500)]


def test_calls_made_one_by_one_share_jobs(submissions: list[int]) -> None:
    calls = [double(number) for number in range(1_000)]
    assert [call.result(DEADLINE_S) for call in calls] == [2 * number for number in range(1_000)]
    assert len(submissions) < 300
    assert all(call.job_id and call.worker_id and call.worker_pid for call in calls)
    assert {call.execution_s is not None for call in calls} == {True}


def test_methods_of_an_instance_share_jobs(submissions: list[int]) -> None:
    tally: Any = Tally(10)
    assert tally.plus(1).result(DEADLINE_S) == 11
    assert list(tally.plus.map(range(500))) == list(range(10, 510))
    assert len(submissions) < 200


def test_a_failure_is_that_of_one_call() -> None:
    outcomes = list(inverse.map([*range(1, 50), 0, *range(50, 100)], return_exceptions=True))
    assert isinstance(outcomes.pop(49), ZeroDivisionError)
    assert outcomes == [1 / number for number in range(1, 100)]


def test_a_call_that_ends_its_process_is_reported_and_the_others_run_once(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    step(str(path), -1).result(DEADLINE_S)
    calls = [step(str(path), number, "die" if number == 20 else "") for number in range(60)]
    with pytest.raises(WorkerLost, match=rf"Call {calls[20].number} of step\(\)"):
        calls[20].result(DEADLINE_S)
    assert [call.result(DEADLINE_S) for call in calls if call is not calls[20]] == [n for n in range(60) if n != 20]
    assert [number for number in runs(path) if number != 20] == [-1, *(n for n in range(60) if n != 20)]


def test_a_slow_call_does_not_hold_up_those_around_it(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    for number in range(3):
        step(str(path), number).result(DEADLINE_S)
    calls = [step(str(path), number, "linger" if number == 30 else "") for number in range(3, 200)]
    slow = calls.pop(27)
    assert [call.result(DEADLINE_S) for call in calls] == [n for n in range(3, 200) if n != 30]
    assert not slow.done()
    assert slow.result(DEADLINE_S) == 30
    assert runs(path) == list(range(200))


def test_cancelling_reaches_what_runs_and_what_waits(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    step(str(path), -1).result(DEADLINE_S)
    calls: list[Call[int]] = [step(str(path), number, "nap") for number in range(40)]
    while len(runs(path)) < 3:
        time.sleep(0.01)
    for call in calls:
        assert call.cancel()
    with pytest.raises(JobCancelled):
        calls[0].result(DEADLINE_S)
    assert double(4).result(DEADLINE_S) == 8  # both workers are free again
    assert len(runs(path)) < 10


def test_an_iterator_that_is_dropped_cancels_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    for number in step.map([str(path)] * 10_000, range(10_000)):
        if number == 100:
            break
    count = -1
    while count != (count := len(runs(path))):
        time.sleep(0.3)
    assert count < 9_000
