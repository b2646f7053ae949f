# SPDX-License-Identifier: Apache-2.0
"""One `Parallel` object on this backend: its batches under way, and the thread that hands results to joblib.

        joblib's thread                     dispatcher                    delivery thread, one a Parallel
    submit ── asks caches, pickles, sends ──▶ Call ──▶ worker ──▶ done callback
       │                                              └─ queue.put ──▶ decode ─▶ callback(job)
       └─ cannot be sent: queue.put ────────────────────────────────▶            ├─ stores the result
                                                                                 └─ submit (next batch)

joblib's callback iterates the user's task generator, which may take long or wait for another `Parallel`.
A thread for each `Parallel` keeps that away from the dispatcher and from other calls, and it makes sure that
a callback never runs inside `submit`, under joblib's lock. The thread ends when nothing is under way.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import flash_plugins
from flash_plugins import Call, EndpointConfig, PayloadTooLarge, RemoteError, RemoteFunction, UnpicklableError, Work

from .batch import BatchReport, TaskContext
from .batching import LOCAL_TAIL_S, TAIL_S, BatchSizer
from .memo import CallerCache, Lookup
from .progress import is_exhausted
from .raising import raisable, raising_filters
from .refills import RefillWatch
from .stats import RunStats
from .words import Task, TaskNames, noted, reworded_argument, reworded_loss, reworded_result

__all__ = ["SINGLE", "BatchJob", "ParallelCall", "current_call", "forget_current_call"]

_log = logging.getLogger(__name__)

#: Seconds that an idle delivery thread waits for another batch before it ends.
_IDLE_S = 1.0

_current = threading.local()


class _Single(int):
    """The batch size 1 of which joblib takes one task from its input, not `n_jobs` of them.

    joblib takes `batch_size * n_jobs` tasks at once before it submits the first. Whatever the user's generator does
    between two tasks, such as refilling a buffer, would then be in all of them.
    """

    def __mul__(self, _: object) -> int:
        return 1

    __rmul__ = __mul__


#: Makes joblib take one task and submit it.
SINGLE = _Single(1)


def current_call() -> ParallelCall | None:
    """Return the call that this thread submitted for, or delivers for last; None while it is about to begin one.

    joblib asks for batch sizes without saying for which `Parallel`.
    """
    call: ParallelCall | None = getattr(_current, "call", None)
    return call


def forget_current_call() -> None:
    """Make `current_call` None in this thread: another call begins, and it is not known of which `Parallel`."""
    _current.call = None


class BatchJob:
    """One batch that joblib submitted, and what became of it. What joblib's callback receives."""

    def __init__(self, tasks: int, callback: Callable[[BatchJob], object] | None) -> None:
        self.tasks = tasks
        self.callback = callback
        self.calls: list[Call[BatchReport]] = []  # several if the batch was too large for one
        self.is_cancelled = False
        self.lookup: Lookup | None = None  # in the caches of its functions
        self._waiting = 0
        self._results: list[Any] = []
        self._error: BaseException | None = None

    def retrieve(self) -> list[Any]:
        """Return the results of the tasks in order, or raise what went wrong. Once only: it forgets them."""
        results, error = self._results, self._error
        self._results, self._error = [], None
        if error is not None:
            raise raisable(error)
        return results

    def fail(self, error: BaseException) -> None:
        """Note that the batch could not be sent."""
        self._error = error

    def settle(self, stats: RunStats, sizer: BatchSizer, config: EndpointConfig) -> None:
        """Decode what the calls brought. They are all done.

        Args:
            stats: What counts them.
            sizer: What learns from them.
            config: What the workers are, for messages.
        """
        calls, self.calls = self.calls, []
        lookup, self.lookup = self.lookup, None
        if self._error is None:
            self._decode(calls, stats, sizer, config)
        if lookup is not None:
            self._store(lookup)

    def _decode(
        self, calls: Sequence[Call[BatchReport]], stats: RunStats, sizer: BatchSizer, config: EndpointConfig
    ) -> None:
        for call in calls:
            error = _exception_of(call, config)
            if error is not None:
                self._error = error
                return
            report = call.result()
            tasks = len(report.results)
            stats.add(call.worker_id, report.process_id, tasks=tasks, busy_s=report.busy_s)
            sizer.record(tasks=tasks, busy_s=report.busy_s, result_bytes=report.result_bytes)
            self._results.extend(report.results)

    def _store(self, lookup: Lookup) -> None:
        if self._error is not None:
            lookup.abandon()
            return
        try:
            self._results = lookup.complete(self._results)
        except Warning as warning:  # the caller's filters make it an error
            self._error = warning


class ParallelCall:
    """Sends the batches of one `Parallel` object and delivers their outcome, each exactly once.

    Thread-safe. `submit` may be called under joblib's lock: it neither waits nor calls back.
    """

    def __init__(
        self,
        remote: RemoteFunction[..., Any],
        context: TaskContext,
        *,
        n_jobs: int,
        stats: RunStats,
        batch: int | None = None,
    ) -> None:
        self.n_jobs = n_jobs
        self.stats = stats
        self.batch = batch  # tasks in each, None for as many as the sizer says
        self.remaining: int | None = None  # tasks not submitted yet, None if joblib does not know
        self.sizer = BatchSizer(tail_s=LOCAL_TAIL_S if flash_plugins.platform().name == "local" else TAIL_S)
        self._remote = remote
        self._work = Work("tasks")
        self._context = context
        self._young_tasks = 0  # so many more are taken one by one and looked at
        self._watch: RefillWatch | None = None
        self._is_refilled = False
        self._cache = CallerCache()
        self._lock = threading.Lock()
        self._under_way: set[BatchJob] = set()
        self._finished: queue.SimpleQueue[BatchJob] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def make_current(self) -> None:
        """Make this the call that `current_call` returns in this thread."""
        _current.call = self

    def begin(self, *, asks_for_size: bool, work: Work) -> None:
        """Begin to submit the tasks of a call of the `Parallel` object: what is known of its input counts no more.

        Args:
            asks_for_size: Whether joblib will ask for the sizes of its batches, since its user gave none.
            work: What its tasks are, for progress displays.
        """
        self._work.complete()
        self._work = work
        self._context = replace(self._context, warning_filters=raising_filters())
        self._is_refilled = False
        self._young_tasks = 2 * self.n_jobs if asks_for_size and self.batch is None else 0
        self._watch = RefillWatch() if self._young_tasks else None

    def next_batch_size(self) -> int:
        """Return the number of tasks the next batch should have."""
        if self.batch is not None:
            return SINGLE if self.batch == 1 else self.batch
        if self._young_tasks > 0 or self._is_refilled:
            return SINGLE
        return self.sizer.next_size(remaining=self.remaining, n_jobs=self.n_jobs)

    def submit(
        self, items: Sequence[Task], callback: Callable[[BatchJob], object] | None, *, indexes: Sequence[int]
    ) -> BatchJob:
        """Send a batch. Whatever happens to it arrives through `callback`, from the delivery thread.

        Args:
            items: Its tasks.
            callback: joblib's.
            indexes: Their places in the iterable of the call.

        Raises:
            KeyboardInterrupt: The user pressed Ctrl-C while the arguments were pickled.
        """
        job = BatchJob(len(items), callback)
        with self._lock:
            self._under_way.add(job)
            self._ensure_thread()
        try:
            self._watch_for_refills(items)
            if items:
                self.sizer.note_function(items[0][0])
            items, indexes, job.lookup = self._cache.look_up(items, indexes)
            if items:
                self._send(items, indexes, job.calls)
        except BaseException as error:  # this runs the user's code: joblib must hear of whatever that raised
            for call in job.calls:
                call.cancel()
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                with self._lock:
                    self._under_way.discard(job)
                raise
            job.fail(error)
            self._finished.put(job)
            return job
        waiting = list(job.calls)
        if not waiting:  # every result was in a cache
            self._finished.put(job)
            return job
        with self._lock:
            job._waiting = len(waiting)
            is_cancelled = job.is_cancelled
        for call in waiting:
            call.add_done_callback(partial(self._call_done, job))
            if is_cancelled:
                call.cancel()
        return job

    def cancel(self) -> None:
        """Cancel every batch under way, in the background."""
        self._work.complete()
        with self._lock:
            jobs = list(self._under_way)
            for job in jobs:
                job.is_cancelled = True
        for job in jobs:
            for call in list(job.calls):
                call.cancel()

    def _watch_for_refills(self, items: Sequence[Task]) -> None:
        if self._watch is None:
            return
        self._young_tasks -= len(items)
        for item in items:
            self._is_refilled = self._watch.look(item)
        if self._young_tasks <= 0 or self._is_refilled:
            self._watch = None

    def _send(self, items: Sequence[Task], indexes: Sequence[int], calls: list[Call[BatchReport]]) -> None:
        """Append the calls that carry `items`: one, or more if that would be too large for a job."""
        try:
            with self._work.calls(tasks=len(items), name=TaskNames(items, indexes)):
                calls.append(self._remote(self._context, items, indexes))
        except UnpicklableError as error:
            raise reworded_argument(error, items, indexes) from error.__cause__
        except PayloadTooLarge:
            half = len(items) // 2
            if half == 0:
                raise
            self.sizer.limit(half)
            self._send(items[:half], indexes[:half], calls)
            self._send(items[half:], indexes[half:], calls)

    def _call_done(self, job: BatchJob, _call: Call[BatchReport]) -> None:
        with self._lock:
            job._waiting -= 1
            is_last = job._waiting == 0
        if is_last:
            self._finished.put(job)

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._deliver, name="flash-joblib-delivery", daemon=True)
            self._thread.start()

    def _deliver(self) -> None:
        while True:
            try:
                job = self._finished.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if not self._under_way:
                        self._thread = None
                        return
                continue
            try:
                job.settle(self.stats, self.sizer, self._remote.endpoint.config)
            except BaseException as error:  # noqa: BLE001 - the user's classes are rebuilt: whatever that raises, joblib must hear of the batch
                job.fail(error)
            self.make_current()  # each time: the user's input may have run another call in this thread
            callback, job.callback = job.callback, None
            try:
                if callback is not None:
                    self._call_back(job, callback)
            except BaseException as error:  # noqa: BLE001 - it runs the user's input, which may even call sys.exit()
                _raise_in_caller(callback, error)
            if is_exhausted(getattr(callback, "parallel", None)):
                self._work.complete()
            with self._lock:
                self._under_way.discard(job)
            del job, callback

    @staticmethod
    def _call_back(job: BatchJob, callback: Callable[[BatchJob], object]) -> None:
        """Tell joblib, but not of a batch of a call that it has given up.

        It would take an error for one of the next call of that `Parallel`, if that is just beginning, and end it with
        no results. It begins one under this lock, and `cancel` comes before.
        """
        with getattr(getattr(callback, "parallel", None), "_lock", nullcontext()):
            if not job.is_cancelled:
                callback(job)


def _raise_in_caller(callback: Any, error: BaseException) -> None:
    """Let the caller of `Parallel` hear of what joblib's callback raised in the delivery thread.

    joblib does so itself with an `Exception` of its input; of anything else its caller would wait forever.
    """
    failed = BatchJob(1, None)
    failed.fail(error)
    try:
        parallel = callback.parallel
        tracker = type(callback)(0, 1, parallel)
        (getattr(parallel, "_register_new_job", None) or parallel._jobs.append)(tracker)  # joblib 1.4 has the latter
        tracker(failed)
    except Exception:  # noqa: BLE001 - joblib's own names; the thread must live for the other batches
        _log.exception("joblib could not be told of %r, which its input or output raised", error)


def _exception_of(call: Call[BatchReport], config: EndpointConfig) -> BaseException | None:
    try:
        error = call.exception()
    except CancelledError as cancelled:
        return cancelled
    if error is not None and isinstance(call.name, TaskNames):
        error = reworded_loss(reworded_result(error, call.name), call.name, config)
        noted(error, call.name)
    if isinstance(error, RemoteError) and error.type_name.endswith("KeyboardInterrupt"):
        interrupt = KeyboardInterrupt(str(error))  # joblib's contract: as if it had happened here
        interrupt.__cause__ = error
        return interrupt
    return error
