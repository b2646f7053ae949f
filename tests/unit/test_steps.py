# SPDX-License-Identifier: Apache-2.0
"""A call that says which step it is at: when its process dies the step is known, and tried first."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import flash_plugins
from flash_plugins import Endpoint, WorkerLost, note_step, suspected_step
from flash_plugins.steps import Board

endpoint = Endpoint(name="unit-steps", cpu="cpu5c-2-4", workers=(0, 1))


@endpoint
def walk(folder: str, deadly: int, *, times: int, how: str = "kill") -> list[int]:
    """Take three steps, each of which leaves a file for each time; one of them kills the process so many times."""
    first = suspected_step()
    steps = range(3) if first is None else [first, *(step for step in range(3) if step != first)]
    for step in steps:
        note_step(step, f"step {step} of the walk")
        taken = sum(name.startswith(f"{step}-") for name in os.listdir(folder))
        Path(folder, f"{step}-{taken}").touch()
        if step == deadly and taken < times:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            ctypes.string_at(0)
    return list(steps)


@endpoint
def plain(x: int) -> int:
    return x


@pytest.fixture(autouse=True, scope="module")
def _close() -> Iterator[None]:
    yield
    flash_plugins.close()


def taken(folder: Path) -> list[int]:
    return [sum(path.name.startswith(f"{step}-") for path in folder.iterdir()) for step in range(3)]


def test_a_step_that_killed_its_process_is_tried_first(tmp_path: Path) -> None:
    assert walk(str(tmp_path), 1, times=1).result(60) == [1, 0, 2]
    assert taken(tmp_path) == [2, 2, 1]


def test_a_step_that_always_kills_is_the_error_and_what_was_before_it_ran_once(tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match=r"SIGKILL.*in step 1 of the walk") as caught:
        walk(str(tmp_path), 1, times=9).result(60)
    assert caught.value.step == 1
    assert caught.value.reason.startswith("attempt 3 of 3: the process that runs calls ended with signal SIGKILL")
    assert taken(tmp_path) == [1, 3, 0]
    assert plain(4).result(60) == 4


def test_retries_are_attempts_of_their_own(tmp_path: Path) -> None:
    assert walk.with_options(retries=1, backoff=0)(str(tmp_path), 1, times=4).result(60) == [1, 0, 2]
    assert taken(tmp_path) == [2, 5, 1]


def test_a_crash_says_where(tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match=r"(?s)SIGSEGV, in step 0.*Segmentation fault.*test_steps\.py.* in walk"):
        walk(str(tmp_path), 0, times=3, how="crash").result(60)


def test_outside_of_workers_there_are_no_steps() -> None:
    note_step(3, "nowhere")
    assert suspected_step() is None


def test_a_board_has_the_last_step_until_the_next_call() -> None:
    ours = Board()
    theirs = Board(ours.fd)
    assert ours.read() is None
    theirs.write(7)
    assert ours.read() == (7, "")
    theirs.write(8, "ä" * 500)
    step, words = ours.read() or (0, "")
    assert (step, len(words)) == (8, 200)
    theirs.write(9)
    assert ours.read() == (9, "")
    theirs.clear()
    assert ours.read() is None
