# SPDX-License-Identifier: Apache-2.0
"""How many tasks go into the next batch, from the time the worker itself took. It never looks at a clock.

joblib's own rule uses the time from dispatch to completion and grows batches below 0.2 s of it. A queue job
needs two round trips, so with 100 ms of latency that rule never starts: tasks that do nothing stay at one
per job. Compute time is what the batch can change, hence the rule here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

__all__ = ["BatchSizer"]

#: Compute time aimed at, seconds a batch. Two batches a worker are under way, so this hides round trips up to
#: as long, and it is short enough not to leave one worker alone at the end.
TARGET_S = 0.7

#: Compute time below which a batch is not made smaller towards the end, seconds: round trips cost more.
TAIL_S = 0.1

#: The same where workers are on this machine, and there is nearly no way to them.
LOCAL_TAIL_S = 0.02

#: A batch may be this many times the largest one measured: two tasks say little about the next thousand.
MAX_GROWTH = 8

#: Bytes of results a batch may be expected to return, well below what a queue job can carry as JSON.
MAX_RESULT_BYTES = 6_000_000

#: Times of this call within so many times those of earlier calls of the function show that its tasks are alike.
_ALIKE = 2.0

#: Most functions whose times are kept.
_FUNCTIONS_MAX = 256

#: Shortest time a task is taken to need, seconds: the loop around it.
_MIN_TASK_S = 1e-6


#: By function: what a task took last, seconds, and the largest batch of this process.
_earlier: OrderedDict[str, tuple[float, int]] = OrderedDict()
_earlier_lock = threading.Lock()


class BatchSizer:
    """Batch size of one `Parallel` call, learned from its finished batches. Thread-safe.

    Where its first tasks take what those of an earlier call of the same function took, batches grow from the size that
    was reached then.

    Args:
        tail_s: Compute time below which a batch is not made smaller towards the end, seconds.
    """

    def __init__(self, *, tail_s: float = TAIL_S) -> None:
        self._lock = threading.Lock()
        self._tail_s = tail_s
        self._function: str | None = None
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
            enough = self._tail_s / self._task_s
        if remaining is not None:
            size = min(size, max(remaining / (2 * n_jobs), enough))
        return max(1, int(size))

    def note_function(self, function: object) -> None:
        """Note what the first task calls: earlier calls of it tell how large batches may be at once."""
        with self._lock:
            if self._function is None:
                inner = getattr(function, "function", function)  # of scikit-learn's wrapper
                name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
                line = getattr(getattr(inner, "__code__", None), "co_firstlineno", "")
                self._function = f"{getattr(inner, '__module__', None)}:{name}:{line}"

    def record(self, *, tasks: int, busy_s: float, result_bytes: int) -> None:
        """Learn from one finished batch. Slower or larger tasks count at once, faster ones by halves."""
        with self._lock:
            is_first = self._task_s is None
            task_s = self._task_s = _towards(self._task_s, max(busy_s / tasks, _MIN_TASK_S))
            self._result_bytes = _towards(self._result_bytes, max(result_bytes / tasks, 1.0))
            self._largest = max(self._largest, tasks)
            if self._function is None:
                return
            with _earlier_lock:
                earlier_s, largest = _earlier.pop(self._function, (0.0, 0))
                if is_first and earlier_s / _ALIKE <= task_s <= earlier_s * _ALIKE:
                    self._largest = max(self._largest, largest)
                _earlier[self._function] = (task_s, self._largest)
                if len(_earlier) > _FUNCTIONS_MAX:
                    _earlier.popitem(last=False)

    def limit(self, size: int) -> None:
        """Never suggest more than `size` again: more did not fit into a job."""
        with self._lock:
            self._limit = size if self._limit is None else min(self._limit, size)


def _towards(old: float | None, new: float) -> float:
    return new if old is None or new > old else (old + new) / 2
