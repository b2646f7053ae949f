# SPDX-License-Identifier: Apache-2.0
"""Our worker on both versions of the official SDK: many calls in one job, with results before its end."""

from __future__ import annotations

import os
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from flash_plugins.payload import Outcome
from flash_plugins.platforms import api
from tests.unit.runner_process import batch_of, outcome_of, values_of

from .account import Account, until
from .environments import Environment

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]


def wait_at(folder: Path, at: int, index: int) -> str:
    deadline = time.monotonic() + 60
    while index == at and not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return f"{index}: {metadata.version('runpod')}"


def test_results_come_before_the_end_and_at_the_end(account: Account, sdk: Environment, tmp_path: Path) -> None:
    (packages,) = sdk.folder.glob("lib/python*/site-packages")
    env = {
        "PYTHONPATH": os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]),
        api.ENDPOINT_NAME_ENV: "batches",
        api.MAX_CONCURRENCY_ENV: "1",
    }
    queue = account.start("batches", [sys.executable, "-m", "flash_plugins.worker"], env=env)
    job_id = queue.run(batch_of(wait_at, [(tmp_path, 2, index) for index in range(4)]))
    chunks: list[Outcome] = []

    def fetch() -> list[Outcome]:
        chunks.extend(outcome_of(chunk["output"]) for chunk in queue.stream(job_id)["stream"])
        return chunks

    until(fetch, lambda seen: any(chunk.returned for chunk in seen))
    assert [one.index for chunk in chunks for one in chunk.results] == [0, 1]
    (tmp_path / "go").touch()
    job = queue.finish(job_id)

    assert job["status"] == "COMPLETED"
    outcome = outcome_of(job["output"])
    version = sdk.name.removeprefix("runpod-")
    assert values_of(outcome) == {index: f"{index}: {version}" for index in range(3)}
    assert outcome.returned == (3,)
