# SPDX-License-Identifier: Apache-2.0
"""What a process takes up, seen from outside while it works: its memory, and what it writes. It measures no time."""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from typing import Final

import psutil

__all__ = ["MemoryWatch", "StoredFiles"]

_SAMPLE_S: Final = 0.05
_LOOK_S: Final = 0.2
#: Where programs of one machine put what they share.
_SHARED_MEMORY: Final = Path("/dev/shm")


class MemoryWatch:
    """The resident memory of a process while the block runs: sampled in a thread; on Linux the kernel's own peak too.

    Resident are the pages of the process that are in memory: its own, and those of mapped files and of memory that
    it shares with others, as `VmRSS` counts them. The processes that it started do not count.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._kernel = Path(f"/proc/{pid}")
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)
        self.least = self.most = self.now()

    def now(self) -> int:
        """Return the resident memory at this moment, bytes."""
        return int(self._process.memory_info().rss)

    def __enter__(self) -> MemoryWatch:
        if (peaks := self._kernel / "clear_refs").exists():
            peaks.write_text("5")  # begin anew
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if (status := self._kernel / "status").exists():
            peaks = [text.split()[1] for text in status.read_text().splitlines() if text.startswith("VmHWM")]
            self.most = max(self.most, *(int(peak) * 1024 for peak in peaks))

    def _watch(self) -> None:
        while not self._end.wait(_SAMPLE_S):
            try:
                resident = self.now()
            except psutil.NoSuchProcess:
                return
            self.least, self.most = min(self.least, resident), max(self.most, resident)


class StoredFiles:
    """What is written to a folder and to shared memory while the block runs, whether or not it stays.

    A file counts once with its greatest size, whatever it is called and however many links it has. What lives shorter
    than the interval of looking, 0.2 s, can be missed.

    Args:
        prefix: How names begin that its writer has in shared memory; those that were there before do not count.

    Attributes:
        folder: Looked into as well, once it is set.
    """

    def __init__(self, prefix: str) -> None:
        self.folder: Path | None = None
        self._prefix = prefix
        self._before = {entry.name for entry in _SHARED_MEMORY.iterdir()} if _SHARED_MEMORY.is_dir() else set()
        self._sizes: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stored-files", daemon=True)

    def __enter__(self) -> StoredFiles:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def total(self) -> int:
        """Return the bytes of all that was seen so far."""
        with self._lock:
            self._look()
            return sum(self._sizes.values())

    def _watch(self) -> None:
        while not self._end.wait(_LOOK_S):
            with self._lock:
                self._look()

    def _look(self) -> None:
        places = [place for place in _SHARED_MEMORY.glob(f"{self._prefix}*") if place.name not in self._before]
        for place in places if self.folder is None else [*places, self.folder]:
            for file in (place, *place.rglob("*")):
                try:
                    found = file.lstat()
                except OSError:  # gone meanwhile
                    continue
                if stat.S_ISREG(found.st_mode):
                    key = (found.st_dev, found.st_ino)
                    self._sizes[key] = max(self._sizes.get(key, 0), found.st_blocks * 512)
