# SPDX-License-Identifier: Apache-2.0
"""Runs a program in a process of its own, with a clean environment, and ends it with all it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from .environments import ROOT

__all__ = [
    "PROGRAMS",
    "ChildFailed",
    "child_environment",
    "command",
    "expect",
    "go_on",
    "run_json",
    "said_line",
    "started",
    "time_to_first_line",
    "wall_s",
]

#: Where the programs are that run in the contestants' environments.
PROGRAMS: Final = Path(__file__).resolve().parent / "programs"

#: Seconds after which a program counts as hung.
TIMEOUT_S: Final = 900.0

#: Settings that would make one machine's run differ from another's.
_DROPPED: Final = ("FLASH_", "RUNPOD_", "RAY_", "DASK_", "JOBLIB_", "LOKY_", "CI", "PYTHON", "VIRTUAL_ENV")


class ChildFailed(Exception):
    """A program ended with an error, or not in time; the message has its last words."""


def child_environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a program: ours without settings, on a local platform that nobody else uses."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)}
    own = {
        "FLASH_PLATFORM": "local",
        "XDG_RUNTIME_DIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        # This checkout is measured, also where the environment has another one installed.
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins" / "joblib")]),
    }
    return {**kept, **own, **(more or {})}


@contextmanager
def started(
    arguments: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> Iterator[subprocess.Popen[str]]:
    """Run a command in an empty folder with pipes for stdin and stdout; leaving the block waits for its end.

    Raises:
        ChildFailed: It ended with another status than 0, or took longer than `timeout_s`.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            arguments, cwd=folder, env=child_environment(Path(folder), env), text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        watchdog = threading.Timer(timeout_s, _kill_group, [process])
        watchdog.start()
        try:
            yield process
            if process.stdin is not None:
                with suppress(BrokenPipeError):
                    process.stdin.close()
            status = process.wait()
        except BaseException:
            _kill_group(process)
            process.wait()
            raise
        finally:
            watchdog.cancel()
            if process.stdout is not None:
                process.stdout.close()
        if status:
            raise ChildFailed(f"{Path(arguments[1]).name} ended with {status}: {_tail(errors)}")


def said_line(program: subprocess.Popen[str]) -> str:
    """Return the next line that a program says, empty at its end."""
    assert program.stdout is not None
    return program.stdout.readline().strip()


def expect(program: subprocess.Popen[str], word: str) -> None:
    """Wait for a program to say `word`.

    Raises:
        ChildFailed: It said something else, or ended.
    """
    if (said := said_line(program)) != word:
        raise ChildFailed(f"the program said {said!r} instead of {word!r}")


def go_on(program: subprocess.Popen[str]) -> None:
    """Tell a program to go on."""
    assert program.stdin is not None
    program.stdin.write("\n")
    program.stdin.flush()


def command(python: Path, program: str, *args: object) -> list[str]:
    """Return the command line of one of our programs."""
    return [str(python), str(PROGRAMS / program), *map(str, args)]


def run_json(python: Path, program: str, *args: object) -> Any:  # Any: JSON
    """Run a program and return what its last line of output says, as JSON.

    Raises:
        ChildFailed: It failed, or printed nothing.
    """
    with started(command(python, program, *args)) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    if not lines:
        raise ChildFailed(f"{program} printed nothing")
    return json.loads(lines[-1])


def time_to_first_line(python: Path, program: str, *args: object) -> tuple[float, float]:
    """Return the seconds from starting a program to its first line of output, and to its end.

    Raises:
        ChildFailed: It failed, or printed nothing.
    """
    began = time.perf_counter()
    with started(command(python, program, *args)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        first_s = time.perf_counter() - began
        process.wait()
        end_s = time.perf_counter() - began
    if not line:
        raise ChildFailed(f"{program} printed nothing")
    return first_s, end_s


def wall_s(arguments: Sequence[str], folder: Path) -> float:
    """Return the seconds that a whole process takes, run in `folder`.

    Raises:
        ChildFailed: It ended with another status than 0.
    """
    env = child_environment(folder)
    began = time.perf_counter()
    done = subprocess.run(
        arguments, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise ChildFailed(f"{arguments[-1]!r} ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    return seconds


def _kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(errors: IO[str]) -> str:
    errors.seek(0)
    return errors.read()[-1500:].strip()
