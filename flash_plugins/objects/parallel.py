# SPDX-License-Identifier: Apache-2.0
"""Several pieces of blocking work at once, in threads that live as long as the work does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["side_by_side"]

T = TypeVar("T")


def side_by_side(pieces: Sequence[Callable[[], T]], *, at_once: int) -> list[T]:
    """Return what the pieces return, in their order. The calling thread does its share.

    No pool: those take nothing any more once the main thread has ended, when a program's last results are fetched.
    Where no thread can be started either, the calling thread does everything.

    Args:
        pieces: Called once each, from any of the threads; the earlier the sooner.
        at_once: Most that run at the same time.

    Raises:
        Exception: What the first piece that failed raised; those that were not begun then are not.
    """
    results: dict[int, T] = {}
    failures: list[BaseException] = []
    waiting = iter(enumerate(pieces))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                taken = None if failures else next(waiting, None)
            if taken is None:
                return
            number, piece = taken
            try:
                results[number] = piece()
            except BaseException as error:  # noqa: BLE001  raised below, in the thread that asked
                failures.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(pieces)) - 1)]
    started = []
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends, or there are too many threads
            break
        started.append(thread)
    work()
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]
    return [results[number] for number in range(len(pieces))]
