# SPDX-License-Identifier: Apache-2.0
"""How many tasks go into the next batch, from the time the worker itself took. It never looks at a clock.

joblib's own rule uses the time from dispatch to completion and grows batches below 0.2 s of it. A queue job
needs two round trips, so with 100 ms of latency that rule never starts: tasks that do nothing stay at one
per job. Compute time is what the batch can change, hence the rule here.
"""

from __future__ import annotations

import threading

__all__ = ["BatchSizer"]

#: Compute time aimed at, seconds a batch. Two batches a worker are under way, so this hides round trips up to
#: as long, and it is short enough not to leave one worker alone at the end.
TARGET_S = 0.7

#: Compute time below which a batch is not made smaller towards the end, seconds: round trips cost more.
TAIL_S = 0.1

#: A batch may be this many times the largest one measured: two tasks say little about the next thousand.
MAX_GROWTH = 8

#: Bytes of results a batch may be expected to return, well below what a queue job can carry as JSON.
MAX_RESULT_BYTES = 6_000_000

#: Shortest time a task is taken to need, seconds: the loop around it.
_MIN_TASK_S = 1e-6


class BatchSizer:
    """Batch size of one `Parallel` call, learned from its finished batches. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._task_s: float | None = None
        self._result_bytes = 1.0
        self._largest = 0
        self._limit: int | None = None

    def next_size(self, *, remaining: int | None = None, n_jobs: int = 1) -> int:
        """Return the number of tasks for the next batch, at least 1.

        Args:
            remaining: Tasks not dispatched yet, None if unknown. Towards the end batches shrink, so that no
                worker is left with a long one.
            n_jobs: Workers that share what remains.
        """
        with self._lock:
            if self._task_s is None:
                return 1
            size = min(TARGET_S / self._task_s, MAX_GROWTH * self._largest, MAX_RESULT_BYTES / self._result_bytes)
            if self._limit is not None:
                size = min(size, self._limit)
            enough = TAIL_S / self._task_s
        if remaining is not None:
            size = min(size, max(remaining / (2 * n_jobs), enough))
        return max(1, int(size))

    def record(self, *, tasks: int, busy_s: float, result_bytes: int) -> None:
        """Learn from one finished batch. Slower or larger tasks count at once, faster ones by halves."""
        with self._lock:
            self._task_s = _towards(self._task_s, max(busy_s / tasks, _MIN_TASK_S))
            self._result_bytes = _towards(self._result_bytes, max(result_bytes / tasks, 1.0))
            self._largest = max(self._largest, tasks)

    def limit(self, size: int) -> None:
        """Never suggest more than `size` again: more did not fit into a job."""
        with self._lock:
            self._limit = size if self._limit is None else min(self._limit, size)


def _towards(old: float | None, new: float) -> float:
    return new if old is None or new > old else (old + new) / 2
