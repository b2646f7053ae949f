# SPDX-License-Identifier: Apache-2.0
"""Starts, finds and stops local platforms from another process. Standard library only: it serves nothing.

A launched platform is a process of its own and ends with its owner, even after `kill -9`: the owner holds
the write end of the platform's stdin. A detached one ends when it is stopped.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from ...errors import MissingDependencyError, PlatformUnavailable
from .state import detached_dir, forget_state, noted_end, read_state

__all__ = ["RunningPlatform", "find_running", "launch"]

#: Distributions the platform's process needs, by what they import as.
_NEEDED = ("starlette", "uvicorn", "websockets", "runpod")
#: Exit code of the process for a port that is taken.
_EXIT_PORT_TAKEN = 3


@dataclass(eq=False)
class RunningPlatform:
    """A local platform that runs: where it is, and how to end it. Not thread-safe.

    Attributes:
        url: Base URL, without `/v2`.
        key: The API key it wants.
        pid: Its process.
        run_dir: Its files; gone once it has ended.
        is_detached: True if it outlives this process.
        objects: URL of the folder for large objects that it shares with its workers.
    """

    url: str
    key: str = field(repr=False)
    pid: int
    run_dir: Path
    is_detached: bool = True
    objects: str | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _log: IO[bytes] | None = field(default=None, repr=False)

    def is_alive(self) -> bool:
        """Return whether its process still runs."""
        if self._process is not None:
            return self._process.poll() is None
        return _process_exists(self.pid)

    def exit_reason(self) -> str | None:
        """Return how it ended, or why it is ending; None while it serves."""
        if self.is_alive():
            why = noted_end(self.run_dir)
            return None if why is None else f"the local platform process {self.pid} is ending: {why}"
        if self._process is None:
            return f"the local platform process {self.pid} is gone"
        code = self._process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        log = _tail(self._log)
        return f"the local platform process {self.pid} ended with {how}" + (f": {log}" if log else "")

    def ended_well(self) -> bool:
        """Return whether it ended because somebody asked it to; only its own starter can tell."""
        return self._process is not None and self._process.poll() == 0

    def stop(self, timeout_s: float = 5.0) -> None:
        """End it and its workers and wait for that, at most `timeout_s`, then kill it. Idempotent."""
        process = self._process
        if process is None:
            self._signal(signal.SIGTERM)
        else:
            if process.stdin is not None:
                process.stdin.close()  # its owner is done with it: it ends by itself
        if not self._wait(timeout_s):
            self._signal(signal.SIGKILL)
            self._wait(timeout_s)
        # The guardian of its workers cleans up after the process.
        deadline = time.monotonic() + timeout_s
        while self.run_dir.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.let_go()
        forget_state(self.pid)

    def let_go(self) -> None:
        """Close what connects this process with it. Then it ends, if it has not ended."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if self._log is not None:
            self._log.close()

    def _wait(self, timeout_s: float) -> bool:
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
            return self._process.returncode is not None
        deadline = time.monotonic() + timeout_s
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.is_alive()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if self.is_alive():
                os.kill(self.pid, number)


def launch(
    *,
    port: int = 0,
    key: str | None = None,
    detach: bool = False,
    announce: bool = False,
    timeout_s: float = 15.0,
    faults: dict[str, Any] | None = None,  # Any: numbers, see `faults.Faults`
) -> RunningPlatform:
    """Start a local platform and wait until it serves.

    Args:
        port: Port on 127.0.0.1; 0 is any free one.
        key: The API key it shall want; None makes a random one.
        detach: Leave it running when this process ends, to be found by `find_running`.
        announce: Let `find_running` find it although it ends with this process.
        faults: Fields of `faults.Faults`, for tests.

    Raises:
        MissingDependencyError: A package it needs is not installed.
        PlatformUnavailable: It did not start; the message has the reason it gave.
    """
    _require_packages()
    log = _open_log(detach)
    # -P: a file of the user's in the current directory must not stand in for a module of ours.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "flash_plugins.platforms.local", "--options-from-stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
    options = {
        "port": port,
        "key": key,
        "owner_pid": None if detach else os.getpid(),
        "is_detached": detach,
        "is_announced": detach or announce,
        "faults": faults,
    }
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(options).encode() + b"\n")
            process.stdin.flush()
        ready = _read_ready(process, timeout_s)
        if ready is None:
            raise _failure(process, port, log, timeout_s)
    except BaseException:
        _abandon(process)
        log.close()
        raise
    assert process.stdout is not None
    process.stdout.close()
    platform = RunningPlatform(
        ready["url"], ready["key"], ready["pid"], Path(ready["run_dir"]), detach, ready["objects"], process, log
    )
    if detach:
        # The started process has forked the platform and ended.
        process.stdin.close()
        process.wait()
        log.close()
        platform._process = platform._log = None
    return platform


def _require_packages() -> None:
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                f"the local platform needs the package {name!r}, which is not installed: "
                "pip install 'flash-plugins[local]'",
                name=name,
            )


def find_running() -> RunningPlatform | None:
    """Return the platform that this user runs by hand, None if none runs; what one left behind is removed."""
    try:
        note = read_state()
    except OSError:
        return None
    if note is None:
        return None
    url, key, pid = str(note["url"]), str(note["key"]), int(str(note["pid"]))
    if _process_exists(pid) and noted_end(Path(str(note["run_dir"]))) is None and _answers(url, key, pid):
        return RunningPlatform(url, key, pid, Path(str(note["run_dir"])), objects=str(note["objects"]))
    forget_state(pid)
    return None


def _open_log(detach: bool) -> IO[bytes]:
    if detach:
        return open(os.open(detached_dir() / "platform.log", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "rb+")
    return tempfile.TemporaryFile()


def _read_ready(process: subprocess.Popen[bytes], timeout_s: float) -> dict[str, Any] | None:  # Any: JSON
    """Return what the process says when it is ready, None if it ends or time passes first."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    deadline = time.monotonic() + timeout_s
    line = b""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        received = os.read(descriptor, 65536)
        if not received:
            return None
        line += received
    ready: dict[str, Any] = json.loads(line)
    return ready


def _failure(process: subprocess.Popen[bytes], port: int, log: IO[bytes], timeout_s: float) -> PlatformUnavailable:
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.5)
    text = _tail(log)
    if process.returncode == _EXIT_PORT_TAKEN:
        return PlatformUnavailable(f"the local platform did not start: {text}")
    if process.returncode is None:
        return PlatformUnavailable(
            f"the local platform did not start within {timeout_s:g} s; is this machine overloaded? It said: {text!r}"
        )
    return PlatformUnavailable(
        f"the local platform did not start: its process ended with code {process.returncode} and said: {text}"
    )


def _abandon(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    process.wait()


def _tail(log: IO[bytes] | None) -> str:
    if log is None or log.closed:
        return ""
    log.seek(0)
    return log.read()[-4000:].decode("utf-8", "replace").strip()


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _answers(url: str, key: str, pid: int) -> bool:
    """Return whether the platform with this very pid serves at `url`."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "127.0.0.1", place.port, timeout=2.0)
    try:
        connection.request("GET", "/_platform", headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        return answer.status == 200 and json.loads(answer.read()).get("pid") == pid
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
