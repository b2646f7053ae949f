# SPDX-License-Identifier: Apache-2.0
"""A few threads that upload, and do not keep a program from ending: after Ctrl-C nobody waits for a gigabyte.

Those of `concurrent.futures` are joined at the end of the interpreter, and take nothing once the main thread has ended.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

__all__ = ["UploadThreads"]


class UploadThreads:
    """Does work in order, some at once. Thread-safe. A thread ends when there is nothing to do.

    Args:
        at_once: Most threads.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[None], Callable[[], None]]] = deque()
        self._threads = 0

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Have it done, in the calling thread if no other can be had any more; returns its outcome to be."""
        future: Future[None] = Future()
        with self._lock:
            self._waiting.append((future, work))
            is_full = self._threads >= self._at_once
            self._threads += not is_full
        if not is_full:
            try:
                threading.Thread(target=self._work, name="flash-upload", daemon=True).start()
            except RuntimeError:  # the interpreter ends
                self._work()
        return future

    def close(self) -> None:
        """Give up what was not begun; what was is not waited for."""
        with self._lock:
            left = [future for future, _ in self._waiting]
            self._waiting.clear()
        for future in left:
            future.cancel()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                future, work = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                work()
            except BaseException as error:  # noqa: BLE001  whoever waits for the upload gets it
                future.set_exception(error)
            else:
                future.set_result(None)
