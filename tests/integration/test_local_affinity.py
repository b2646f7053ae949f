# SPDX-License-Identifier: Apache-2.0
"""Load-balanced endpoints of the local platform with several workers: affinity, scaling, health, updates."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flash_plugins.platforms.local.launch import RunningPlatform, launch
from flash_plugins.platforms.local.ports import Ports
from tests.integration.local_support import WORKERS, Balanced, wait_for, wait_until_gone

WORKER_ID = "x-runpod-worker-id"
ONE_EACH = {"type": "REQUEST_COUNT", "requestCount": 1}


@pytest.fixture(scope="module")
def platform() -> Iterator[RunningPlatform]:
    running = launch()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(platform: RunningPlatform) -> Balanced:
    return Balanced(platform.url, platform.key)


@pytest.fixture(scope="module")
def pair(client: Balanced) -> tuple[Balanced, list[str]]:
    """An endpoint with two healthy workers, and their ids."""
    web = client.open(workers={"min": 2, "max": 2})
    workers = wait_for(lambda: [one["id"] for one in web.workers(web.id) if one["status"] == "IDLE"][1:] and ids(web))
    return web, workers


def ids(web: Balanced) -> list[str]:
    return [str(worker["id"]) for worker in web.workers(web.id)]


def error(answer: tuple[int, bytes, dict[str, str]]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1])["error"]


@pytest.mark.parametrize("form", ["{}", "strict {}", "strict-resume {}"])
def test_the_worker_that_is_asked_for_answers(pair: tuple[Balanced, list[str]], form: str) -> None:
    web, workers = pair
    for worker in workers * 3:
        status, body, headers = web.get("/", X_Runpod_Worker_Id=form.format(worker))
        assert (status, json.loads(body)["worker"], headers[WORKER_ID]) == (200, worker, worker)


def test_a_worker_that_is_gone_is_an_error_unless_any_will_do(pair: tuple[Balanced, list[str]]) -> None:
    web, workers = pair
    assert error(web.get("/", X_Runpod_Worker_Id="strict nosuch")) == (404, "affinity_worker_gone")
    assert error(web.get("/", X_Runpod_Worker_Id="strict-resume nosuch")) == (404, "affinity_worker_gone")
    assert web.get("/", X_Runpod_Worker_Id="nosuch")[2][WORKER_ID] in workers
    assert web.get("/", X_Runpod_Worker_Id="sticky x")[0] == 400


def test_a_killed_worker_is_gone_for_strict_requests(client: Balanced) -> None:
    web = client.open(workers={"max": 1})
    seen = json.loads(web.get("/")[1])
    os.kill(seen["pid"], signal.SIGKILL)
    wait_for(lambda: seen["worker"] not in ids(web))
    assert error(web.get("/", X_Runpod_Worker_Id=f"strict {seen['worker']}")) == (404, "affinity_worker_gone")
    assert error(web.get("/", X_Runpod_Worker_Id=f"strict-resume {seen['worker']}")) == (404, "affinity_worker_gone")


def test_a_worker_that_was_scaled_down_is_woken_up_under_its_id(client: Balanced) -> None:
    web = client.open(workers={"max": 1, "idleTimeout": 1})
    first = json.loads(web.get("/")[1])
    wait_until_gone([first["pid"]])
    wait_for(lambda: ids(web) == [])
    assert error(web.get("/", X_Runpod_Worker_Id=f"strict {first['worker']}")) == (404, "affinity_worker_gone")
    status, body, headers = web.get("/", X_Runpod_Worker_Id=f"strict-resume {first['worker']}")
    again = json.loads(body)
    assert (status, again["worker"], headers[WORKER_ID]) == (200, first["worker"], first["worker"])
    assert again["pid"] != first["pid"]


def test_a_worker_that_is_being_stopped_is_woken_up_as_soon_as_it_has_ended(client: Balanced) -> None:
    web = client.open(workers={"max": 1, "idleTimeout": 1})
    first = json.loads(web.get("/")[1])
    for _ in range(2):
        wait_for(lambda: ids(web) == [])  # told to end, maybe still there
        again = json.loads(web.get("/", X_Runpod_Worker_Id=f"strict-resume {first['worker']}")[1])
        assert again["worker"] == first["worker"]


def test_workers_are_added_for_the_requests_in_flight(client: Balanced) -> None:
    web = client.open(workers={"max": 3}, scaling=ONE_EACH, env={"RUNPOD_MAX_CONCURRENCY": "1"})
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda _: web.get("/sleep?s=1"), range(3)))
    assert len({headers[WORKER_ID] for _, _, headers in answers}) == 3
    summary = web.ok("GET", f"/v2/serverless/{web.id}/workers")["summary"]
    assert (summary["total"], summary["idle"]) == (3, 3)


def test_a_worker_is_initializing_until_its_health_check_passes(client: Balanced) -> None:
    web = client.open(f"python {WORKERS / 'web.py'} slow", workers={"min": 1, "max": 1})
    assert web.workers(web.id)[0]["status"] == "INITIALIZING"
    begun = time.monotonic()
    assert web.get("/")[0] == 200
    assert time.monotonic() - begun > 0.5
    assert web.workers(web.id)[0]["status"] == "IDLE"


def test_an_unhealthy_worker_is_replaced_in_the_pool_and_comes_back(client: Balanced, tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    web = client.open(workers={"min": 1, "max": 1}, env={"SICK": str(sick)})
    worker = web.get("/")[2][WORKER_ID]
    sick.touch()
    wait_for(lambda: web.workers(web.id)[0]["status"] == "UNHEALTHY")
    assert web.ok("GET", f"/v2/{web.id}/health")["workers"]["unhealthy"] == 1
    sick.unlink()
    assert web.get("/")[2][WORKER_ID] == worker


def test_an_update_lets_requests_in_flight_end_and_then_replaces_the_worker(client: Balanced, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    web = client.open(workers={"max": 1}, env={"NOTE": str(notes)})
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(web.get, "/sleep?s=1.5")
        wait_for(notes.exists)
        web.ok("PATCH", f"/v2/serverless/{web.id}", {"env": {"NEW": "1"}})
        new = web.get("/")
        assert not running.done()
        status, body, headers = running.result()
    assert (status, body.decode()) == (200, headers[WORKER_ID])
    assert new[2][WORKER_ID] != headers[WORKER_ID]
    wait_for(lambda: ids(web) == [new[2][WORKER_ID]])


def test_the_wanted_port_is_used_where_it_is_free(client: Balanced) -> None:
    wanted = Ports().take()
    web = client.open(workers={"min": 2, "max": 2}, env={"PORT": str(wanted)})
    workers = wait_for(lambda: [one["id"] for one in web.workers(web.id) if one["status"] == "IDLE"][1:] and ids(web))
    ports = {
        json.loads(web.get("/", X_Runpod_Worker_Id=f"strict {worker}")[1])["environment"]["PORT"] for worker in workers
    }
    assert len(ports) == 2
    assert str(wanted) in ports
