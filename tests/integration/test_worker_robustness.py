# SPDX-License-Identifier: Apache-2.0
"""What user code does to a worker, on purpose or not, hurts its own call at most."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flash_plugins import Endpoint, JobCancelled, WorkerLost

#: Generous: the box may be busy.
DEADLINE_S = 60.0

endpoint = Endpoint(name="robust", cpu="cpu5c-4-8")


@endpoint
def hello() -> int:
    print("hello")
    return os.getpid()


@endpoint
def fork_and_kill_the_parent() -> None:
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    time.sleep(0.2)
    os.kill(os.getpid(), 9)


@endpoint
def fork_and_exit() -> str:
    if os.fork() == 0:
        sys.exit(0)
    time.sleep(0.2)
    return "parent"


@endpoint
def say_what_is_no_text() -> int:
    name = os.fsdecode(b"caf\xe9")
    logging.getLogger("odd").warning("%s", name)
    print(name)
    with IgnoreTypeErrors():
        sys.stdout.write(b"bytes")  # type: ignore[arg-type]
    return 1


class IgnoreTypeErrors:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is TypeError


@endpoint
def log_much() -> int:
    for _ in range(50_000):
        logging.getLogger("much").warning("x")
    return 3


@endpoint
def take_stdout_away() -> int:
    sys.stdout = io.StringIO()
    return 1


@endpoint
def never_give_up() -> None:
    while True:
        try:
            time.sleep(60)
        except BaseException:  # noqa: BLE001 - the point of this function
            print("no")


streams = Endpoint(name="robust-streams", cpu="cpu5c-4-8")


@streams
def tick(path: str) -> Iterator[int]:
    for n in range(400):
        with open(path, "a") as file:
            file.write("tick\n")
        time.sleep(0.05)
        yield n


@streams
def flood() -> Iterator[bytes]:
    while True:
        yield b"x" * 1000


@streams
def plain(x: int) -> int:
    return x


def test_a_dead_runner_is_noticed_though_a_forked_child_keeps_its_socket() -> None:
    with pytest.raises(WorkerLost, match="SIGKILL"):
        fork_and_kill_the_parent().result(DEADLINE_S)
    assert hello().result(DEADLINE_S)


def test_a_forked_child_that_exits_does_not_answer_for_its_parent() -> None:
    pid = hello().result(DEADLINE_S)
    assert fork_and_exit().result(DEADLINE_S) == "parent"
    assert hello().result(DEADLINE_S) == pid


def test_output_that_no_encoder_takes_does_not_lose_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert say_what_is_no_text().result(DEADLINE_S) == 1
    assert "caf\\udce9" in capsys.readouterr().out


def test_many_log_records_do_not_lose_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert log_much().result(DEADLINE_S) == 3
    assert "output of this call cut" in capsys.readouterr().err


def test_a_call_that_replaces_stdout_does_not_silence_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert take_stdout_away().result(DEADLINE_S) == 1
    hello().result(DEADLINE_S)
    assert "hello" in capsys.readouterr().out


def test_code_that_ignores_its_cancellation_is_killed_and_replaced() -> None:
    call = never_give_up()
    time.sleep(1.5)
    call.cancel()
    with pytest.raises(JobCancelled):
        call.result()
    assert hello().result(DEADLINE_S)


def test_leaving_a_stream_early_stops_its_generator(tmp_path: Path) -> None:
    path = tmp_path / "ticks"
    values = iter(tick(str(path)))
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    values.close()  # type: ignore[attr-defined]
    assert plain(5).result(DEADLINE_S) == 5  # the one worker is free again
    ticks = path.read_text().count("tick")
    time.sleep(0.5)
    assert path.read_text().count("tick") == ticks < 400


def test_leaving_a_stream_that_runs_ahead_frees_its_worker() -> None:
    values = iter(flood())
    assert {len(next(values)) for _ in range(50)} == {1000}
    values.close()  # type: ignore[attr-defined]
    assert plain(6).result(DEADLINE_S) == 6


@endpoint
def terminate_a_child() -> int | None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(10)
    return child.exitcode


@endpoint
def print_a_lot() -> None:
    print("x" * 300_000)


def test_processes_that_a_call_starts_can_be_terminated() -> None:
    assert terminate_a_child().result(DEADLINE_S) == -15


def test_long_text_is_cut_rather_than_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    print_a_lot().result(DEADLINE_S)
    assert capsys.readouterr().out.count("x") == 262_144
