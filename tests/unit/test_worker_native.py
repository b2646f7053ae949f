# SPDX-License-Identifier: Apache-2.0
"""Descriptor 1 of a worker's process, taken: in a process of its own, since it is taken for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT

START = """
import os, subprocess, sys, time
from flash_plugins.worker import capture
capture.install(native=True)
"""


def run(code: str) -> tuple[str, str]:
    """Standard output, the worker's log, and what `code` says on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", START + code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_what_goes_around_python_is_recorded_in_order_and_logged() -> None:
    log, told = run("""
with capture.recording(inline=True) as recorder:
    print("one")
    os.write(1, b"two\\n")
    print("three")
    os.write(1, b"four\\n")
sys.stderr.write(repr(recorder.records))
""")
    assert log == "one\ntwo\nthree\nfour\n"
    assert told == repr([{"stream": "stdout", "text": "one\ntwo\nthree\nfour\n"}])


def test_what_comes_between_calls_belongs_to_none() -> None:
    log, told = run("""
os.write(1, b"before\\n")
with capture.recording(inline=True) as recorder:
    os.write(1, b"inside\\n")
sys.stderr.write(repr(recorder.records))
""")
    assert log == "before\ninside\n"
    assert told == repr([{"stream": "stdout", "text": "inside\n"}])


def test_the_log_is_kept_while_a_call_runs() -> None:
    log, _ = run("""
with capture.recording(inline=True) as recorder:
    os.write(1, b"early\\n")
    deadline = time.monotonic() + 30
    while "early" not in "".join(capture._native._kept) and time.monotonic() < deadline:
        time.sleep(0.05)
    os._exit(0)
""")
    assert log == "early\n"


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork")
def test_a_forked_child_neither_waits_nor_takes_what_is_its_parents() -> None:
    log, told = run("""
with capture.recording(inline=True) as recorder:
    os.write(1, b"parent\\n")
    with capture._native._lock:
        child = os.fork()
    if child == 0:
        print("child")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
sys.stderr.write(repr(recorder.records))
""")
    assert sorted(log.splitlines()) == ["child", "parent"]
    assert told == repr([{"stream": "stdout", "text": "parent\n"}])


def test_much_output_starts_the_file_anew() -> None:
    log, told = run("""
from flash_plugins.worker import native
native._FILE_BYTES = 1000
with capture.recording(inline=True) as recorder:
    for _ in range(3):
        os.write(1, b"x" * 1500)
        print()
    size = os.fstat(1).st_size
sys.stderr.write(f"{size} {len(recorder.records[0]['text'])}")
""")
    assert len(log) == 4503
    assert told == "0 4503"


def test_a_shell_that_cuts_standard_output_is_heard() -> None:
    log, told = run("""
with capture.recording(inline=True) as recorder:
    os.write(1, b"a long line before\\n")
    print("python")
    subprocess.run(["sh", "-c", "echo short > /dev/stdout"], check=True)
sys.stderr.write(repr(recorder.records))
""")
    assert log == "a long line before\npython\nshort\n"
    assert told == repr([{"stream": "stdout", "text": log}])
