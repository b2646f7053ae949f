# SPDX-License-Identifier: Apache-2.0
"""A store that tells its user when uploads take long. It changes nothing about them.

put, put, put (threads of uploads) ──► what is under way ◄── one watching thread, while there is something
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from .store import ObjectEntry, ObjectStore, Ref

__all__ = ["AnnouncedStore"]

#: Seconds of uploading before the first line, and between two lines.
FIRST_LINE_S: Final = 5.0
NEXT_LINE_S: Final = 30.0


class AnnouncedStore:
    """As the store that it is made of. Thread-safe.

    Args:
        store: Does the work.
        tell: Takes a line for the user, from a thread of its own.
    """

    def __init__(
        self,
        store: ObjectStore,
        tell: Callable[[str], object],
        *,
        first_s: float = FIRST_LINE_S,
        next_s: float = NEXT_LINE_S,
    ) -> None:
        self._store = store
        self._tell = tell
        self._first_s = first_s
        self._next_s = next_s
        self._condition = threading.Condition()
        self._under_way = 0  # objects
        self._begun_bytes = 0  # since there was nothing under way
        self._done_bytes = 0
        self._watcher: threading.Thread | None = None

    def __repr__(self) -> str:
        return repr(self._store)

    @property
    def url(self) -> str:
        """Where it is."""
        return self._store.url

    def has(self, ref: Ref) -> bool:
        """As `ObjectStore.has`."""
        return self._store.has(ref)

    def put(self, ref: Ref, content: memoryview) -> None:
        """As `ObjectStore.put`."""
        with self._condition:
            self._under_way += 1
            self._begun_bytes += ref.size
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="flash-upload-watch", daemon=True)
                try:
                    self._watcher.start()
                except RuntimeError:  # the interpreter ends: nobody reads lines any more
                    self._watcher = None
        try:
            self._store.put(ref, content)
        finally:
            with self._condition:
                self._under_way -= 1
                self._done_bytes += ref.size
                if not self._under_way:
                    self._condition.notify_all()

    def get(self, ref: Ref) -> memoryview:
        """As `ObjectStore.get`."""
        return self._store.get(ref)

    def hold(self, ref: Ref) -> None:
        """As `ObjectStore.hold`."""
        self._store.hold(ref)

    def release(self, ref: Ref) -> None:
        """As `ObjectStore.release`."""
        self._store.release(ref)

    def delete(self, ref: Ref) -> None:
        """As `ObjectStore.delete`."""
        self._store.delete(ref)

    def entries(self) -> Iterator[ObjectEntry]:
        """As `ObjectStore.entries`."""
        return self._store.entries()

    def _watch(self) -> None:
        began, pause_s = time.monotonic(), self._first_s
        while True:
            with self._condition:
                if self._condition.wait_for(lambda: not self._under_way, pause_s):
                    self._watcher, self._begun_bytes, self._done_bytes = None, 0, 0
                    return
                left, total = self._begun_bytes - self._done_bytes, self._begun_bytes
                objects = "1 object" if self._under_way == 1 else f"{self._under_way} objects"
            self._tell(
                f"uploading to {self._store.url}: {left / 1e6:,.0f} of {total / 1e6:,.0f} MB left after "
                f"{time.monotonic() - began:.0f} s, {objects} under way"
            )
            pause_s = self._next_s
