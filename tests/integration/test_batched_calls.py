# SPDX-License-Identifier: Apache-2.0
"""Calls that travel many in one job, made the usual way: what one of them does, only its own caller notices."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flash_plugins import Endpoint, JobTimeout, WorkerLost

endpoint = Endpoint(name="batched", cpu="cpu5c-4-8", workers=(1, 2))
threads = Endpoint(name="batched-threads", cpu="cpu5c-4-8", workers=(1, 1), max_concurrency=4)


def begin(folder: str, number: int) -> None:
    with open(f"{folder}/{number}", "a") as file:
        file.write("began\n")


def times_begun(folder: Path) -> dict[int, int]:
    return {int(path.name): len(path.read_text().splitlines()) for path in folder.iterdir()}


@endpoint
def kill_at_20(folder: str, number: int) -> int:
    begin(folder, number)
    if number == 20:
        os.kill(os.getpid(), 9)
    return number


@endpoint
def wait_at_20(folder: str, number: int) -> int:
    begin(folder, number)
    deadline = time.monotonic() + 60
    while number == 20 and not os.path.exists(f"{folder}/1000") and time.monotonic() < deadline:
        time.sleep(0.01)
    return number


@endpoint
def talk(number: int) -> int:
    print(f"<{number}>")
    if number % 10 == 7:
        raise ValueError(number)
    return number


@endpoint
def hang_at_20(number: int) -> int:
    time.sleep(60 if number == 20 else 0.001)
    return number


@threads
def sleep_in_a_thread(folder: str, number: int) -> int:
    begin(folder, number)
    time.sleep(0.002)
    return number


def test_a_call_that_kills_its_worker_is_reported_and_its_mates_run_once(tmp_path: Path) -> None:
    found = list(kill_at_20.map([str(tmp_path)] * 60, range(60), return_exceptions=True))
    assert isinstance(found.pop(20), WorkerLost)
    assert found == [number for number in range(60) if number != 20]
    begun = times_begun(tmp_path)
    assert begun.pop(20) > 1  # it got more chances, alone
    assert begun == {number: 1 for number in range(60) if number != 20}


def test_a_long_call_does_not_hold_its_mates(tmp_path: Path) -> None:
    results = wait_at_20.map([str(tmp_path)] * 60, range(60), order="completed")
    early = {next(results) for _ in range(59)}
    assert 20 not in early
    (tmp_path / "1000").touch()
    assert list(results) == [20]
    (tmp_path / "1000").unlink()
    assert times_begun(tmp_path) == dict.fromkeys(range(60), 1)


def test_each_call_has_its_own_output_and_its_own_exception(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(talk.map(range(50), return_exceptions=True))
    for number, value in enumerate(found):
        if number % 10 == 7:
            assert isinstance(value, ValueError)
            assert value.args == (number,)
        else:
            assert value == number
    printed = [line for line in capsys.readouterr().out.split() if line.startswith("<")]
    assert sorted(printed) == sorted(f"<{number}>" for number in range(50))


def test_a_call_over_its_limit_does_not_hurt_its_mates() -> None:
    found = list(hang_at_20.with_options(run_timeout=1.0).map(range(40), return_exceptions=True))
    late = found.pop(20)
    assert isinstance(late, JobTimeout)
    assert late.limit == "run_timeout"
    assert found == [number for number in range(40) if number != 20]


def test_batches_run_beside_one_another_in_the_threads_of_a_worker(tmp_path: Path) -> None:
    found = list(sleep_in_a_thread.map([str(tmp_path)] * 200, range(200)))
    assert found == list(range(200))
    assert times_begun(tmp_path) == dict.fromkeys(range(200), 1)
