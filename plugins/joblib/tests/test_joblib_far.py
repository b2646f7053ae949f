# SPDX-License-Identifier: Apache-2.0
"""What `Parallel` promises where workers are far away: on a simulated Runpod, 80 ms there and back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from multiprocessing import TimeoutError as ParallelTimeoutError
from typing import Any

import flash_joblib
import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

import flash_plugins
from flash_plugins.testing import simulated_runpod

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", autouse=True)
def _runpod() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, simulated_runpod(cold_start_s=0) as runpod:
        flash_plugins.close()
        for name, value in runpod.environment.items():
            patch.setenv(name, value)
        yield
        flash_plugins.close()


def threads(_: int) -> tuple[str | None, set[int]]:
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    np.dot(np.ones((50, 50)), np.ones((50, 50)))
    return os.environ.get("OMP_NUM_THREADS"), {pool["num_threads"] for pool in threadpool_info()}


def test_inner_threads_are_limited_on_the_worker() -> None:
    for limit in (1, 3):
        with joblib.parallel_config(backend="flash", n_jobs=2, workers=(2, 2), inner_max_num_threads=limit):
            for variable, pools in Parallel()(delayed(threads)(i) for i in range(4)):
                assert variable == str(limit)
                assert pools <= {limit, min(limit, joblib.cpu_count())}


def test_errors_timeouts_and_dropped_generators_leave_it_usable() -> None:
    with Parallel(n_jobs=2, backend=flash_joblib.FlashBackend(workers=(2, 2), retries=1, backoff=0.01)) as parallel:
        with pytest.raises(ZeroDivisionError):
            parallel(delayed(divmod)(1, i % 5) for i in range(20))
        assert parallel(delayed(divmod)(7, 2) for _ in range(3)) == [(3, 1)] * 3
    hasty = Parallel(n_jobs=2, backend="flash", timeout=1)
    with pytest.raises(ParallelTimeoutError):
        hasty(delayed(time.sleep)(60) for _ in range(4))
    dropped = Parallel(n_jobs=2, backend="flash", return_as="generator")(delayed(time.sleep)(0.1) for _ in range(500))
    assert [next(dropped) for _ in range(3)] == [None] * 3
    with pytest.warns(UserWarning, match="cancelled"):
        dropped.close()
    assert Parallel(n_jobs=2, backend="flash")(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]


@pytest.mark.parametrize("transport", ["queue", "load_balanced"])
def test_refilled_buffers(transport: str) -> None:
    def inputs() -> Iterator[Any]:
        buffer = np.zeros(20_000)
        for i in range(30):
            buffer[:] = i
            yield delayed(np.max)(buffer)

    with joblib.parallel_config(backend="flash", n_jobs=2, transport=transport):
        assert Parallel()(inputs()) == list(range(30))
