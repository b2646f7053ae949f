# SPDX-License-Identifier: Apache-2.0
"""The simulated Runpod keeps what it promises: distance, limits, counts, and time that can be moved."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flash_plugins.platforms import api
from flash_plugins.testing import SimulatedRunpod, simulated_runpod
from tests.contract.platform_worker import ByHand, command, environment
from tests.integration.local_support import Client

pytestmark = pytest.mark.timeout(120)

#: A round trip that no busy machine takes by itself.
FAR_S = 0.5


@pytest.fixture(scope="module")
def runpod() -> Iterator[SimulatedRunpod]:
    with simulated_runpod(cold_start_s=0, round_trip_s=FAR_S) as runpod:
        yield runpod


@pytest.fixture
def client(runpod: SimulatedRunpod) -> Client:
    return Client(runpod.url, runpod.key)


def test_requests_of_clients_and_workers_take_a_round_trip_and_overlap(client: Client, tmp_path: Path) -> None:
    endpoint = client.create(command(tmp_path), workers={"min": 1, "max": 1})
    worker = ByHand(client, environment(tmp_path))

    began = time.monotonic()
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda _: client.ok("POST", f"/v2/{endpoint}/run", {"input": 1}), range(20)))
    assert FAR_S <= time.monotonic() - began < 20 * FAR_S / 2

    began = time.monotonic()
    job = worker.take()
    assert time.monotonic() - began >= FAR_S
    worker.report(job["id"], {"output": 1})
    assert client.ok("GET", f"/v2/{endpoint}/status/{job['id']}")["output"] == 1


def test_workers_are_not_told_of_a_cap_and_take_what_they_ask_for(client: Client, tmp_path: Path) -> None:
    env = {api.MAX_CONCURRENCY_ENV: "1"}
    endpoint = client.create(command(tmp_path), workers={"min": 1, "max": 1}, env=env)
    variables = environment(tmp_path)
    ids = [client.ok("POST", f"/v2/{endpoint}/run", {"input": 1})["id"] for _ in range(3)]
    assert api.CAPPED_ENV not in variables
    assert [job["id"] for job in ByHand(client, variables).take(batch=3)] == ids


def test_more_requests_than_runpod_allows_are_refused_and_all_are_counted(
    client: Client, runpod: SimulatedRunpod
) -> None:
    endpoint = client.create("sleep 600", workers={"min": 0, "max": 0})
    job = client.ok("POST", f"/v2/{endpoint}/run", {"input": 1})["id"]
    before = runpod.requests()
    most, _ = api.RATE_LIMITS["cancel"]

    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: client.request("POST", f"/v2/{endpoint}/cancel/{job}"), range(most + 10)))

    refused = [headers for status, _, headers in answers if status == 429]
    assert 0 < len(refused) <= 10
    assert all(1 <= int(headers["retry-after"]) <= api.RATE_LIMIT_PERIOD_S for headers in refused)
    after = runpod.requests()
    assert after["client cancel"] - before.get("client cancel", 0) == most + 10
    assert after["refused"] - before.get("refused", 0) == len(refused)
    runpod.advance(api.RATE_LIMIT_PERIOD_S)
    assert client.request("POST", f"/v2/{endpoint}/cancel/{job}")[0] == 200


def test_results_are_kept_half_an_hour_after_run_and_a_minute_after_runsync(
    client: Client, runpod: SimulatedRunpod, tmp_path: Path
) -> None:
    endpoint = client.create(command(tmp_path), workers={"min": 1, "max": 1})
    worker = ByHand(client, environment(tmp_path))
    run = client.ok("POST", f"/v2/{endpoint}/run", {"input": 1})["id"]
    sync = client.ok("POST", f"/v2/{endpoint}/runsync?wait=1000", {"input": 1})["id"]
    for _ in range(2):
        worker.report(worker.take()["id"], {"output": 1})

    def found(job: str) -> bool:
        return client.request("GET", f"/v2/{endpoint}/status/{job}")[0] == 200

    assert (found(run), found(sync)) == (True, True)
    runpod.advance(api.RUNSYNC_RETENTION_S + 1)
    assert (found(run), found(sync)) == (True, False)
    runpod.advance(api.RUN_RETENTION_S)
    assert (found(run), found(sync)) == (False, False)


def test_no_worker_gets_a_job_before_the_cold_start_is_over(tmp_path: Path) -> None:
    with simulated_runpod(cold_start_s=3.0, round_trip_s=0) as runpod:
        client = Client(runpod.url, runpod.key)
        endpoint = client.create(command(tmp_path), workers={"min": 0, "max": 1})
        began = time.monotonic()
        client.ok("POST", f"/v2/{endpoint}/run", {"input": 1})
        worker = ByHand(client, environment(tmp_path))
        assert worker.take() is not None
        assert time.monotonic() - began >= 2.9


def test_time_moves_only_where_that_was_asked_for(client: Client) -> None:
    assert client.request("POST", "/_platform", {"advance_s": "much"})[0] == 400
    with simulated_runpod(has_movable_clock=False) as real:
        asked = Client(real.url, real.key).request("POST", "/_platform", {"advance_s": 60})
    assert asked[0] == 405, json.dumps(asked[1])
