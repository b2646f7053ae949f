# SPDX-License-Identifier: Apache-2.0
"""What `Parallel` promises, on real workers of the local platform."""

from __future__ import annotations

import asyncio
import logging
import mmap
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import TimeoutError as ParallelTimeoutError
from pathlib import Path
from typing import Any

import flash_joblib
import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

from flash_plugins import RemoteError, UnpicklableError, WorkerLost


class QuotaError(Exception):
    def __init__(self, user: str, used: int, *, limit: int) -> None:
        super().__init__(f"{user} used {used} of {limit}")
        self.user = user
        self.used = used
        self.limit = limit


class Unpicklable:
    def __reduce__(self) -> str:
        raise RuntimeError("stays here")


def square(x: float) -> float:
    return x * x


def slept(value: int, seconds: float) -> int:
    time.sleep(seconds)
    return value


def where(_: int) -> int:
    return os.getpid()


def over_quota(x: int) -> int:
    if x == 3:
        raise QuotaError("ada", x, limit=2)
    return x


def touch(path: str, seconds: float) -> None:
    time.sleep(seconds)
    Path(path).touch()


@pytest.fixture
def parallel() -> Iterator[Parallel]:
    with Parallel(n_jobs=2, backend="flash") as managed:
        yield managed


def test_tasks_run_in_two_other_processes_and_results_come_in_order() -> None:
    assert Parallel(n_jobs=2, backend="flash")(delayed(square)(i) for i in range(50)) == [i * i for i in range(50)]
    pids = set(Parallel(n_jobs=2, backend="flash", batch_size=1)(delayed(where)(i) for i in range(20)))
    assert os.getpid() not in pids
    assert len(pids) <= 2


def test_statistics_name_processes_and_count_tasks() -> None:
    with joblib.parallel_backend("flash", n_jobs=2) as (backend, _):
        pids = set(Parallel(batch_size=3)(delayed(where)(i) for i in range(30)))
        Parallel(batch_size=3)(delayed(where)(i) for i in range(30))
    run = flash_joblib.last_run()
    assert run.tasks == 30
    assert run.batches >= 10
    assert {worker.process_id for worker in run.workers} | pids == {w.process_id for w in backend.stats().workers}
    assert all(worker.worker_id for worker in run.workers)
    assert backend.stats().tasks == 60
    assert f"process {run.workers[0].process_id}" in str(run)


def test_closures_and_lambdas_travel() -> None:
    base = 10
    assert Parallel(n_jobs=2, backend="flash")(delayed(lambda x: x + base)(i) for i in range(3)) == [10, 11, 12]


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators_yield_before_everything_is_done(return_as: str) -> None:
    taken = 0

    def inputs() -> Iterator[Any]:
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield delayed(time.sleep)(0.01 if i < 500 else 0.02)

    results = Parallel(n_jobs=2, backend="flash", batch_size=1, return_as=return_as)(inputs())
    next(results)
    assert taken < 500
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()


def test_an_unordered_generator_returns_the_fast_ones_first() -> None:
    results = Parallel(n_jobs=2, backend="flash", return_as="generator_unordered")(
        delayed(slept)(i, 20.0 if i == 1 else 0.0) for i in range(8)
    )
    assert sorted(next(results) for _ in range(7)) == [0, 2, 3, 4, 5, 6, 7]
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()


def test_an_exception_comes_back_as_itself_with_the_remote_traceback(parallel: Parallel) -> None:
    with pytest.raises(QuotaError, match="ada used 3 of 2") as caught:
        parallel(delayed(over_quota)(i) for i in range(20))
    assert (caught.value.user, caught.value.used, caught.value.limit) == ("ada", 3, 2)
    assert "over_quota" in str(caught.value.__cause__)
    assert any("joblib task at index 3, over_quota(3)" in note for note in caught.value.__notes__)
    assert parallel(delayed(square)(i) for i in range(3)) == [0, 1, 4]


def test_an_argument_that_cannot_travel_is_an_error_not_a_hang(parallel: Parallel) -> None:
    with pytest.raises(UnpicklableError):
        parallel(delayed(id)(Unpicklable()) for _ in range(10))
    mixed = [delayed(square)(1)] * 20 + [delayed(id)(Unpicklable())]
    with pytest.raises(UnpicklableError):  # from the delivery thread this time
        parallel(mixed)
    assert parallel([delayed(square)(2)]) == [4]


def test_a_result_that_cannot_travel_is_an_error_not_a_hang(parallel: Parallel) -> None:
    with pytest.raises(UnpicklableError):
        parallel(delayed(threading.Lock)() for _ in range(4))
    assert parallel([delayed(square)(2)]) == [4]


def test_a_task_that_exits_is_an_error_and_the_backend_stays_usable(parallel: Parallel) -> None:
    with pytest.raises(RemoteError, match="SystemExit"):
        parallel([delayed(exit)(3), delayed(square)(1)])
    assert parallel([delayed(square)(2)]) == [4]


@pytest.mark.slow
def test_a_task_that_kills_its_process_is_an_error_and_the_backend_stays_usable(parallel: Parallel) -> None:
    with pytest.raises(WorkerLost):
        parallel([delayed(os._exit)(3), delayed(square)(1)])
    assert parallel([delayed(square)(2)]) == [4]


def test_an_interrupt_in_a_task_is_one_here(parallel: Parallel) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parallel([delayed(interrupt)()])
    assert parallel([delayed(square)(2)]) == [4]


def test_an_error_ends_the_call_fast_and_cancels_the_rest(tmp_path: Path) -> None:
    tasks = [delayed(time.sleep)("no number")] + [delayed(touch)(str(tmp_path / f"{i}"), 3.0) for i in range(20)]
    Parallel(n_jobs=2, backend="flash")([delayed(square)(1)])  # workers are up
    started = time.monotonic()
    with pytest.raises(TypeError):
        Parallel(n_jobs=2, backend="flash")(tasks)
    assert time.monotonic() - started < 3
    Parallel(n_jobs=2, backend="flash")([delayed(square)(1)])
    time.sleep(3.5)  # what was cancelled would be done by now
    assert list(tmp_path.iterdir()) == []


def test_a_timeout_is_raised_and_the_backend_stays_usable(parallel: Parallel) -> None:
    with pytest.raises(ParallelTimeoutError):
        Parallel(n_jobs=2, backend="flash", timeout=0.2)(delayed(time.sleep)(30) for _ in range(6))
    assert parallel([delayed(square)(2)]) == [4]


def test_two_threads_share_an_instance_and_an_abort_hurts_only_its_own_call() -> None:
    outcome: dict[str, Any] = {}
    backend = flash_joblib.FlashBackend(nesting_level=0)

    def long_call() -> None:
        outcome["long"] = Parallel(n_jobs=2, backend=backend, batch_size=1)(delayed(slept)(i, 0.05) for i in range(40))

    thread = threading.Thread(target=long_call)
    thread.start()
    for _ in range(3):
        with pytest.raises(QuotaError):
            Parallel(n_jobs=2, backend=backend, batch_size=1)(delayed(over_quota)(i) for i in range(10))
    thread.join(60)
    assert outcome["long"] == list(range(40))


def test_tasks_of_this_machine_reach_a_manager() -> None:
    def count(counts: Any, lock: Any, queue: Any, i: int) -> None:
        with lock:
            counts["all"] += i
        queue.put(i)

    with multiprocessing.Manager() as manager:
        counts, lock, queue = manager.dict(all=0), manager.Lock(), manager.Queue()
        Parallel(n_jobs=2, backend="flash")(delayed(count)(counts, lock, queue, i) for i in range(20))
        assert counts["all"] == 190
        assert sorted(queue.get(timeout=10) for _ in range(20)) == list(range(20))


def test_the_input_may_come_from_another_parallel_generator() -> None:
    """Both calls deliver at once: the second one's callback waits for results of the first."""
    first = Parallel(n_jobs=2, backend="flash", return_as="generator")(delayed(square)(i) for i in range(30))
    second = Parallel(n_jobs=2, backend="flash")(delayed(square)(x) for x in first)
    assert second == [i**4 for i in range(30)]


def test_an_error_in_the_input_is_raised(parallel: Parallel) -> None:
    def inputs() -> Iterator[Any]:
        for i in range(15):
            yield delayed(square)(i)
        raise QuotaError("input", 15, limit=15)

    with pytest.raises(QuotaError):
        parallel(inputs())


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("enough"), asyncio.CancelledError()], ids=repr)
@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_an_input_that_ends_the_program_does_not_leave_it_waiting(error: BaseException, return_as: str) -> None:
    """The input is iterated in the delivery thread by then."""

    def inputs() -> Iterator[Any]:
        for i in range(15):
            yield delayed(square)(i)
        raise error

    with Parallel(n_jobs=2, backend="flash", return_as=return_as) as parallel:
        with pytest.raises(type(error)):
            list(parallel(inputs()))
        assert list(parallel([delayed(square)(2)])) == [4]


def test_blocks_in_several_threads_at_once_have_each_their_own_options() -> None:
    def run(number: int) -> tuple[list[Any], int]:
        told = delayed(lambda i: (os.environ.get("NUMBER"), i))
        with joblib.parallel_config(backend="flash", n_jobs=2, env={"NUMBER": str(number)}) as config:
            results = [Parallel()(told(i) for i in range(20)) for _ in range(3)]
            return results, config["backend"].stats().tasks

    with ThreadPoolExecutor(3) as pool:
        for number, (results, tasks) in enumerate(pool.map(run, range(3))):
            assert results == [[(str(number), i) for i in range(20)]] * 3
            assert tasks == 60


def test_a_generator_that_is_dropped_cancels_its_own_tasks_only(tmp_path: Path) -> None:
    backend = flash_joblib.FlashBackend(nesting_level=0)
    dropped = Parallel(n_jobs=2, backend=backend, return_as="generator")(
        delayed(touch)(str(tmp_path / str(i)), 1.0 if i else 0.0) for i in range(20)
    )
    kept = Parallel(n_jobs=2, backend=backend, return_as="generator")(delayed(square)(i) for i in range(10))
    next(dropped)
    with pytest.warns(UserWarning, match="cancelled"):
        del dropped
    assert list(kept) == [i * i for i in range(10)]
    seen = len(list(tmp_path.iterdir()))
    assert Parallel(n_jobs=2, backend=backend)(delayed(slept)(i, 0.8) for i in range(4)) == list(range(4))
    assert len(list(tmp_path.iterdir())) <= seen + 2  # one each worker had begun


def test_nested_calls_with_loky_run_in_processes_of_the_worker() -> None:
    def inner() -> tuple[str, list[int], set[int]]:
        with Parallel(n_jobs=2, backend="loky") as nested:
            pids = set(nested(delayed(where)(i) for i in range(4)))
            return type(nested._backend).__name__, nested(delayed(square)(i) for i in range(3)), pids - {os.getpid()}

    for name, squares, pids in Parallel(n_jobs=2, backend="flash")(delayed(inner)() for _ in range(2)):
        assert (name, squares) == ("LokyBackend", [0, 1, 4])
        assert pids


def test_nested_calls_with_flash_make_no_calls_on_other_workers() -> None:
    def inner() -> tuple[str, int, list[Any]]:
        with joblib.parallel_config(backend="flash", n_jobs=2, gpu="4090"):
            nested = Parallel()
            deeper = nested(delayed(deepest)() for _ in range(2))
        return type(nested._backend).__name__, os.getpid(), deeper

    def deepest() -> tuple[str, int]:
        nested = Parallel(n_jobs=2, backend="flash")
        nested(delayed(square)(i) for i in range(3))
        return type(nested._backend).__name__, os.getpid()

    for name, pid, deeper in Parallel(n_jobs=2, backend="flash")(delayed(inner)() for _ in range(2)):
        assert name == "ThreadingBackend"
        assert deeper == [("SequentialBackend", pid)] * 2


def test_nested_calls_use_the_cores_of_the_worker() -> None:
    def inner(backend: str | None) -> tuple[str, int, set[int]]:
        with Parallel(n_jobs=2, backend=backend) as nested:
            pids = nested(delayed(where)(i) for i in range(4))
            return type(nested._backend).__name__, nested._backend.nesting_level, {*pids, os.getpid()}

    for name, level, pids in Parallel(n_jobs=2, backend="flash")(delayed(inner)(b) for b in (None, "flash")):
        assert (name, level) == ("ThreadingBackend", 1)
        assert len(pids) == 1


def test_inner_threads_are_limited_on_the_worker() -> None:
    def threads(_: int) -> tuple[str | None, set[int]]:
        from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

        np.dot(np.ones((50, 50)), np.ones((50, 50)))
        return os.environ.get("OMP_NUM_THREADS"), {pool["num_threads"] for pool in threadpool_info()}

    fair_share = max(joblib.cpu_count() // 2, 1)
    for limit, expected in ((3, 3), (1, 1), (None, fair_share)):
        with joblib.parallel_config(backend="flash", n_jobs=2, inner_max_num_threads=limit):
            for variable, pools in Parallel()(delayed(threads)(i) for i in range(4)):
                assert variable == str(expected)
                assert pools <= {min(expected, joblib.cpu_count()), expected}


def test_threads_that_the_user_sets_win_over_the_share_as_with_loky(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> list[str | None]:
        return [os.environ.get(f"{name}_NUM_THREADS") for name in ("OMP", "MKL", "OPENBLAS")]

    fair_share = str(max(joblib.cpu_count() // 2, 1))
    monkeypatch.setenv("OMP_NUM_THREADS", "7,2")
    given = {"env": {"MKL_NUM_THREADS": "5"}}
    for backend, options, mkl in (("loky", {}, fair_share), ("flash", {}, fair_share), ("flash", given, "5")):
        with joblib.parallel_config(backend=backend, n_jobs=2, **options):
            assert Parallel()(delayed(threads)() for _ in range(2)) == [["7,2", mkl, fair_share]] * 2
    with joblib.parallel_config(backend="flash", n_jobs=2, inner_max_num_threads=3):
        assert Parallel()(delayed(threads)() for _ in range(2)) == [["3"] * 3] * 2


def test_an_initializer_runs_once_in_each_process() -> None:
    def note(path: str) -> None:
        os.environ["INITIALIZED"] = os.environ.get("INITIALIZED", "") + path

    with joblib.parallel_config(backend="flash", n_jobs=2, initializer=note, initargs=("once",)):
        for _ in range(2):
            found = Parallel(batch_size=1)(delayed(lambda: os.environ.get("INITIALIZED"))() for _ in range(6))
            assert set(found) == {"once"}


def test_arguments_are_taken_as_they_are_at_each_call(parallel: Parallel) -> None:
    buffer = np.zeros(200_000)  # large enough for loky to map it, and to keep the old values
    for i in range(4):
        buffer[:] = i
        assert parallel(delayed(np.max)(buffer) for _ in range(3)) == [i, i, i]


def test_memmaps_views_and_odd_arrays_arrive_with_their_values(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "array", dtype="float64", mode="w+", shape=(2 * mmap.ALLOCATIONGRANULARITY,))
    mapped[:] = np.arange(len(mapped))
    read_only = np.arange(10.0)
    read_only.flags.writeable = False
    arrays = [mapped, mapped[100:200:3], read_only, np.arange(6).reshape(2, 3).T, np.arange(4, dtype=">i4")]
    for sent, (total, dtype) in zip(
        arrays,
        Parallel(n_jobs=2, backend="flash")(delayed(lambda a: (a.sum(), a.dtype))(a) for a in arrays),
        strict=True,
    ):
        assert (total, dtype) == (sent.sum(), sent.dtype)


def test_a_batch_that_is_too_large_for_a_job_is_sent_in_parts() -> None:
    blocks = [np.full(500_000, i, dtype="float64") for i in range(8)]  # 4 MB each, 32 MB together
    assert Parallel(n_jobs=2, backend="flash", batch_size=8)(delayed(np.max)(b) for b in blocks) == list(range(8))


def test_one_argument_that_is_larger_than_any_job_arrives() -> None:
    block = np.arange(5_000_000.0)  # 40 MB
    assert Parallel(n_jobs=2, backend="flash")(delayed(np.max)(block) for _ in range(3)) == [4_999_999.0] * 3


_TOO_LARGE = """
import numpy as np, flash_joblib
from joblib import Parallel, delayed
from flash_plugins.errors import PayloadTooLarge

try:
    Parallel(n_jobs=2, backend="flash")(delayed(np.max)(np.zeros(5_000_000)) for _ in range(3))
except PayloadTooLarge as error:
    print(error)
"""


def test_without_a_store_one_argument_that_is_too_large_is_an_error() -> None:
    environment = {**os.environ, "FLASH_PLATFORM": "local", "FLASH_PLUGINS_OBJECTS": "off"}
    done = subprocess.run(
        [sys.executable, "-c", _TOO_LARGE], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "joblib task at index 0, max()" in done.stdout
    assert "large objects: 53.3 MB" in done.stdout


_LIGHT = """
import sys
from joblib import Parallel, delayed
import flash_joblib

assert Parallel(n_jobs=2, backend="flash")(delayed(abs)(i) for i in range(4)) == [0, 1, 2, 3]
print(sorted({"httpx", "rich", "starlette", "uvicorn", "runpod"} & set(sys.modules)))
"""


def test_a_program_on_the_local_platform_loads_no_more_than_it_needs() -> None:
    environment = {**os.environ, "FLASH_PLATFORM": "local"}
    done = subprocess.run([sys.executable, "-c", _LIGHT], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_prints_logs_and_warnings_of_tasks_arrive(
    parallel: Parallel, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def talk(i: int) -> None:
        print(f"task {i} prints")
        logging.getLogger("task").warning("task %d logs", i)
        warnings.warn(f"task {i} warns", UserWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parallel(delayed(talk)(i) for i in range(3))
    printed = capfd.readouterr().out
    assert all(f"task {i} prints" in printed for i in range(3))
    assert {str(w.message) for w in caught} >= {f"task {i} warns" for i in range(3)}
    assert {record.getMessage() for record in caplog.records} >= {f"task {i} logs" for i in range(3)}


def test_verbose_is_joblibs_own(capsys: pytest.CaptureFixture[str]) -> None:
    Parallel(n_jobs=2, backend="flash", verbose=50)(delayed(square)(i) for i in range(10))
    out = capsys.readouterr().out
    assert "Using backend FlashBackend with 2 concurrent workers" in out
    assert "Done  10 out of  10" in out or "Done 10 out of 10" in out


def test_many_small_tasks_are_batched() -> None:
    assert Parallel(n_jobs=2, backend="flash")(delayed(square)(i) for i in range(5000)) == [i * i for i in range(5000)]
    assert flash_joblib.last_run().batches < 200


def test_delivery_threads_end_when_nothing_is_under_way() -> None:
    Parallel(n_jobs=2, backend="flash")(delayed(square)(i) for i in range(5))
    deadline = time.monotonic() + 5
    while any(thread.name == "flash-joblib-delivery" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
