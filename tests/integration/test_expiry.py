# SPDX-License-Identifier: Apache-2.0
"""Time limits and the keeping of results, on a simulated Runpod whose clock is moved: a reason each, and no hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import flash_plugins
from flash_plugins import Endpoint, JobExpired, JobTimeout
from flash_plugins.dispatcher import queue_lane
from flash_plugins.platforms import api
from flash_plugins.process import session
from flash_plugins.testing import SimulatedRunpod, simulated_runpod
from tests.integration.local_support import Client, wait_for

pytestmark = pytest.mark.timeout(120)

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def runpod() -> Iterator[SimulatedRunpod]:
    with simulated_runpod(cold_start_s=0, round_trip_s=0, rest_per_minute=6_000) as runpod:
        yield runpod


@pytest.fixture(autouse=True)
def on_it(runpod: SimulatedRunpod, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    flash_plugins.close()
    for name, value in runpod.environment.items():
        monkeypatch.setenv(name, value)
    # Every job of these tests is known to the platform at once.
    monkeypatch.setattr(queue_lane, "_VISIBILITY_S", 0.0)
    yield
    flash_plugins.close()


def health(runpod: SimulatedRunpod, name: str) -> dict[str, int]:
    client = Client(runpod.url, runpod.key)
    jobs: dict[str, int] = client.ok("GET", f"/v2/{client.endpoint_named(name)['id']}/health")["jobs"]
    return jobs


def napper(name: str, **parameters: Any) -> Any:
    @Endpoint(name=name, cpu="cpu5c-4-8", **parameters)
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    return nap


def test_a_result_that_nobody_fetched_in_time_is_gone_and_its_call_says_so(runpod: SimulatedRunpod) -> None:
    nap = napper("slept", workers=(1, 1))
    nap(0).result(DEADLINE_S)
    call = nap(3.0)
    wait_for(lambda: call.job_id)
    awake = threading.Event()
    session().loop.post(awake.wait)  # this machine sleeps
    try:
        wait_for(lambda: health(runpod, "slept")["completed"] == 2)
        runpod.advance(max(api.RUN_RETENTION_S, api.RUNSYNC_RETENTION_S) + 1)
    finally:
        awake.set()
    with pytest.raises(JobExpired, match="results are kept") as caught:
        call.result(DEADLINE_S)
    assert caught.value.job_id == call.job_id


def test_a_job_that_waits_beyond_its_time_to_live_is_gone_and_its_call_says_so(runpod: SimulatedRunpod) -> None:
    nap = napper("never", workers=(0, 1))
    call = nap(600)  # the only worker is busy with it
    waiting = nap(0)
    wait_for(lambda: waiting.job_id and call.job_id)
    runpod.advance(2 * api.NO_EXECUTION_LIMIT_MS / 1000 + 1)
    for lost in (call, waiting):
        with pytest.raises((JobExpired, JobTimeout), match=r"ttl|time"):
            lost.result(DEADLINE_S)


def test_a_call_that_runs_beyond_its_limit_is_stopped_with_the_limit_in_its_error(runpod: SimulatedRunpod) -> None:
    nap = napper("limited", workers=(1, 1), execution_timeout_ms=20_000)
    nap(0).result(DEADLINE_S)
    call = nap(600)
    wait_for(lambda: call.job_id and health(runpod, "limited")["inProgress"] == 1)
    runpod.advance(21)
    with pytest.raises(JobTimeout, match="20 s"):
        call.result(DEADLINE_S)
    assert nap(0).result(DEADLINE_S) == 0  # its worker is free again
