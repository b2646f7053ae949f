# SPDX-License-Identifier: Apache-2.0
"""Tasks that do their worst: each has one clear outcome that names it, and the next call is as if nothing had been.

That nothing keeps running afterwards is checked by the test run itself, which looks for processes of its own.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import TimeoutError as ParallelTimeoutError
from pathlib import Path
from typing import Any

import flash_joblib  # noqa: F401 - registers the backend
import joblib
import pytest
from joblib import Parallel, delayed

import flash_plugins
from flash_plugins import RemoteError, UnpicklableError, WorkerLost

#: Longer than any test: what sleeps so long is ended by somebody else.
FOREVER_S = 3600.0


class OddError(Exception):
    def __init__(self, name: str, *, size: int) -> None:
        super().__init__(f"{name} is odd")
        self.size = size


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Holder:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class FatalWhenLoaded:
    def __reduce__(self) -> Any:
        return os._exit, (9,)


class BrokenWhenLoaded:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def double(x: int) -> int:
    return 2 * x


def is_killed(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exits_at_once(_: int) -> None:
    os._exit(3)


def crashes(_: int) -> None:
    ctypes.string_at(0)


def takes_its_worker_along(_: int) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(FOREVER_S)


def returns_a_lock(_: int) -> Any:
    return {"a": Holder()}


def returns_a_generator(_: int) -> Any:
    return (x for x in range(3))


def returns_what_breaks(_: int) -> Any:
    return BrokenWhenLoaded()


def raises_odd(x: int) -> None:
    raise OddError(f"{x}", size=7)


def raises_unspeakable(_: int) -> None:
    raise UnspeakableError


def exits(_: int) -> None:
    sys.exit(4)


def recurses(x: int) -> int:
    return recurses(x + 1)


def runs_out_of_memory(_: int) -> None:
    """Have no more than half a gigabyte beyond what there is, so that this machine survives."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 500_000_000, before[1]))
    try:
        blocks = []
        while True:
            blocks.append(bytearray(50_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def prints_10_mb(x: int) -> int:
    for _ in range(10):
        print("x" * 1_000_000)
    return x


def leaves_threads(x: int) -> int:
    for is_daemon in (True, False):
        threading.Thread(target=time.sleep, args=(FOREVER_S,), daemon=is_daemon).start()
    return x


def leaves_children(x: int) -> int:
    for own_session in (True, False):
        os.posix_spawnp("sleep", ["sleep", str(FOREVER_S)], os.environ, setsid=own_session)
    if os.fork() == 0:
        time.sleep(FOREVER_S)
    return x


def returns_twice(x: int) -> int:
    os.fork()
    return x


def changes_everything(x: int) -> int:
    os.chdir("/")
    os.environ.clear()
    sys.path.clear()
    random.seed(1)
    sys.setrecursionlimit(200)
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    return x


def closes_its_output(x: int) -> int:
    sys.stdout.close()
    sys.stderr.close()
    os.close(1)
    return x


def dies_at(folder: str, x: int, *, deadly: int, times: int) -> int:
    """Note each time that it runs; task `deadly` kills its process so many times."""
    runs = sum(path.name.startswith(f"{x}-") for path in Path(folder).iterdir())
    Path(folder, f"{x}-{runs}").touch()
    if x == deadly and runs < times:
        is_killed(x)
    return x


def sleeps(x: int, folder: str) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        if x == 1:
            time.sleep(FOREVER_S)
    finally:
        Path(folder, f"{x}-ended").touch()
    return x


@pytest.fixture(scope="module", autouse=True)
def _platform() -> Iterator[None]:
    with joblib.parallel_config(backend="flash", n_jobs=2):
        yield
    flash_plugins.close()


@pytest.fixture(autouse=True)
def _healthy_afterwards() -> Iterator[None]:
    yield
    assert Parallel()(delayed(double)(i) for i in range(10)) == list(range(0, 20, 2))


def first_then(function: Callable[..., Any], *args: Any) -> Any:
    """Run some healthy tasks and the one at index 3."""
    return Parallel()(delayed(function if i == 3 else double)(*(args if i == 3 and args else (i,))) for i in range(6))


LOST = r"(?s)^the joblib task at index 3, {}\(\), lost its worker: .*{}"


@pytest.mark.parametrize(
    ("task", "error", "words"),
    [
        (is_killed, WorkerLost, LOST.format("is_killed", r"signal SIGKILL.* is_killed\(3\).*larger workers")),
        (exits_at_once, WorkerLost, LOST.format("exits_at_once", r"exit code 3, in the .*\nWith retries=")),
        (crashes, WorkerLost, LOST.format("crashes", "signal SIGSEGV.*Segmentation fault.* in crashes")),
        (takes_its_worker_along, WorkerLost, LOST.format("takes_its_worker_along", "SIGKILL.*attempt 3 of 3")),
        (returns_a_lock, UnpicklableError, r"3, returns_a_lock\(\), .* back: result\['a'\]\.lock is a _thread"),
        (returns_a_generator, UnpicklableError, r"index 3, returns_a_generator\(\), .* it is a generator"),
        (returns_what_breaks, ValueError, "invalid literal"),
        (raises_odd, OddError, "3 is odd"),
        (raises_unspeakable, UnspeakableError, None),
        (exits, RemoteError, "SystemExit: 4"),
        (recurses, RecursionError, "maximum recursion depth"),
        (runs_out_of_memory, MemoryError, None),
    ],
)  # fmt: skip
def test_a_task_that_fails_is_one_error_that_names_it(
    task: Callable[..., Any], error: type[Exception], words: str | None
) -> None:
    with pytest.raises(error, match=words) as caught:
        first_then(task)
    if error not in (WorkerLost, UnpicklableError):
        assert f"index 3, {task.__name__}(" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("argument", "error", "words"),
    [
        (Holder(), UnpicklableError, r"index 3, double\(<Holder>\), .* argument 'x' \(args\[0\]\.lock\) is a"),
        (BrokenWhenLoaded(), ValueError, "invalid literal"),
        (FatalWhenLoaded(), WorkerLost, r"index 3, double\(\), lost its worker"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_travel_is_one_error_that_names_it(
    argument: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        first_then(double, argument)
    if error is ValueError:
        assert "index 3, double()" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    "task",
    [prints_10_mb, leaves_threads, leaves_children, returns_twice, changes_everything, closes_its_output],
)
def test_a_task_that_spoils_its_process_harms_no_other(task: Callable[..., Any]) -> None:
    assert first_then(task) == [0, 2, 4, 3, 8, 10]


def test_one_killer_in_a_batch_runs_alone_and_its_neighbours_once_more_at_most(tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match=r"^the joblib task at index 5, dies_at\(\), lost its worker") as caught:
        Parallel(batch_size=8)(delayed(dies_at)(str(tmp_path), i, deadly=5, times=99) for i in range(8))
    assert caught.value.step is not None
    runs = [sum(path.name.startswith(f"{i}-") for path in tmp_path.iterdir()) for i in range(8)]
    assert runs[5] <= 4
    assert max(runs[:5] + runs[6:]) <= 2


def test_a_task_that_kills_once_costs_nobody_the_result(tmp_path: Path) -> None:
    results = Parallel(batch_size=8)(delayed(dies_at)(str(tmp_path), i, deadly=5, times=1) for i in range(8))
    assert results == list(range(8))
    runs = [sum(path.name.startswith(f"{i}-") for path in tmp_path.iterdir()) for i in range(8)]
    assert max(runs) <= 2


def test_retries_try_again_what_killed_its_worker(tmp_path: Path) -> None:
    with joblib.parallel_config(backend="flash", n_jobs=2, retries=1, backoff=0):
        assert Parallel()(delayed(dies_at)(str(tmp_path), i, deadly=1, times=4) for i in range(3)) == [0, 1, 2]


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_a_generator_gives_what_came_before_a_lost_worker(return_as: str) -> None:
    tasks = (delayed(is_killed if i == 5 else double)(i) for i in range(30))
    found: list[int] = []
    with pytest.raises(WorkerLost, match="index 5, is_killed"):
        found.extend(Parallel(return_as=return_as, pre_dispatch=2)(tasks))
    assert set(found) <= set(range(0, 60, 2))
    assert return_as != "generator" or found == [0, 2, 4, 6, 8][: len(found)]  # joblib raises as soon as it can


def test_a_managed_parallel_goes_on_after_a_lost_worker() -> None:
    with Parallel() as parallel:
        with pytest.raises(WorkerLost, match="index 1, exits_at_once"):
            parallel(delayed(exits_at_once if i == 1 else double)(i) for i in range(4))
        assert parallel(delayed(double)(i) for i in range(4)) == [0, 2, 4, 6]


def test_a_call_beside_one_that_loses_workers_gets_its_results() -> None:
    beside: list[Any] = []
    with joblib.parallel_config(backend="flash", n_jobs=2):
        thread = threading.Thread(
            target=lambda: beside.extend(Parallel(n_jobs=2, backend="flash")(delayed(double)(i) for i in range(50)))
        )
        thread.start()
        with pytest.raises(WorkerLost):
            first_then(is_killed)
        thread.join(60)
    assert beside == list(range(0, 100, 2))


def test_a_task_that_sleeps_for_ever_ends_with_the_timeout(tmp_path: Path) -> None:
    with pytest.raises(ParallelTimeoutError):
        Parallel(timeout=1)(delayed(sleeps)(i, str(tmp_path)) for i in range(2))
    deadline = time.monotonic() + 60
    while not (tmp_path / "1-ended").exists():
        assert time.monotonic() < deadline, "the task goes on"
        time.sleep(0.05)
