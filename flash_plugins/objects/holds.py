# SPDX-License-Identifier: Apache-2.0
"""Folders of one process each, beside a store: files of the store that are linked there are not evicted.

A folder is locked as long as its process lives, so that what a killed one left is told from what is in use. A link
also keeps the content when the store itself is removed.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["HELD_PREFIX", "OwnFolder", "remove_abandoned"]

#: How the name of such a folder begins; the braces stand for the user's number.
HELD_PREFIX = "flash-plugins-held-{}-"
_LOCK = ".lock"


class OwnFolder:
    """A folder (0700) of this process, made in `base` when it is first asked for; of a forked child another one."""

    def __init__(self, base: Path, prefix: str = HELD_PREFIX) -> None:
        self._base = base
        self._prefix = prefix.format(os.getuid())
        self._path: str | None = None
        self._owner = 0
        self._lock: int | None = None

    @property
    def path(self) -> str:
        """Where it is."""
        if self._path is None or self._owner != os.getpid():
            self._base.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = tempfile.mkdtemp(prefix=self._prefix, dir=self._base)
            draft = os.path.join(path, f"{_LOCK}-draft")  # locked before it has its name: nobody else gets it first
            self._lock = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            os.rename(draft, os.path.join(path, _LOCK))
            atexit.register(self.remove)
            self._path, self._owner = path, os.getpid()
        return self._path

    @property
    def is_ours(self) -> bool:
        """Whether there is one of this very process."""
        return self._path is not None and self._owner == os.getpid()

    def remove(self) -> None:
        """Remove it; it may be made again."""
        if not self.is_ours:
            return
        atexit.unregister(self.remove)
        path, lock, self._path, self._lock = self._path, self._lock, None, None
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_abandoned(base: Path, prefix: str = HELD_PREFIX) -> None:
    """Remove the folders in `base` whose processes are gone."""
    for folder in base.glob(f"{prefix.format(os.getuid())}*"):
        with contextlib.suppress(OSError), open(folder / _LOCK, "rb") as lock:  # in use, being made, or gone already
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
