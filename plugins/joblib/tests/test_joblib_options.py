# SPDX-License-Identifier: Apache-2.0
"""How the backend is made: three ways, options in each, what they mean for the number of workers."""

from __future__ import annotations

import importlib.metadata
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import flash_joblib
import joblib
import pytest
from flash_joblib.options import BackendOptions
from joblib import Parallel, delayed
from joblib.parallel import BACKENDS

from flash_plugins import ConfigError, Endpoint, UnknownParameterError


def double(x: int) -> int:
    return 2 * x


def by_constructor(**options: Any) -> object:
    return flash_joblib.FlashBackend(**options)


def by_context(**options: Any) -> object:
    with joblib.parallel_config(backend="flash", n_jobs=2, **options) as config:
        return config["backend"]


def by_old_context(**options: Any) -> object:
    with joblib.parallel_backend("flash", n_jobs=2, **options) as (backend, _):
        return backend


def by_parallel(**options: Any) -> object:
    return Parallel(n_jobs=2, backend="flash", **options)([delayed(double)(1)])


WAYS = [by_constructor, by_context, by_old_context]
if "backend_kwargs" in inspect.signature(Parallel).parameters:  # since joblib 1.5
    WAYS.append(by_parallel)
EVERY_WAY = pytest.mark.parametrize("make", WAYS)


def test_the_class_itself_is_registered() -> None:
    assert BACKENDS["flash"] is flash_joblib.FlashBackend


@EVERY_WAY
def test_an_unknown_option_is_refused_with_a_suggestion(make: Callable[..., object]) -> None:
    with pytest.raises(UnknownParameterError, match="did you mean 'idle_timeout'"):
        make(idle_timeot=30)
    with pytest.raises(UnknownParameterError, match="did you mean 'endpoint'"):
        make(endpiont="mine")


@EVERY_WAY
@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"workers": "two"},
        {"gpu": "NVIDIA H100", "cpu": "cpu5c-4-8"},
        {"endpoint": 3},
        {"endpoint": Endpoint(name="mine"), "workers": 2},
        {"initializer": 3},
    ],
    ids=str,
)
def test_a_bad_value_is_refused_before_anything_is_sent(make: Callable[..., object], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make(**options)


def test_joblibs_own_keywords_are_no_options_of_ours() -> None:
    parallel = Parallel(n_jobs=2, backend="flash", max_nbytes=None, temp_folder="/tmp", mmap_mode="c", prefer="threads")
    assert parallel(delayed(double)(i) for i in range(3)) == [0, 2, 4]


@pytest.mark.parametrize(
    ("n_jobs", "options", "expected"),
    [
        (3, {}, 3),
        (3, {"workers": 2}, 3),
        (-1, {"workers": 5}, 5),
        (-2, {"workers": (1, 5)}, 4),
        (-9, {"workers": 5}, 1),
        (None, {"workers": 5}, 5),
        (-1, {"endpoint": Endpoint(name="mine", workers=(0, 7))}, 7),
        (-1, {}, max(joblib.cpu_count(), 2)),
    ],
)
def test_effective_n_jobs(n_jobs: int | None, options: dict[str, Any], expected: int) -> None:
    assert flash_joblib.FlashBackend(**options).effective_n_jobs(n_jobs) == expected


def test_zero_jobs_have_no_meaning() -> None:
    with pytest.raises(ValueError, match="n_jobs == 0"):
        flash_joblib.FlashBackend().effective_n_jobs(0)


def test_all_workers_are_used_when_nobody_says_how_many() -> None:
    with joblib.parallel_config(backend="flash", workers=4):
        assert Parallel().n_jobs == -1
        assert joblib.effective_n_jobs(-1) == 4


def test_one_job_runs_here_and_in_order() -> None:
    seen: list[int] = []
    assert Parallel(n_jobs=1, backend="flash")(delayed(seen.append)(i) for i in range(4)) == [None] * 4
    assert seen == [0, 1, 2, 3]


def test_shared_memory_is_left_to_threads() -> None:
    with joblib.parallel_config(backend="flash", n_jobs=2):
        assert type(Parallel(require="sharedmem")._backend) is BACKENDS["threading"]
    with pytest.raises(ValueError, match="does not support shared memory"):
        Parallel(backend="flash", require="sharedmem")


def test_a_backend_travels_with_its_options() -> None:
    backend = flash_joblib.FlashBackend(nesting_level=1, inner_max_num_threads=2, workers=3)
    copy = pickle.loads(pickle.dumps(backend))
    assert (copy.nesting_level, copy.inner_max_num_threads, copy.effective_n_jobs(-1)) == (1, 2, 3)


def test_tasks_run_on_the_endpoint_that_was_given() -> None:
    endpoint = Endpoint(
        name="joblib-given", cpu="cpu5c-2-4", workers=(0, 2), scaler_type="REQUEST_COUNT", scaler_value=1
    )
    with joblib.parallel_config(backend="flash", n_jobs=2, endpoint=endpoint):
        parallel = Parallel()
        assert parallel(delayed(double)(i) for i in range(4)) == [0, 2, 4, 6]
    with joblib.parallel_config(backend="flash", n_jobs=2, endpoint="joblib-named"), Parallel() as parallel:
        assert parallel._backend._workers.endpoint_name == "joblib-named"


def test_workers_that_install_what_they_need_need_this_package() -> None:
    endpoint, _ = BackendOptions({}).function(2)
    assert "flash_joblib" in endpoint.config.packages
    entries = importlib.metadata.entry_points(group="flash_plugins.adapters")
    assert [entry.dist.name for entry in entries if entry.dist and entry.name == "flash_joblib"] == [
        "flash-plugins-joblib"
    ]
