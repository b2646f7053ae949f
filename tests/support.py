# SPDX-License-Identifier: Apache-2.0
"""What tests share: optional packages, and a look at what a test run leaves behind."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest

__all__ = ["ROOT", "RUN_MARK", "end_with_report", "leftover_files", "leftover_processes", "require"]

#: The checkout.
ROOT = Path(__file__).resolve().parent.parent

#: Environment variable that every process of one test run inherits.
RUN_MARK = "FLASH_PLUGINS_TEST_RUN"

#: Helpers of other packages that live as long as they like: not ours to judge.
FOREIGN = ("joblib.externals.loky", "multiprocessing.resource_tracker", "multiprocessing.forkserver")


def require(module: str, minversion: str | None = None) -> ModuleType:
    """Import an optional package; without it, skip the test here and fail it in continuous integration."""
    if not os.environ.get("CI"):
        skipped: ModuleType = pytest.importorskip(module, minversion=minversion)
        return skipped
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        pytest.fail(f"{module} is not installed, and CI is set: {error}")
    if minversion is not None:
        pytest.importorskip(module, minversion=minversion)
    return found


def leftover_processes(mark: str, *, patience_s: float = 3.0) -> list[psutil.Process]:
    """Processes of the test run `mark` that still live after `patience_s`, without this one."""
    deadline = time.monotonic() + patience_s
    while True:
        alive = [process for process in psutil.process_iter() if _is_ours(process, mark)]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.05)


def leftover_files(folder: Path) -> list[Path]:
    """What tests left in the folder for temporary files, if its name says that it is ours.

    Empty folders do not count: the one that holds the run folders of a user's platforms stays.
    """
    ours = [path for path in folder.iterdir() if "flash" in path.name.lower()]
    return sorted(path for path in ours if path.is_file() or any(path.rglob("*")))


def describe(process: psutil.Process) -> str:
    """One line about a process that should not be there."""
    try:
        return f"process {process.pid} (parent {process.ppid()}): {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"process {process.pid}"


def _is_ours(process: psutil.Process, mark: str) -> bool:
    if process.pid == os.getpid():
        return False
    try:
        if process.status() == psutil.STATUS_ZOMBIE or process.environ().get(RUN_MARK) != mark:
            return False
        command = " ".join(process.cmdline())
    except (psutil.Error, OSError):  # it ended meanwhile, or belongs to somebody else
        return False
    # Ancestors carry the mark when a test run starts another one.
    is_ancestor = process.pid in {parent.pid for parent in psutil.Process().parents()}
    return bool(command) and not is_ancestor and not any(name in command for name in FOREIGN)


def end_with_report(mark: str, folder: Path) -> bool:
    """Last act of a test run: name and remove what it left behind; True if that is nothing."""
    processes = leftover_processes(mark)
    lines = [describe(process) for process in processes]
    for process in processes:
        try:
            process.kill()
        except psutil.Error:  # ended by itself meanwhile
            continue
    lines += [f"temporary file {path}" for path in leftover_files(folder)]
    if lines:
        print("FAILED: left behind by this test run:", *lines, sep="\n  ", file=sys.stderr, flush=True)
    return not lines
