# SPDX-License-Identifier: Apache-2.0
"""Worker processes, as the platform sees them: started and signalled through the guardian, and their logs.

It decides nothing: when a worker starts or ends is the fleet's business.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from .. import api

__all__ = [
    "AbsentProcesses",
    "ExitListener",
    "GuardedProcesses",
    "Processes",
    "describe_exit",
    "worker_argv",
    "worker_environment",
]

_LOG = logging.getLogger(__name__)
_GUARDIAN = Path(__file__).with_name("guardian.py")
_MOUNT = Path(__file__).with_name("mount.py")
#: Logs of so many workers that have ended are kept.
_OLD_LOGS_MAX = 50
#: How much of the end of a log is read to find its last lines, bytes.
_TAIL_BYTES = 64_000

#: Called with the exit code (negative: a signal) and None, or None and why the process could not be started.
ExitListener = Callable[[int | None, str | None], None]


class Processes(Protocol):
    """Starts and ends worker processes."""

    def start(self, worker_id: str, argv: list[str], environment: Mapping[str, str], on_exit: ExitListener) -> None:
        """Start a process; `on_exit` is called once, also when it cannot be started."""

    def signal(self, worker_id: str, number: int) -> None:
        """Send a signal to the worker and everything in its process group."""

    def log_tail(self, worker_id: str, lines: int) -> list[str]:
        """Return the last lines the worker wrote to stdout and stderr."""


class GuardedProcesses:
    """Worker processes under the guardian. Belongs to one event loop."""

    def __init__(self, run_dir: Path, objects: str) -> None:
        self._run_dir = run_dir
        self._objects = objects
        self._guardian: asyncio.subprocess.Process | None = None
        self._listeners: dict[str, ExitListener] = {}
        self._pids: dict[str, int] = {}
        self._events: asyncio.Task[None] | None = None
        self._ended: deque[str] = deque()
        self._all_ended = asyncio.Event()
        self._is_closing = False
        #: Set when the guardian ended although nobody asked it to.
        self.lost = asyncio.Event()

    async def open(self) -> None:
        """Start the guardian."""
        for name in ("logs", "scratch"):
            (self._run_dir / name).mkdir(mode=0o700)
        self._guardian = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_GUARDIAN), str(self._run_dir), self._objects),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._events = asyncio.create_task(self._read_events())

    async def close(self, *, grace_s: float) -> None:
        """Ask all workers to end, wait up to `grace_s`, then have the guardian kill what is left and end."""
        if self._guardian is None or self._guardian.stdin is None or self._events is None:
            return
        self._is_closing = True
        for worker_id in self._listeners:
            self.signal(worker_id, signal.SIGTERM)
        if self._listeners:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), grace_s)
        self._guardian.stdin.close()
        await self._guardian.wait()
        await self._events

    def start(self, worker_id: str, argv: list[str], environment: Mapping[str, str], on_exit: ExitListener) -> None:
        # A name of its own for each start: of a worker that is woken up, the guardian may still remove the last one.
        scratch = tempfile.mkdtemp(prefix=f"{worker_id}-", dir=self._run_dir / "scratch")
        if (volume := environment.get(api.VOLUME_PATH_ENV)) is not None:
            argv = [sys.executable, "-I", "-S", str(_MOUNT), api.VOLUME_MOUNT_PATH, volume, *argv]
        self._listeners[worker_id] = on_exit
        self._all_ended.clear()
        self._command(
            {
                "op": "start",
                "id": worker_id,
                "argv": argv,
                "env": dict(environment),
                "cwd": scratch,
                "log": str(self.log_path(worker_id)),
            }
        )

    def signal(self, worker_id: str, number: int) -> None:
        self._command({"op": "signal", "id": worker_id, "signal": int(number)})

    @property
    def worker_ids(self) -> set[str]:
        """The workers whose processes run."""
        return set(self._listeners)

    def pid(self, worker_id: str) -> int | None:
        """Return the worker's process id, None before it has started and after it has ended."""
        return self._pids.get(worker_id)

    def log_path(self, worker_id: str) -> Path:
        """Return where the worker's stdout and stderr go."""
        return self._run_dir / "logs" / f"{worker_id}.log"

    def log_tail(self, worker_id: str, lines: int) -> list[str]:
        try:
            with open(self.log_path(worker_id), "rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return []
        return text.splitlines()[-lines:] if lines else []

    def _command(self, command: dict[str, object]) -> None:
        pipe = self._guardian.stdin if self._guardian is not None else None
        if pipe is not None and not pipe.is_closing():
            pipe.write(json.dumps(command).encode() + b"\n")

    async def _read_events(self) -> None:
        assert self._guardian is not None
        assert self._guardian.stdout is not None
        async for line in self._guardian.stdout:
            event = json.loads(line)
            if "pid" in event:
                self._pids[event["id"]] = event["pid"]
                continue
            self._pids.pop(event["id"], None)
            listener = self._listeners.pop(event["id"], None)
            if listener is not None:
                listener(event.get("exit"), event.get("failed"))
            self._ended.append(event["id"])
            if len(self._ended) > _OLD_LOGS_MAX and (oldest := self._ended.popleft()) not in self._listeners:
                self.log_path(oldest).unlink(missing_ok=True)
            if not self._listeners:
                self._all_ended.set()
        # Without the guardian nobody would reap or kill them.
        for pid in self._pids.values():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        if not self._is_closing:
            _LOG.error("the guardian of the worker processes ended unexpectedly; the platform ends too")
            self.lost.set()


class AbsentProcesses(GuardedProcesses):
    """Worker processes that are never started, so that tests may ask for any number of them."""

    def start(self, worker_id: str, argv: list[str], environment: Mapping[str, str], on_exit: ExitListener) -> None:
        self._listeners[worker_id] = on_exit
        self._all_ended.clear()

    def signal(self, worker_id: str, number: int) -> None:
        if worker_id in self._listeners:
            asyncio.get_running_loop().call_soon(self._end, worker_id, number)

    def _end(self, worker_id: str, number: int) -> None:
        listener = self._listeners.pop(worker_id, None)
        if listener is not None:
            listener(-number, None)
        if not self._listeners:
            self._all_ended.set()


def worker_argv(args: str) -> list[str]:
    """Return the command line that an endpoint's `args` stand for on this machine.

    Raises:
        ValueError: They are empty or not a command line a shell would accept.
    """
    words = shlex.split(args)
    if not words:
        raise ValueError("it is empty")
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    return words


def worker_environment(endpoint_env: Mapping[str, str], protocol: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker: this process's, then the endpoint's, then the worker protocol's.

    Nothing of the user's own Runpod settings gets in, the account's key least of all.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNPOD_")}
    environment["PATH"] = os.pathsep.join(
        [os.path.dirname(sys.executable), environment.get("PATH", os.defpath)],
    )
    # The SDK's pings honour proxy settings; the platform is never behind one.
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join(filter(None, [environment.get(name), "127.0.0.1,localhost"]))
    environment["PYTHONUNBUFFERED"] = "1"
    environment[api.EXECUTABLE_ENV] = sys.executable
    environment["RUNPOD_LOG_LEVEL"] = "ERROR"
    environment[api.PING_INTERVAL_ENV] = str(api.PING_INTERVAL_DEFAULT_MS)
    environment.update(endpoint_env)
    environment.update(protocol)
    return environment


def describe_exit(code: int) -> str:
    """Return what an exit code says, as the rest of a sentence about the process."""
    if code >= 0:
        hint = "; 137 is how a shell reports SIGKILL, often out of memory" if code == 137 else ""
        return f"ended with exit code {code}{hint}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    hint = ", often out of memory" if -code == signal.SIGKILL else ""
    return f"was ended by signal {-code} ({name}{hint})"
