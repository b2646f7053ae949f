# SPDX-License-Identifier: Apache-2.0
"""Which worker processes did the work of a `Parallel` call. It never asks a platform: batches bring it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, replace

__all__ = ["RunStats", "WorkerStats", "last_run", "remember"]


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What one worker process did.

    Attributes:
        worker_id: The platform's id of the worker, None if it gave none.
        process_id: Process that ran the tasks, in the worker's own numbering.
        tasks: Tasks it finished.
        batches: Batches these came in.
        busy_s: Seconds it spent inside the tasks.
    """

    worker_id: str | None
    process_id: int
    tasks: int = 0
    batches: int = 0
    busy_s: float = 0.0


class RunStats:
    """Tasks, batches and seconds of a run, in total and by worker process. Thread-safe.

    Tasks of a batch that failed or was cancelled are not in it: only finished batches report.

    Args:
        total: Statistics in which everything is counted as well.
    """

    def __init__(self, *, total: RunStats | None = None) -> None:
        self._total = total
        self._lock = threading.Lock()
        self._workers: dict[tuple[str | None, int], WorkerStats] = {}
        self._started = time.monotonic()
        self._ended = self._started

    @property
    def workers(self) -> list[WorkerStats]:
        """The worker processes, busiest first."""
        with self._lock:
            return sorted(self._workers.values(), key=lambda worker: -worker.busy_s)

    @property
    def tasks(self) -> int:
        """Tasks finished."""
        return sum(worker.tasks for worker in self.workers)

    @property
    def batches(self) -> int:
        """Batches finished."""
        return sum(worker.batches for worker in self.workers)

    @property
    def busy_s(self) -> float:
        """Seconds spent inside tasks, over all workers."""
        return sum(worker.busy_s for worker in self.workers)

    @property
    def wall_s(self) -> float:
        """Seconds from the start of the run to the last batch that arrived."""
        with self._lock:
            return self._ended - self._started

    def add(self, worker_id: str | None, process_id: int, *, tasks: int, busy_s: float) -> None:
        """Count one finished batch."""
        with self._lock:
            self._ended = time.monotonic()
            key = (worker_id, process_id)
            old = self._workers.get(key, WorkerStats(worker_id, process_id))
            self._workers[key] = replace(
                old, tasks=old.tasks + tasks, batches=old.batches + 1, busy_s=old.busy_s + busy_s
            )
        if self._total is not None:
            self._total.add(worker_id, process_id, tasks=tasks, busy_s=busy_s)

    def __str__(self) -> str:
        lines = [
            f"worker {worker.worker_id or '?'} (process {worker.process_id}): "
            f"{worker.tasks} tasks in {worker.batches} batches, busy {worker.busy_s:.1f} s"
            for worker in self.workers
        ]
        return "\n".join(lines) or "no batch has finished"


_last = RunStats()


def remember(run: RunStats) -> None:
    """Make `run` the one that `last_run` returns."""
    global _last
    _last = run


def last_run() -> RunStats:
    """Return the statistics of the newest `Parallel` object on the `flash` backend in this process.

    Empty before the first. A scikit-learn `fit` is usually one such object and one call of it.
    """
    return _last


def _forget_in_child() -> None:
    global _last
    _last = RunStats()


os.register_at_fork(after_in_child=_forget_in_child)
