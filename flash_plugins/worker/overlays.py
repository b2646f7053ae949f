# SPDX-License-Identifier: Apache-2.0
"""Folders that are built once per content and shared by the processes of this machine. It never looks inside one.

    process A ── EX lock ── build in .KEY-xxxx ── rename to KEY ── SH lock, kept as long as the process lives
    process B ── EX lock (waits) ─────────────────────────────┴── it is there: SH lock
    eviction ─── EX lock, at once or not at all: nobody builds or uses it ── remove

A folder with its final name is complete. The kernel drops a lock with its last holder, so nothing that was
killed blocks anybody, and what it left half built is removed by the next one that needs or evicts it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["BuildTimeout", "evict", "provide"]

logger = logging.getLogger(__name__)

#: Folders kept, and their size together in bytes; the least recently used one goes first.
MAX_KEPT = 16
MAX_BYTES = 30_000_000_000
#: Seconds between two attempts to get a lock, and between two log lines while somebody else has it.
_RETRY_S = 0.05
_SAY_S = 30.0
#: Written into each folder before it gets its name: what it takes on disk.
_SIZE_FILE = ".flash-plugins-size.json"


class BuildTimeout(Exception):
    """Another process has been building the same folder for too long."""


def provide(root: Path, key: str, build: Callable[[Path, Path], None], *, deadline: float) -> Path:
    """Return the folder of `key`, built now unless it is there. It stays at least as long as this process.

    Args:
        root: Folder of all folders.
        key: Names the content; a file name.
        build: Fills a temporary folder, given that and its final path; whatever it raises comes out.
        deadline: `time.monotonic()` until which to wait for another process.

    Raises:
        BuildTimeout: Another process builds it, and the deadline has passed.
        OSError: The folder cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = root / key
    lock = os.open(_lock_path(root, key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _provide(root, key, build, lock, deadline)
    except BaseException:
        os.close(lock)
        raise
    os.set_inheritable(lock, True)  # what this process becomes, or starts, goes on using the folder
    return folder


def _provide(root: Path, key: str, build: Callable[[Path, Path], None], lock: int, deadline: float) -> None:
    folder = root / key
    while True:
        _acquire(lock, fcntl.LOCK_SH, key, deadline)
        if folder.is_dir():
            os.utime(lock)  # the time of its last use
            return
        fcntl.flock(lock, fcntl.LOCK_UN)  # two that wait for one another's shared lock would wait for ever
        _acquire(lock, fcntl.LOCK_EX, key, deadline)
        if not folder.is_dir():
            _build(root, key, build)
            evict(root, spare=key)


def evict(root: Path, *, spare: str = "", max_kept: int = MAX_KEPT, max_bytes: int = MAX_BYTES) -> None:
    """Remove the least recently used folders over the limits, none that is in use, and what killed builds left."""
    for left in root.glob(".*-*"):
        key = left.name[1:].rpartition("-")[0]
        if key != spare:
            _remove_unused(root, key, left)
    kept = sorted(_entries(root), reverse=True)
    total = 0
    for number, (_, size, folder) in enumerate(kept, 1):
        total += size
        if folder.name != spare and (number > max_kept or total > max_bytes):
            _remove_unused(root, folder.name, folder)


def _build(root: Path, key: str, build: Callable[[Path, Path], None]) -> None:
    for left in root.glob(f".{key}-*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=root))
    try:
        build(temporary, root / key)
        size = sum(entry.stat(follow_symlinks=False).st_size for entry in _files(temporary))
        (temporary / _SIZE_FILE).write_text(json.dumps({"bytes": size}))
        os.rename(temporary, root / key)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _files(folder: Path) -> list[os.DirEntry[str]]:
    found, pending = [], [str(folder)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    found.append(entry)
    return found


def _entries(root: Path) -> list[tuple[float, int, Path]]:
    """Return each folder with the time of its last use and its size."""
    found = []
    for folder in root.iterdir():
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        try:
            used_at = _lock_path(root, folder.name).stat().st_mtime
            size = int(json.loads((folder / _SIZE_FILE).read_text())["bytes"])
        except (OSError, ValueError, KeyError):
            used_at, size = 0.0, 0  # somebody deleted parts of it: it is the first to go
        found.append((used_at, size, folder))
    return found


def _remove_unused(root: Path, key: str, folder: Path) -> None:
    lock = os.open(_lock_path(root, key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        doomed = root / f".{key}-doomed"
        if folder.name == key:
            os.rename(folder, doomed)  # at once, so that a process killed here leaves nothing that looks complete
            folder = doomed
        shutil.rmtree(folder, ignore_errors=True)
        logger.info("removed the cached environment %s", key)
    finally:
        os.close(lock)


def _lock_path(root: Path, key: str) -> Path:
    return root / f"{key}.lock"


def _acquire(lock: int, kind: int, key: str, deadline: float) -> None:
    say_at = time.monotonic() + 1.0
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            now = time.monotonic()
            if now > deadline:
                raise BuildTimeout(f"another process on this machine is still building environment {key}") from None
            if now > say_at:
                logger.info("waiting for another process that builds environment %s", key)
                say_at = now + _SAY_S
            time.sleep(_RETRY_S)
