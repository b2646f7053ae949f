# SPDX-License-Identifier: Apache-2.0
"""How a process ended, in words."""

from __future__ import annotations

import signal
import subprocess
import sys

from flash_plugins.worker.exits import CrashReport, Exit, Kills

_CRASH = """
import ctypes, faulthandler, sys, threading, time
faulthandler.enable(int(sys.argv[1]))
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
def innermost(): ctypes.string_at(0)
innermost()
"""


def run(*arguments: str, fds: tuple[int, ...] = ()) -> Exit:
    with subprocess.Popen([sys.executable, "-c", *arguments], pass_fds=fds) as process:
        return Exit.wait(process)


def test_an_exit_has_its_code_and_the_peak_of_memory() -> None:
    end = run("x = bytearray(300_000_000); raise SystemExit(3)")
    assert end.code == 3
    assert 300_000_000 <= (end.peak_bytes or 0) < 1_000_000_000
    assert Exit(3, 300_000_000).describe().startswith("ended with exit code 3; it had 0.3 GB of ")
    assert Exit(4, 50_000_000).describe() == "ended with exit code 4"


def test_a_signal_has_its_name_and_what_it_means() -> None:
    assert run("import os; os.kill(os.getpid(), 9)").code == -signal.SIGKILL
    killed = Exit(-signal.SIGKILL, 10_000_000)
    assert killed.describe().startswith("ended with signal SIGKILL (killed from outside; it had 0.0 GB of ")
    assert killed.describe(was_out_of_memory=True).startswith(
        "ended with signal SIGKILL (the system killed it, out of memory; it had 0.0 GB of "
    )
    assert Exit(-signal.SIGKILL).describe() == (
        "ended with signal SIGKILL (killed from outside, most often for using too much memory)"
    )
    assert "most often for using too much memory; it had 1000000.0 GB" in Exit(-signal.SIGKILL, 10**15).describe()
    assert Exit(-signal.SIGTERM).describe() == "ended with signal SIGTERM"
    assert Exit(-77).describe() == "ended with signal 77"


def test_the_code_is_known_if_somebody_else_asked_first() -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"])
    process.wait()
    assert Exit.wait(process) == Exit(5)


def test_a_crash_says_where_the_thread_was_that_crashed() -> None:
    report = CrashReport()
    assert run(_CRASH, str(report.fd), fds=(report.fd,)).code == -signal.SIGSEGV
    text = report.take()
    assert text.startswith("Fatal Python error: Segmentation fault\nCurrent thread ")
    assert "in innermost" in text
    assert text.count("most recent call first") == 1
    assert report.take() == ""


def test_without_a_kill_for_memory_there_was_none() -> None:
    assert not Kills().were()
