# SPDX-License-Identifier: Apache-2.0
"""Threads that upload: how many, in which order, and that they hold up nobody's end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from flash_plugins.objects.uploading import UploadThreads


def test_work_is_done_in_order_by_no_more_threads_than_allowed() -> None:
    threads, gate, begun = UploadThreads(2), threading.Event(), list[int]()

    def work(number: int) -> None:
        begun.append(number)
        assert gate.wait(60)

    futures = [threads.submit(lambda number=number: work(number)) for number in range(6)]  # type: ignore[misc]
    while len(begun) < 2:
        time.sleep(0.01)
    assert sorted(begun) == [0, 1]
    gate.set()
    for future in futures:
        future.result(60)
    assert sorted(begun) == list(range(6))
    assert threads.submit(lambda: None).result(60) is None  # as new


def test_what_fails_is_the_outcome() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        UploadThreads(1).submit(fail).result(60)


def test_what_was_not_begun_is_given_up_at_the_end() -> None:
    threads, gate = UploadThreads(1), threading.Event()
    running, waiting = threads.submit(lambda: assert_set(gate)), threads.submit(pytest.fail)
    while not running.running():
        time.sleep(0.01)
    threads.close()
    assert waiting.cancelled()
    gate.set()
    running.result(60)


def assert_set(gate: threading.Event) -> None:
    assert gate.wait(60)


def test_a_program_ends_while_something_goes_up_and_uploads_after_its_main_thread() -> None:
    program = """
import atexit, threading, time
from flash_plugins.objects.uploading import UploadThreads

threads = UploadThreads(2)
threads.submit(lambda: time.sleep(600))
atexit.register(lambda: print(threads.submit(lambda: print("at the end", flush=True)).result(30), flush=True))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "at the end\nNone\n"
