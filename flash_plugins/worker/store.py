# SPDX-License-Identifier: Apache-2.0
"""The objects of the call that a thread makes: where its arguments come from, and where its results go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from ..objects.codec import Sink
from ..objects.space import ObjectSpace, ResultSink
from ..objects.spaces import worker_space
from ..objects.store import ObjectStore

__all__ = ["Stores", "result_sink", "space_of_thread", "use_space"]

_of_thread = threading.local()


class Stores:
    """The spaces of a worker by the store that calls name, or none, each opened once. Thread-safe.

    Args:
        folder: Where the workers of this machine keep what came with calls, or from afar.
        max_bytes: How much may be in a folder; None for the default.
        open_store: Opens a store that is not of this machine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int | None = None,
        open_store: Callable[[str], ObjectStore],
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._open_store = open_store
        self._lock = threading.Lock()
        self._spaces: dict[str | None, ObjectSpace] = {}

    def of(self, url: str | None) -> ObjectSpace:
        """Return the space of calls that name this store.

        Raises:
            ConfigError: It cannot be opened.
        """
        with self._lock:
            if url not in self._spaces:
                self._spaces[url] = worker_space(url, self._folder, self._open_store, max_bytes=self._max_bytes)
            return self._spaces[url]


def use_space(space: ObjectSpace, threshold_bytes: int) -> None:
    """Make this the space of the call that this thread makes from now on."""
    _of_thread.space, _of_thread.threshold_bytes = space, threshold_bytes


def space_of_thread() -> ObjectSpace | None:
    """Return the space of the call that this thread makes, None if it makes none."""
    space: ObjectSpace | None = getattr(_of_thread, "space", None)
    return space


def result_sink() -> Sink | None:
    """Return what takes the large parts of one result of this call, None where there is no store for them."""
    space = space_of_thread()
    return None if space is None or space.url is None else ResultSink(space, _of_thread.threshold_bytes)
