# SPDX-License-Identifier: Apache-2.0
"""However a script or its platform ends: a clear error or every result once, and nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

#: Generous: the box may be busy.
DEADLINE_S = 30.0

PREAMBLE = """
import os, sys, time, signal
import psutil
import flash_plugins
from flash_plugins import Endpoint

endpoint = Endpoint(name="endings", cpu="cpu5c-4-8", workers=(2, 2))

@endpoint
def nap(seconds, index=0):
    time.sleep(seconds)
    return index, os.getpid()

def processes():
    return [p.pid for p in psutil.Process().children(recursive=True)]

def local_platform():
    return next(p for p in psutil.Process().children() if "flash_plugins.platforms.local" in " ".join(p.cmdline()))

def ready():
    nap(0).result(60)
    print("ready", *processes(), flush=True)
"""


@contextmanager
def script(body: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    path = tmp_path / "script.py"
    path.write_text(PREAMBLE + textwrap.dedent(body))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "FLASH_PLATFORM": "local"}
    with subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def pids_of(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words[:1] == ["ready"], f"{words} {process.stderr.read() if process.stderr else ''}"
    return [int(word) for word in words[1:]]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def nothing_is_left(pids: list[int], tmp_path: Path) -> None:
    assert len(pids) >= 3  # the platform and two workers at least, or this test checks nothing
    until(lambda: not any(_is_running(pid) for pid in pids), "processes of the script still run")
    until(lambda: not list((tmp_path / "tmp").iterdir()), f"files are left: {list((tmp_path / 'tmp').rglob('*'))}")


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_script_that_ends_with_calls_running_leaves_nothing(tmp_path: Path) -> None:
    with script("ready(); calls = [nap(60) for _ in range(20)]; time.sleep(0.5)", tmp_path) as process:
        pids = pids_of(process)
        assert process.wait(DEADLINE_S) == 0
        nothing_is_left(pids, tmp_path)


def test_an_exception_in_the_main_script_ends_everything(tmp_path: Path) -> None:
    body = "ready(); calls = [nap(60) for _ in range(20)]; raise RuntimeError('mine')"
    with script(body, tmp_path) as process:
        pids = pids_of(process)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 1
        assert "RuntimeError: mine" in errors
        nothing_is_left(pids, tmp_path)


def test_ctrl_c_ends_everything_quickly(tmp_path: Path) -> None:
    body = "ready(); calls = [nap(60) for _ in range(200)]; [c.result() for c in calls]"
    with script(body, tmp_path) as process:
        pids = pids_of(process)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert "KeyboardInterrupt" in errors
        nothing_is_left(pids, tmp_path)


def test_ctrl_c_that_the_script_survives_cancels_its_calls(tmp_path: Path) -> None:
    body = """
        ready()
        calls = [nap(60) for _ in range(20)]
        try:
            calls[0].result()
        except KeyboardInterrupt:
            pass
        time.sleep(0.1)
        print(all(c.cancelled() for c in calls))
        print(nap(0, 5).result(60)[0], flush=True)
    """
    with script(body, tmp_path) as process:
        pids = pids_of(process)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=DEADLINE_S)
        assert output.split() == ["True", "5"], errors
        nothing_is_left(pids, tmp_path)


def test_a_killed_script_leaves_nothing(tmp_path: Path) -> None:
    with script("ready(); calls = [nap(60) for _ in range(20)]; time.sleep(600)", tmp_path) as process:
        pids = pids_of(process)
        time.sleep(1.0)
        process.kill()
        nothing_is_left(pids, tmp_path)


def test_a_killed_platform_is_a_clear_error_and_the_next_call_starts_another(tmp_path: Path) -> None:
    body = """
        ready()
        calls = [nap(60) for _ in range(300)]
        time.sleep(1.5)
        sent = [call for call in calls if call.running()]
        children = psutil.Process().children()
        next(p for p in children if "flash_plugins.platforms.local" in " ".join(p.cmdline())).kill()
        kinds = {type(c.exception(60)).__name__ for c in sent}
        print(kinds, flush=True)  # all others surely were not sent: they go to the next one
        for c in calls: c.cancel()
        print(nap(0, 7).result(60)[0], flush=True)
    """
    with script(body, tmp_path) as process:
        pids = pids_of(process)
        output, errors = process.communicate(timeout=DEADLINE_S)
        assert "{'PlatformUnavailable'}" in output, errors
        assert output.split()[-1] == "7", errors
        nothing_is_left(pids, tmp_path)


@pytest.mark.parametrize("end", ["guardian killed", "platform told to end"])
def test_a_platform_that_ends_by_itself_cancels_nobodys_calls(tmp_path: Path, end: str) -> None:
    body = f"""
        ready()
        calls = [nap(60) for _ in range(20)]
        time.sleep(1.5)
        sent = [call for call in calls if call.running()]
        platform = local_platform()
        if {end!r} == "guardian killed":
            next(p for p in platform.children() if "guardian" in " ".join(p.cmdline())).kill()
        else:
            platform.terminate()
        errors = [call.exception(60) for call in sent]
        for call in calls: call.cancel()  # those that were not sent go to the next one
        print({{type(error).__name__ for error in errors}}, flush=True)
        print(errors[0], flush=True)
        print(nap(0, 7).result(60)[0], flush=True)
    """
    with script(body, tmp_path) as process:
        pids = pids_of(process)
        output, errors = process.communicate(timeout=DEADLINE_S)
        assert "{'PlatformUnavailable'}" in output, (output, errors)
        reason = "guardian of its workers was killed" if end == "guardian killed" else "told to by signal SIGTERM"
        assert reason in output
        assert output.split()[-1] == "7", errors
        nothing_is_left(pids, tmp_path)


def test_calls_made_while_a_platform_ends_move_on_to_the_next(tmp_path: Path) -> None:
    body = """
        ready()
        platform = local_platform()
        platform.terminate()
        results = []
        for index in range(40):  # before, amid and after its end
            results.append(nap(0, index))
            time.sleep(0.02)
        print(sorted({type(c.exception(60)).__name__ for c in results}), flush=True)
    """
    with script(body, tmp_path) as process:
        pids = pids_of(process)
        output, errors = process.communicate(timeout=DEADLINE_S)
        # One that had been accepted already may be lost with the platform, which says so.
        assert output.strip() in ("['NoneType']", "['NoneType', 'PlatformUnavailable']"), (output, errors)
        nothing_is_left(pids, tmp_path)


@pytest.mark.parametrize("victim", ["runner", "worker"])
def test_a_worker_killed_amid_200_jobs_loses_and_doubles_nothing(tmp_path: Path, victim: str) -> None:
    body = f"""
        ready()
        results, killed = [], False
        for index, pid in nap.map([0.02] * 200, range(200), order="completed"):
            results.append(index)
            if len(results) == 50:
                process = psutil.Process(pid)
                (process if {victim!r} == "runner" else process.parent()).kill()
        print(sorted(results) == list(range(200)), flush=True)
    """
    with script(body, tmp_path) as process:
        pids = pids_of(process)
        output, errors = process.communicate(timeout=DEADLINE_S)
        assert output.split() == ["True"], errors
        nothing_is_left(pids, tmp_path)


def test_killing_platform_and_guardian_leaves_nothing_that_runs(tmp_path: Path) -> None:
    body = """
        ready()
        calls = [nap(60) for _ in range(4)]
        time.sleep(0.5)
        for process in psutil.Process().children(recursive=True):
            if "platforms" in " ".join(process.cmdline()):
                process.kill()
        time.sleep(600)
    """
    with script(body, tmp_path) as process:
        pids = pids_of(process)
        until(lambda: not any(_is_running(pid) for pid in pids), "workers outlive platform and guardian")
        process.kill()
    # Nobody was left to remove the files; the next platform does.
    assert list((tmp_path / "tmp").iterdir())
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "tmp").rename(again / "tmp")
    environment = {**os.environ, "TMPDIR": str(again / "tmp"), "FLASH_PLATFORM": "local"}
    (again / "script.py").write_text(PREAMBLE + "ready()\n")
    subprocess.run([sys.executable, str(again / "script.py")], env=environment, check=True, capture_output=True)
    assert not list((again / "tmp").iterdir())
