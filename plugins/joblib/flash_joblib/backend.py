# SPDX-License-Identifier: Apache-2.0
"""`FlashBackend`, what joblib calls: decides where a `Parallel` call runs. It never sends anything itself."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import joblib
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)

import flash_plugins

from .batch import TaskContext, in_worker
from .managers import ManagerKey
from .options import BackendOptions
from .parallel_call import SINGLE, BatchJob, ParallelCall, current_call, forget_current_call
from .progress import work_of
from .stats import RunStats, remember
from .threads import ThreadLimits, thread_limits

__all__ = ["BACKEND_NAME", "FlashBackend"]

#: The name joblib knows this backend by.
BACKEND_NAME = "flash"


class WorkerSet:
    """Handle on the workers of a configured backend; another one after they were told to drop everything."""

    _numbers = itertools.count(1)

    def __init__(self, endpoint_name: str | None, n_jobs: int) -> None:
        self.endpoint_name = endpoint_name
        self.n_jobs = n_jobs
        self._number = next(self._numbers)

    def __repr__(self) -> str:
        return f"<WorkerSet {self._number} endpoint={self.endpoint_name!r} n_jobs={self.n_jobs}>"


class FlashBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """joblib backend that runs batches of tasks on the workers of an endpoint.

    Options go to the constructor or to `Parallel(backend="flash", …)`; see `BackendOptions`. One instance may
    serve several `Parallel` objects and threads at once. With `n_jobs=1` the work stays in this process, which
    is joblib's contract, and inside a task it stays on the worker.

    Raises:
        UnknownParameterError: An option is unknown; the closest one is suggested.
        ConfigError: An option has a value that cannot be used.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1
    nesting_level: int | None
    inner_max_num_threads: int | None

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._options = BackendOptions(options)
        self._configured: BackendOptions | None = None  # with what `configure` was given on top
        self._calls: weakref.WeakKeyDictionary[Any, ParallelCall] = weakref.WeakKeyDictionary()
        self._total = RunStats()
        self._workers: WorkerSet | None = None
        self.parallel: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.nesting_level, self.inner_max_num_threads, self._options.as_dict())

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many batches would run at once: the number asked for, counted from the end if negative.

        Never touches the network. `n_jobs=None` means all workers, as for `Parallel`.

        Raises:
            ValueError: `n_jobs` is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        if n_jobs > 0:
            return n_jobs
        return max((self._configured or self._options).all_workers + 1 + n_jobs, 1)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        **options: Any,
    ) -> int:
        """Get ready for the calls of `parallel`: check the options and let workers start, in the background.

        Raises:
            FallbackToBackend: The work stays here: `n_jobs` is 1, or this is a worker already.
        """
        self._configured = self._options.merged(options)
        n_jobs = self.effective_n_jobs(n_jobs)
        if in_worker():
            local, _ = FlashBackend(nesting_level=max((self.nesting_level or 0) - 1, 0)).get_nested_backend()
            raise FallbackToBackend(local)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        endpoint, function = self._configured.function(n_jobs)
        endpoint.start()
        is_here = flash_plugins.platform().name == "local"
        context = TaskContext(
            nesting_level=self.nesting_level or 0,
            thread_limits=self._thread_limits(endpoint, n_jobs, is_here=is_here),
            initializer=self._configured.initializer(),
            manager_key=ManagerKey() if is_here else None,
        )
        call = ParallelCall(
            function, context, n_jobs=n_jobs, stats=RunStats(total=self._total), batch=self._configured.batch
        )
        remember(call.stats)
        self.parallel = parallel
        self._calls[parallel] = call
        self._workers = WorkerSet(endpoint.name, n_jobs)
        return n_jobs

    def _thread_limits(self, endpoint: flash_plugins.Endpoint, n_jobs: int, *, is_here: bool) -> ThreadLimits | None:
        """Threads that numeric libraries may use in a task: what was asked, else a fair share if workers share
        this machine. The same numbers as loky's, so that sums come out in the same order, to the last bit."""
        if self.inner_max_num_threads is None and not is_here:
            return None
        fair_share: int = max(joblib.cpu_count() // n_jobs, 1)
        return thread_limits(self.inner_max_num_threads, share=fair_share, given=endpoint.config.env)

    def start_call(self) -> None:
        """Know that this thread is about to submit for a `Parallel`, perhaps not the one it submitted for last."""
        forget_current_call()

    def submit(self, func: Any, callback: Any = None) -> BatchJob:
        """Send the tasks of `func`, a `BatchedCalls`. Never waits; every failure comes by `callback`."""
        parallel = getattr(callback, "parallel", self.parallel)
        call = self._calls[parallel]
        call.make_current()
        if parallel.n_dispatched_tasks == len(func):
            call.begin(asks_for_size=parallel.batch_size == "auto", work=work_of(parallel, func.items))
        if (total := getattr(parallel, "n_tasks", None)) is not None:  # since joblib 1.5, for sized input
            call.remaining = total - parallel.n_dispatched_tasks
        end: int = parallel.n_dispatched_tasks  # these included
        job = call.submit(func.items, callback, indexes=range(end - len(func.items), end))
        if parallel._aborting:  # since joblib last looked: `abort_everything` did not see this batch
            call.cancel()
        return job

    #: joblib 1.4 has only this name.
    apply_async = submit

    def retrieve_result_callback(self, out: BatchJob) -> list[Any]:
        """Return the results of a batch or raise what went wrong with it."""
        return out.retrieve()

    def compute_batch_size(self) -> int:
        """Return the number of tasks for the next batch, see `batching`."""
        call = current_call()
        if call is None:
            return SINGLE
        self._effective_batch_size = call.next_batch_size()
        return self._effective_batch_size

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Ignore `duration`, which includes the queue and the way: batches report the worker's own time."""

    def terminate(self) -> None:
        """Forget what belonged to this call. The workers stay until their idle timeout."""
        self._workers = None
        self._configured = None
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel, in the background, the batches of every `Parallel` that is aborting, and only these."""
        for parallel, call in list(self._calls.items()):
            if parallel._aborting:
                call.cancel()
        old = self._workers
        self._workers = WorkerSet(old.endpoint_name, old.n_jobs) if ensure_ready and old is not None else None

    def stats(self) -> RunStats:
        """Return tasks and busy time by worker process, over all calls of this instance."""
        return self._total


def _restore(nesting_level: int | None, inner_max_num_threads: int | None, options: dict[str, Any]) -> FlashBackend:
    return FlashBackend(nesting_level, inner_max_num_threads, **options)
