# SPDX-License-Identifier: Apache-2.0
"""How the backend is made: three ways, options in each, what they mean for the number of workers."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flash_joblib
import joblib
import pytest
from flash_joblib import options as options_module
from flash_joblib.options import BackendOptions
from joblib import Parallel, delayed
from joblib.parallel import BACKENDS

from flash_plugins import ConfigError, Endpoint, JobTimeout, UnknownParameterError
from flash_plugins.config import EndpointParameters


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


def run_by_constructor(tasks: list[Any], **options: Any) -> list[Any]:
    results: list[Any] = Parallel(n_jobs=2, backend=flash_joblib.FlashBackend(**options))(tasks)
    return results


def run_by_context(tasks: list[Any], **options: Any) -> list[Any]:
    with joblib.parallel_config(backend="flash", n_jobs=2, **options):
        results: list[Any] = Parallel()(tasks)
    return results


def run_by_parallel(tasks: list[Any], **options: Any) -> list[Any]:
    results: list[Any] = Parallel(n_jobs=2, backend="flash", **options)(tasks)
    return results


WAYS_OF_CALLING = [run_by_constructor, run_by_context, *([run_by_parallel] if by_parallel in WAYS else [])]
EVERY_WAY_OF_CALLING = pytest.mark.parametrize("run", WAYS_OF_CALLING)


def test_the_class_itself_is_registered() -> None:
    assert BACKENDS["flash"] is flash_joblib.FlashBackend


@EVERY_WAY
def test_an_unknown_option_is_refused_with_a_suggestion(make: Callable[..., object]) -> None:
    with pytest.raises(UnknownParameterError, match="did you mean 'idle_timeout'"):
        make(idle_timeot=30)
    with pytest.raises(UnknownParameterError, match="did you mean 'endpoint'"):
        make(endpiont="mine")
    with pytest.raises(UnknownParameterError, match="did you mean 'retries'"):
        make(retrys=3)
    with pytest.raises(UnknownParameterError, match="did you mean 'endpoint'"):
        make(name="mine")
    with pytest.raises(UnknownParameterError, match="known are: endpoint, batch"):
        make(something=1)


@EVERY_WAY
@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"workers": "two"},
        {"gpu": "NVIDIA H100", "cpu": "cpu5c-4-8"},
        {"endpoint": 3},
        {"endpoint": ""},
        {"endpoint": Endpoint(name="mine"), "workers": 2},
        {"endpoint": Endpoint(id="abc123")},
        {"id": "abc123"},
        {"image": "python:3.11"},
        {"transport": "pigeon"},
        {"dependencies": 3},
        {"dependencies": "auto"},
        {"env": {"A": 1}},
        {"batch": 0},
        {"batch": "many"},
        {"batch": True},
        {"retries": -1},
        {"retries": "twice"},
        {"retry_on": ValueError("no class")},
        {"run_timeout": 0},
        {"queue_timeout": "long"},
        {"idempotent": "yes"},
        {"initializer": 3},
        {"initargs": 3},
    ],
    ids=str,
)
def test_a_bad_value_is_refused_before_anything_is_sent(make: Callable[..., object], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        make(**options)


@pytest.mark.parametrize("make", WAYS[:3])
def test_parameters_of_parallel_are_pointed_out(make: Callable[..., object]) -> None:
    for name, value in (("batch_size", 3), ("timeout", 1), ("pre_dispatch", "all"), ("return_as", "list")):
        with pytest.raises(UnknownParameterError, match=f"Parallel\\({name}={value!r}\\)"):
            make(**{name: value})


def test_routes_leave_no_room_for_tasks() -> None:
    api = Endpoint(name="api")
    api.get("/health")(lambda: "well")
    with pytest.raises(ConfigError, match="has routes"):
        flash_joblib.FlashBackend(endpoint=api)


def test_every_parameter_of_endpoint_is_an_option() -> None:
    given = {name: None for name in EndpointParameters.__annotations__ if name not in ("id", "image")}
    flash_joblib.FlashBackend(**given)
    for name in given:
        with pytest.raises(UnknownParameterError, match=name):
            flash_joblib.FlashBackend(**{name + "_": 1})


def test_hardware_of_a_parallel_replaces_that_of_the_block() -> None:
    assert BackendOptions({"cpu": "cpu5c-2-4"}).merged({"gpu": "4090"}).function(2)[0].config.cpu == ()
    assert BackendOptions({"gpu": "4090"}).merged({"cpu": "cpu5c-2-4"}).function(2)[0].config.gpu == ()
    assert BackendOptions({"cpu": "cpu5c-2-4"}).merged({"gpu": None, "retries": 1}).function(2)[0].config.cpu


def test_the_function_of_an_endpoint_is_made_once() -> None:
    endpoint = Endpoint(name="mine")
    first, second = (BackendOptions({"endpoint": endpoint, "retries": n}).function(2)[1] for n in (0, 3))
    assert first._shipped is second._shipped


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


@EVERY_WAY_OF_CALLING
def test_a_batch_that_fails_is_tried_again(run: Callable[..., list[Any]], tmp_path: Path) -> None:
    def fails_twice(i: int) -> int:
        (tmp_path / f"{i}-{time.time_ns()}").touch()
        if len(list(tmp_path.glob(f"{i}-*"))) < 3:
            raise OSError("not yet")
        return i

    assert run([delayed(fails_twice)(i) for i in range(4)], retries=2, backoff=0.01) == [0, 1, 2, 3]
    with pytest.raises(OSError, match="not yet"):
        run([delayed(fails_twice)(i) for i in range(4, 6)], retries=2, backoff=0.01, retry_on=ValueError)


@EVERY_WAY_OF_CALLING
def test_batches_are_as_large_as_asked_for(run: Callable[..., list[Any]]) -> None:
    run([delayed(double)(i) for i in range(400)], batch=5)
    assert 80 <= flash_joblib.last_run().batches < 100  # joblib makes the first and the last ones smaller
    run([delayed(double)(i) for i in range(12)], batch=1)
    assert flash_joblib.last_run().batches == 12


@EVERY_WAY_OF_CALLING
def test_environment_and_transport_of_workers(run: Callable[..., list[Any]]) -> None:
    told = delayed(lambda: os.environ.get("TOLD"))
    assert run([told() for _ in range(3)], env={"TOLD": "so"}, transport="load_balanced") == ["so"] * 3
    made = [one for one, _ in options_module._functions.values() if one.config.env.get("TOLD") == "so"]
    assert made
    assert {endpoint.transport for endpoint in made} == {"load_balanced"}


def test_a_task_that_takes_too_long_on_its_worker_is_an_error() -> None:
    with joblib.parallel_config(backend="flash", n_jobs=2, run_timeout=0.5), Parallel() as parallel:
        assert parallel(delayed(time.sleep)(0.3) for _ in range(6)) == [None] * 6  # each has the time for itself
        with pytest.raises(JobTimeout):
            parallel(delayed(time.sleep)(30) for _ in range(2))
        assert parallel([delayed(double)(1)]) == [2]


def test_workers_that_install_what_they_need_need_this_package() -> None:
    endpoint, _ = BackendOptions({}).function(2)
    assert "flash_joblib" in endpoint.config.packages
    entries = importlib.metadata.entry_points(group="flash_plugins.adapters")
    assert [entry.dist.name for entry in entries if entry.dist and entry.name == "flash_joblib"] == [
        "flash-plugins-joblib"
    ]
