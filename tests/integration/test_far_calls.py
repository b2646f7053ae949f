# SPDX-License-Identifier: Apache-2.0
"""Calls on a simulated Runpod: 80 ms away, with limits, and with workers that take more jobs than they run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import flash_plugins
from flash_plugins import Endpoint
from flash_plugins.testing import SimulatedRunpod, simulated_runpod

pytestmark = pytest.mark.timeout(180)

endpoint = Endpoint(name="far-calls", cpu="cpu5c-4-8", workers=(2, 2))


@endpoint
def double(x: int) -> int:
    return 2 * x


@endpoint
def nap(seconds: float, number: int, diary: str) -> int:
    with open(diary, "a") as file:
        file.write(f"{number}\n")
    time.sleep(seconds)
    return number


@pytest.fixture(scope="module")
def runpod() -> Iterator[SimulatedRunpod]:
    with pytest.MonkeyPatch.context() as patch, simulated_runpod(cold_start_s=0) as runpod:
        flash_plugins.close()
        for name, value in runpod.environment.items():
            patch.setenv(name, value)
        assert double(1).result(120) == 2
        yield runpod
        flash_plugins.close()


def test_small_calls_share_requests_and_stay_within_the_limits(runpod: SimulatedRunpod) -> None:
    before = runpod.requests()
    assert list(double.map(range(3_000))) == [2 * x for x in range(3_000)]
    after = runpod.requests()
    asked = sum(
        count - before.get(name, 0)
        for name, count in after.items()
        if name.startswith("client ") and name != "client rest"
    )
    assert asked <= 0.1 * 3_000
    assert after.get("refused", 0) == 0


def test_each_call_runs_once_however_often_its_job_is_handed_back(runpod: SimulatedRunpod, tmp_path: Path) -> None:
    # One that is long enough to have what waits behind it handed back, among many that are not.
    lengths = [4.0, *[0.05] * 30, 0.6, 0.6, 0.6, *[0.01] * 30]
    diary = tmp_path / "diary"
    calls = [nap(seconds, number, str(diary)) for number, seconds in enumerate(lengths)]
    began = time.monotonic()
    assert [call.result(120) for call in calls] == list(range(len(lengths)))
    assert time.monotonic() - began < 60
    assert Counter(map(int, diary.read_text().split())) == Counter(range(len(lengths)))
    assert runpod.requests().get("refused", 0) == 0
