# SPDX-License-Identifier: Apache-2.0
"""The worker's side: run a batch of tasks one after another. It never submits anything.

Nothing of joblib's own classes is in what travels, so caller and worker may have different versions of it.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import logging
import os
import pickle
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import joblib

from flash_plugins import note_step, suspected_step

from .managers import ManagerKey
from .raising import RaisingWarnings, WarningFilter
from .threads import ThreadLimits, limit_threads
from .words import Task, called

__all__ = ["BatchReport", "Initializer", "Task", "TaskContext", "in_worker", "run_batch"]

_log = logging.getLogger(__name__)

_in_worker = False
_initialized: set[str] = set()  # digests


@dataclass(frozen=True, slots=True)
class Initializer:
    """What a worker process calls before its first task.

    Attributes:
        pickled: Function and arguments, pickled.
        digest: Of `pickled`. A process calls the same one once.
    """

    pickled: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class TaskContext:
    """How tasks run on the worker.

    Attributes:
        nesting_level: Level of the `Parallel` call they belong to; theirs is one more.
        thread_limits: Threads that BLAS, OpenMP and the like may use, None for the worker's default.
        initializer: What to call first in a process, None for nothing.
        manager_key: Key of the caller's `multiprocessing` managers, None where they cannot be reached.
        warning_filters: Which warnings are errors.
    """

    nesting_level: int = 0
    thread_limits: ThreadLimits | None = None
    initializer: Initializer | None = None
    manager_key: ManagerKey | None = None
    warning_filters: tuple[WarningFilter, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a worker sends back for a batch that did not fail.

    Attributes:
        results: One result a task, in order.
        busy_s: Seconds spent inside the tasks.
        result_bytes: Estimated size of all results, pickled.
        process_id: Process that ran them.
    """

    results: list[Any]
    busy_s: float
    result_bytes: int
    process_id: int


def in_worker() -> bool:
    """Return True in a process that runs tasks of this backend."""
    return _in_worker


def run_batch(context: TaskContext, items: Sequence[Task], indexes: Sequence[int]) -> BatchReport:
    """Run the tasks in order and return their results.

    What an `async` function returns is awaited. An exception of a task ends the batch and is raised as it is, with
    a note that says which task it was. `Parallel` inside a task uses the cores of this worker: threads one level
    down, sequential below. A task in which the process died is the first of the next attempt, so that those around it
    do not run again and again.

    Args:
        context: How the tasks run; first, since unpickling tasks may need its key.
        items: The tasks.
        indexes: Their places in the iterable of the `Parallel` call.
    """
    global _in_worker
    _in_worker = True
    from .backend import FlashBackend  # imports this module

    nested, n_jobs = FlashBackend(nesting_level=context.nesting_level).get_nested_backend()
    limit_threads(context.thread_limits)
    if context.initializer is not None:
        _initialize(context.initializer)
    results: list[Any] = [None] * len(items)
    suspect = suspected_step()
    started = time.perf_counter()
    with joblib.parallel_config(backend=nested, n_jobs=n_jobs), RaisingWarnings(context.warning_filters):
        for place in _order(len(items), suspect):
            function, args, kwargs = items[place]
            if place == suspect or len(items) == 1:  # words for all would cost more than a short task
                note_step(place, f"the joblib task at index {indexes[place]}, {called(*items[place])}")
            else:
                note_step(place)
            try:
                result = function(*args, **kwargs)
                results[place] = asyncio.run(result) if inspect.iscoroutine(result) else result
            except BaseException as error:
                _say_which(error, indexes[place], items[place])
                raise
    busy_s = time.perf_counter() - started
    if len(items) > 1:
        note_step(len(items), f"the pickling of what {len(items)} joblib tasks returned")
    return BatchReport(results, busy_s, _pickled_bytes(results[0]) * len(results), os.getpid())


def _order(count: int, suspect: int | None) -> Iterable[int]:
    """Return the places of tasks in the order in which they run: the one that may have killed a process first."""
    if suspect is None or not 0 <= suspect < count:
        return range(count)
    return [suspect, *(place for place in range(count) if place != suspect)]


def _initialize(initializer: Initializer) -> None:
    if initializer.digest in _initialized:
        return
    function, args = pickle.loads(initializer.pickled)
    try:
        function(*args)
    except BaseException as error:
        _add_note(error, f"raised by {called(function, args, {})}, the initializer of each process of a worker")
        raise
    _initialized.add(initializer.digest)


def _say_which(error: BaseException, index: int, task: Task) -> None:
    _add_note(error, f"raised by the joblib task at index {index}, {called(*task)}, process {os.getpid()} of a worker")


def _add_note(error: BaseException, note: str) -> None:
    try:
        error.add_note(note)
    except Exception:  # noqa: BLE001 - the user's class may refuse attributes
        _log.debug("a note that says what raised %r could not be added", type(error), exc_info=True)


class _Counter(io.RawIOBase):
    """Counts what is written and keeps none of it."""

    count = 0

    def writable(self) -> bool:
        return True

    def write(self, chunk: Any) -> int:
        size = memoryview(chunk).nbytes
        self.count += size
        return size


def _pickled_bytes(result: object) -> int:
    """Return the size of `result` pickled, 0 if plain pickle cannot say (the core reports what is wrong)."""
    counter = _Counter()
    try:
        pickle.dump(result, counter, protocol=5)
    except Exception:  # noqa: BLE001 - any class may raise anything here; sizes are only an estimate
        return 0
    return counter.count
