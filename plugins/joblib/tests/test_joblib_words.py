# SPDX-License-Identifier: Apache-2.0
"""Errors name the user's own task, its place in the iterable and its arguments, never a function of ours."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest
from flash_joblib.batch import BatchReport
from flash_joblib.words import TaskNames, called, noted, reworded_argument, reworded_loss, reworded_result

from flash_plugins import (
    Endpoint,
    EndpointConfig,
    PayloadTooLarge,
    UnpicklableError,
    WorkerLost,
    WorkerStartFailed,
    code,
)


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("nobody shall look at me")


class Holder:
    def __init__(self) -> None:
        self.lock = threading.Lock()


def fit(x: Any, alpha: float = 0.0) -> Any:
    return x, alpha


def other(x: Any) -> Any:
    return x


def refused(value: Any, what: str) -> UnpicklableError:
    with pytest.raises(UnpicklableError) as caught:
        code.dumps(value, what=what)
    return caught.value


def argument_error(*items: Any) -> str:
    indexes = range(10, 10 + len(items))
    return str(reworded_argument(refused(list(items), "argument 'items' of run_batch()"), items, indexes))


def test_a_call_is_shown_without_running_code_of_the_user() -> None:
    text = called(fit, (1, "a" * 100, Shy(), None, 10**100), {"alpha": 0.5, "beta": [1, 2]})
    assert text == f"fit(1, {'a' * 32!r}..., <Shy>, None, <int>, alpha=0.5, beta=<list>)"
    assert called(functools.partial(fit, 1), (), {}) == "partial of fit()"
    assert called(Shy(), (2,), {}) == "Shy(2)"
    assert len(called(fit, tuple(range(1000)), {})) < 200


def test_a_batch_is_named_by_places_and_functions() -> None:
    assert str(TaskNames([(fit, (1,), {})], range(7, 8))) == "joblib task at index 7, fit()"
    mixed = TaskNames([(fit, (1,), {}), (other, (2,), {})], (3, 8))
    assert str(mixed) == "2 joblib tasks at index 3 to 8, fit(), other()"
    assert mixed.of(1) == "joblib task at index 8, other()"


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ((fit, (Holder(),), {}), "fit(<Holder>), cannot be sent to a worker: its argument 'x' (args[0].lock) is a"),
        ((fit, ([1, Holder()],), {}), "its argument 'x' (args[0][1].lock) is a _thread.lock"),
        ((fit, (1,), {"alpha": Holder()}), "its argument 'alpha' (kwargs['alpha'].lock) is a _thread.lock"),
        ((print, (Holder(),), {}), "print(<Holder>), cannot be sent to a worker: its argument 1 (args[0].lock) is"),
        ((functools.partial(fit, Holder()), (1,), {}), "its function (.args[0].lock) is a _thread.lock"),
    ],
)
def test_an_argument_is_named_as_the_user_knows_it(item: Any, words: str) -> None:
    text = argument_error((other, (1,), {}), item)
    assert text.startswith("joblib task at index 11, ")
    assert words in text
    assert text.endswith("; create it inside the function, or drop it in __getstate__")
    assert "run_batch" not in text


def test_what_is_nested_too_deeply_is_one_of_the_tasks() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    text = argument_error((fit, (deep,), {}))
    assert text == (
        "joblib task at index 10, fit(), cannot be sent to a worker: it is nested too deeply; pass it in smaller pieces"
    )


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (threading.Lock(), "index 4, other(), cannot be sent back: it is a _thread.lock"),
        ({"a": Holder()}, "index 4, other(), cannot be sent back: result['a'].lock is a _thread.lock"),
    ],
)
def test_a_result_is_named_by_its_task(result: Any, words: str) -> None:
    error = refused(BatchReport([1, result], 0.1, 0, 1), "the result of run_batch()")
    text = str(reworded_result(error, TaskNames([(other, (1,), {}), (other, (2,), {})], (3, 4))))
    assert words in text
    assert "run_batch" not in text


def test_results_that_are_too_large_are_those_of_tasks() -> None:
    error = PayloadTooLarge("the result of run_batch() takes 30 MB", size_bytes=3, limit_bytes=2)
    again = reworded_result(error, TaskNames([(other, (1,), {})], range(1)))
    assert isinstance(again, PayloadTooLarge)
    assert (again.size_bytes, again.limit_bytes) == (3, 2)
    assert str(again) == "the result of the joblib task at index 0, other(), takes 30 MB"


ONE = Endpoint("words", cpu="cpu5c-4-8").config
FOUR = Endpoint("words", gpu=["NVIDIA L4", "ADA_24"], max_concurrency=4).config


@pytest.mark.parametrize(
    ("count", "step", "reason", "config", "words"),
    [
        (1, None, "signal SIGSEGV", ONE, "the joblib task at index 0, other(), lost its worker: signal SIGSEGV\nWith"),
        (3, 2, "SIGKILL", ONE, "the joblib task at index 2, other(), lost its worker: SIGKILL\nIf it needs more "
         "memory, ask for larger workers (now cpu='cpu5c-4-8') or run less at once. With retries= it is tried again."),
        (3, None, "exit code 3", ONE, "one of the 3 joblib tasks at index 0 to 2, other(), lost its worker: exit code"),
        (3, 3, "exit code 3", ONE, "one of the 3 joblib tasks at index 0 to 2, other(), lost its worker: exit code"),
        (1, None, "exit code 3", FOUR, "Its worker ran up to 4 tasks at once: another may be to blame."),
    ],
)  # fmt: skip
def test_a_lost_worker_is_that_of_a_task(
    count: int, step: int | None, reason: str, config: EndpointConfig, words: str
) -> None:
    names = TaskNames([(other, (1,), {})] * count, range(count))
    error = reworded_loss(WorkerLost("of a call", job_id="job-1", reason=reason, step=step), names, config)
    assert words in str(error)
    assert isinstance(error, WorkerLost)
    assert (error.job_id, error.step) == ("job-1", step)


def test_workers_that_do_not_start_are_no_fault_of_a_task() -> None:
    error = WorkerStartFailed("no such image")
    assert reworded_loss(error, TaskNames([(other, (1,), {})], range(1)), ONE) is error


def test_an_exception_that_does_not_name_its_task_gets_a_note() -> None:
    names = TaskNames([(other, (1,), {})], range(7, 8))
    error = ValueError("x")
    noted(error, names)
    noted(error, names)
    assert error.__notes__ == ["of the joblib task at index 7, other()"]


def test_other_errors_stay_as_they_are() -> None:
    error = ValueError("x")
    assert reworded_result(error, TaskNames([(other, (1,), {})], range(1))) is error
