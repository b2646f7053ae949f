# SPDX-License-Identifier: Apache-2.0
"""Jobs of many calls on the real local platform, spoken to over HTTP: each call runs once, whatever dies beside it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flash_plugins.payload import Outcome
from flash_plugins.platforms import api
from flash_plugins.platforms.local.launch import launch
from tests.integration.local_support import Client, wait_for
from tests.unit.runner_process import batch_of, outcome_of, values_of


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    platform = launch()
    yield Client.of(platform)
    platform.stop()


@pytest.fixture(scope="module")
def endpoint(client: Client) -> str:
    env = {api.ENDPOINT_NAME_ENV: "batches", api.MAX_CONCURRENCY_ENV: "1"}
    return client.create(api.WORKER_COMMAND, name="batches", env=env, workers={"max": 1, "idleTimeout": 600})


def submit(client: Client, endpoint: str, content: Any) -> str:
    return str(client.ok("POST", f"/v2/{endpoint}/run", {"input": content})["id"])


def finished(client: Client, endpoint: str, job_id: str) -> Outcome:
    job = client.finished(endpoint, job_id)
    assert job["status"] == "COMPLETED", job
    return outcome_of(job["output"])


def streamed(client: Client, endpoint: str, job_id: str) -> list[Outcome]:
    """Return what one request for the stream brings."""
    return [outcome_of(chunk["output"]) for chunk in client.ok("GET", f"/v2/{endpoint}/stream/{job_id}")["stream"]]


def count(folder: Path, index: int) -> None:
    with open(folder / f"call-{index}", "a") as file:
        file.write("began\n")


def counts(folder: Path) -> dict[int, int]:
    return {int(path.name.removeprefix("call-")): len(path.read_text().splitlines()) for path in folder.glob("call-*")}


def poison_at(folder: Path, at: int, index: int) -> int:
    count(folder, index)
    if index == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return index


def wait_at(folder: Path, at: int, index: int) -> tuple[int, int]:
    count(folder, index)
    deadline = time.monotonic() + 60
    while index == at and not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return index, os.getppid()


def test_a_call_that_kills_its_process_leaves_its_batch_mates_alone(
    client: Client, endpoint: str, tmp_path: Path
) -> None:
    first = finished(
        client, endpoint, submit(client, endpoint, batch_of(poison_at, [(tmp_path, 2, n) for n in range(6)]))
    )
    assert values_of(first) == {0: 0, 1: 1}
    assert first.lost is not None
    assert first.lost[0] == 2
    assert "SIGKILL" in first.lost[1]
    rest = batch_of(poison_at, [(tmp_path, 2, n) for n in (3, 4, 5)])
    assert values_of(finished(client, endpoint, submit(client, endpoint, rest))) == {0: 3, 1: 4, 2: 5}
    assert counts(tmp_path) == dict.fromkeys(range(6), 1)
    job = client.ok("GET", f"/v2/{endpoint}/health")["jobs"]
    assert job["retried"] == job["failed"] == 0


def test_results_come_by_stream_while_another_call_runs_and_again_at_the_end(
    client: Client, endpoint: str, tmp_path: Path
) -> None:
    job_id = submit(client, endpoint, batch_of(wait_at, [(tmp_path, 2, n) for n in range(4)]))
    chunks: list[Outcome] = []

    def has_returned() -> bool:
        chunks.extend(streamed(client, endpoint, job_id))
        return any(chunk.returned for chunk in chunks)

    wait_for(has_returned)  # call 2 takes long by now
    assert [one.index for chunk in chunks for one in chunk.results] == [0, 1]
    assert {chunk.returned for chunk in chunks} <= {(), (3,)}
    (tmp_path / "go").touch()
    last = finished(client, endpoint, job_id)
    assert sorted(values_of(last)) == [0, 1, 2]
    assert last.returned == (3,)
    assert counts(tmp_path) == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("is_read", [False, True])
def test_what_a_killed_worker_had_done_is_not_done_again(
    client: Client, endpoint: str, tmp_path: Path, is_read: bool
) -> None:
    job_id = submit(client, endpoint, batch_of(wait_at, [(tmp_path, 2, n) for n in range(4)]))
    wait_for((tmp_path / "call-2").exists)
    if is_read:
        wait_for(lambda: streamed(client, endpoint, job_id))
    (worker,) = client.workers(endpoint)
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("RUNPOD_POD_ID") == worker["id"]:
            process.kill()
    outcome = finished(client, endpoint, job_id)
    assert sorted(values_of(outcome)) == [0, 1]
    assert outcome.lost is not None
    assert outcome.lost[0] == 2
    assert counts(tmp_path) == {0: 1, 1: 1, 2: 1}


def test_a_cancelled_batch_begins_no_other_call(client: Client, endpoint: str, tmp_path: Path) -> None:
    job_id = submit(client, endpoint, batch_of(wait_at, [(tmp_path, 1, n) for n in range(4)]))
    wait_for((tmp_path / "call-1").exists)
    client.ok("POST", f"/v2/{endpoint}/cancel/{job_id}")
    other = tmp_path / "other"
    other.mkdir()
    after = submit(client, endpoint, batch_of(wait_at, [(other, 9, 0)]))
    assert sorted(values_of(finished(client, endpoint, after))) == [0]
    assert counts(tmp_path) == {0: 1, 1: 1}
