# SPDX-License-Identifier: Apache-2.0
"""The process that starts every worker and outlives none of them. It knows nothing of jobs or HTTP.

    platform ──stdin: one JSON command a line──> guardian ──fork, own session──> worker, its children, …
             <──stdout: one JSON event a line───

It runs as a script of its own (`python -I -S guardian.py RUN_DIR OBJECTS_DIR`), with the standard library only. Its
stdin is a pipe that only the platform holds: when the platform ends, however it ends, the pipe closes, and
the guardian kills every process group it started and every orphan it inherited, removes the run directory
and the folder of large objects, and ends. It is a child subreaper where the kernel has that (Linux), so that a
process which left its worker's group still ends up as its child. A container is removed by its id: it is a child
of Docker's engine.

Commands: `{"op": "start", "id", "argv", "env", "cwd", "log"}`, `{"op": "signal", "id", "signal"}`.
Events: `{"id", "pid"}`, `{"id", "exit": code, negative for a signal}`, `{"id", "failed": reason}`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

#: A worker's log file is cut to its newest part when it is over the limit, bytes; looked at this often, seconds.
_LOG_LIMIT_BYTES = 10_000_000
_LOG_KEPT_BYTES = 1_000_000
_LOG_CHECK_S = 5.0
#: prctl(2): the signal for this process when its parent ends.
_PR_SET_PDEATHSIG = 1
#: prctl(2): make orphaned descendants children of this process.
_PR_SET_CHILD_SUBREAPER = 36
#: How long killed processes may take to disappear before the guardian gives up waiting, seconds.
_KILL_WAIT_S = 5.0
#: File in a worker's folder with the id of its container, see `platforms.api.CONTAINER_ID_FILE`.
_CONTAINER_ID_FILE = "container.id"


class Guardian:
    """Starts, signals, reaps and finally kills workers."""

    def __init__(self, run_dir: str, objects: str) -> None:
        self._run_dir = run_dir
        self._objects = objects
        self._workers: dict[int, dict[str, Any]] = {}  # by process: the command that started it
        self._removals: set[int] = set()  # processes that remove containers

    def serve(self, commands: int, wakeups: int) -> None:
        """Obey until the command pipe closes, then leave nothing behind."""
        selector = selectors.DefaultSelector()
        selector.register(commands, selectors.EVENT_READ)
        selector.register(wakeups, selectors.EVENT_READ)
        pending = b""
        next_log_check = time.monotonic() + _LOG_CHECK_S
        while True:
            ready = {key.fd for key, _ in selector.select(max(0.0, next_log_check - time.monotonic()))}
            if wakeups in ready:
                os.read(wakeups, 4096)
            self._reap()
            if commands in ready:
                received = os.read(commands, 1 << 20)
                if not received:
                    break
                *lines, pending = (pending + received).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
            if time.monotonic() >= next_log_check:
                self._limit_logs()
                next_log_check = time.monotonic() + _LOG_CHECK_S
        self._kill_all()
        _remove(self._run_dir)
        _remove(self._objects)
        _remove_unheld(os.path.dirname(self._objects))

    def _obey(self, command: dict[str, Any]) -> None:
        if command["op"] == "start":
            self._start(command)
        else:
            for pid, started in self._workers.items():
                if started["id"] == command["id"]:
                    _signal_group(pid, command["signal"])

    def _start(self, command: dict[str, Any]) -> None:
        worker_id = command["id"]
        try:
            process = _spawn(command)
        except (OSError, ValueError) as error:
            _tell({"id": worker_id, "failed": str(error)})
            shutil.rmtree(command["cwd"], ignore_errors=True)
            return
        process.returncode = 0  # reaped by `_reap`, together with inherited orphans
        self._workers[process.pid] = command
        _tell({"id": worker_id, "pid": process.pid})

    def _reap(self) -> None:
        while True:
            try:
                pid, status = self._wait_for_one()
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._removals.discard(pid)
            command = self._workers.pop(pid, None)
            if command is not None:
                self._remove_container(command)
                _tell({"id": command["id"], "exit": os.waitstatus_to_exitcode(status)})
                shutil.rmtree(command["cwd"], ignore_errors=True)

    def _wait_for_one(self) -> tuple[int, int]:
        """Reap a child that has ended and return it with its status, 0 if there is none just now.

        Whatever a worker left in its group ends with it, the official SDK's ping process among them: before
        its id is free for others, where the system can tell of an end without reaping (not on macOS).
        """
        if not hasattr(os, "waitid"):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in self._workers:
                _signal_group(pid, signal.SIGKILL)
            return pid, status
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return 0, 0
        if found.si_pid in self._workers:
            _signal_group(found.si_pid, signal.SIGKILL)
        return os.waitpid(found.si_pid, 0)

    def _remove_container(self, command: dict[str, Any]) -> None:
        """Have the engine remove the container of a worker that has ended, if it was one."""
        try:
            with open(os.path.join(command["cwd"], _CONTAINER_ID_FILE)) as file:
                container = file.read().strip()
        except OSError:
            return
        if container:
            remover = _run_quietly([command["argv"][0], "rm", "--force", container], command["env"])
            if remover is not None:
                self._removals.add(remover)

    def _kill_all(self) -> None:
        deadline = time.monotonic() + _KILL_WAIT_S
        for pid in self._workers:
            _signal_group(pid, signal.SIGKILL)
        while (self._workers or self._removals) and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.01)
        while time.monotonic() < deadline:
            for pid in _descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.01)

    def _limit_logs(self) -> None:
        for path in [command["log"] for command in self._workers.values()]:
            with contextlib.suppress(OSError):
                if os.stat(path).st_size > _LOG_LIMIT_BYTES:
                    with open(path, "rb+") as log:
                        log.seek(-_LOG_KEPT_BYTES, os.SEEK_END)
                        newest = log.read()
                        log.truncate(0)
                        log.seek(0)
                        log.write(b"[older lines were dropped]\n" + newest)


def _spawn(command: dict[str, Any]) -> subprocess.Popen[bytes]:
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            command["argv"],
            env=command["env"],
            cwd=command["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_guardian if sys.platform == "linux" else None,
        )
    finally:
        os.close(log)


def _run_quietly(argv: list[str], env: dict[str, str]) -> int | None:
    """Start a program of the worker's kind that is reaped with the others; return its process, None if it cannot."""
    try:
        process = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:  # uninstalled meanwhile
        return None
    process.returncode = 0  # reaped by `_reap`
    return process.pid


def _tell(event: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(event).encode() + b"\n")


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _descendants(pid: int) -> list[int]:
    """Return all processes below `pid` (Linux; elsewhere nothing is known beyond the groups)."""
    children: dict[int, list[int]] = {}
    try:
        entries = os.listdir("/proc")
    except OSError:
        return []
    for entry in entries:
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    # After the command name, which may hold anything: state, parent, …
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found = list(children.get(pid, []))
    for descendant in found:
        found.extend(children.get(descendant, []))
    return found


def _become_subreaper() -> None:
    if sys.platform == "linux":
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _end_with_guardian() -> None:
    """In a new worker: should the guardian be killed too, the kernel ends the worker."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _remove(directory: str) -> None:
    for _ in range(3):
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.exists(directory):
            return
        time.sleep(0.05)


def _remove_unheld(base: str) -> None:
    """Remove what callers that were killed kept of the objects, see `objects.holds`: nobody else may come to do it."""
    prefix = f"flash-plugins-held-{os.getuid()}-"
    with contextlib.suppress(OSError):
        for name in os.listdir(base):
            if name.startswith(prefix):
                with contextlib.suppress(OSError), open(os.path.join(base, name, ".lock"), "rb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(os.path.join(base, name), ignore_errors=True)


def main() -> None:
    """Guard the workers of one platform: `guardian.py RUN_DIR OBJECTS_DIR`, commands on stdin."""
    # Handlers that do nothing, not SIG_IGN: workers would inherit that, and the SDK's ping process, which
    # knows SIGTERM's default action only, would never end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda number, frame: None)
    _become_subreaper()
    wakeups, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    os.set_blocking(wakeups, False)
    signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    Guardian(sys.argv[1], sys.argv[2]).serve(0, wakeups)


if __name__ == "__main__":
    main()
