# SPDX-License-Identifier: Apache-2.0
"""Inputs that change an object between two tasks: each task gets what was in it when it was made."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import flash_joblib
import numpy as np
import pytest
from flash_joblib.parallel_call import SINGLE
from flash_joblib.refills import RefillWatch
from joblib import Parallel, delayed


def first(value: Any) -> Any:
    return value[0]


def keyword(*, value: Any) -> Any:
    return value[0]


def deep(value: Any) -> Any:
    return value["a"][0][0]


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value

    def first(self) -> Any:
        return self.value[0]


def arrays(length: int = 10) -> Iterator[Any]:
    buffer = np.zeros(length)
    for i in range(40):
        buffer[:] = i
        yield delayed(first)(buffer)


def large_arrays() -> Iterator[Any]:
    return arrays(200_000)


def lists() -> Iterator[Any]:
    values = [0]
    for i in range(40):
        values[0] = i
        yield delayed(keyword)(value=values)


def views() -> Iterator[Any]:
    buffer = np.zeros((2, 100))
    for i in range(40):
        buffer[1] = i
        yield delayed(first)(buffer[1, ::2])


def nested() -> Iterator[Any]:
    inner = bytearray(10)
    for i in range(40):
        inner[0] = i
        yield delayed(deep)({"a": [inner]})


def closures() -> Iterator[Any]:
    buffer = np.zeros(10)
    for i in range(40):
        buffer[:] = i
        yield delayed(lambda: buffer[0])()


def methods() -> Iterator[Any]:
    holder = Holder([0])
    for i in range(40):
        holder.value[0] = i
        yield delayed(holder.first)()


def frozen_around() -> Iterator[Any]:
    values = [0]
    for i in range(40):
        values[0] = i
        yield functools.partial(first, values), (), {}


INPUTS = [arrays, large_arrays, lists, views, nested, closures, methods, frozen_around]


@pytest.mark.parametrize("tasks", INPUTS)
def test_each_task_gets_what_was_in_a_refilled_object(tasks: Callable[[], Iterator[Any]]) -> None:
    assert Parallel(n_jobs=2, backend="flash")(tasks()) == list(range(40))


@pytest.mark.parametrize("options", [{"pre_dispatch": "all"}, {"pre_dispatch": 1}, {"return_as": "generator"}], ids=str)
def test_refilled_objects_whatever_is_dispatched_ahead(options: dict[str, Any]) -> None:
    assert list(Parallel(n_jobs=3, backend="flash", **options)(lists())) == list(range(40))


def test_a_refilled_object_in_the_second_call_of_a_parallel() -> None:
    with Parallel(n_jobs=2, backend="flash") as parallel, Parallel(n_jobs=2, backend="flash") as other:
        for _ in range(2):
            many = parallel(delayed(abs)(i) for i in range(2000))
            assert many == list(range(2000))
            assert parallel(lists()) == list(range(40))
            assert other(delayed(abs)(i) for i in range(2000)) == many


def test_objects_changed_between_the_calls_of_a_parallel() -> None:
    array, values, holder = np.zeros(200_000), [0], Holder([[0], 0])
    with Parallel(n_jobs=2, backend="flash") as parallel:
        for i in range(4):
            array[:] = values[0] = holder.value[0][0] = i
            for argument in (array, array[::2], values, [values]):
                assert parallel(delayed(np.max)(argument) for _ in range(3)) == [i] * 3
            assert parallel(delayed(deep)({"a": [array]}) for _ in range(3)) == [i] * 3
            assert parallel(delayed(holder.first)() for _ in range(3)) == [[i]] * 3


def test_a_batch_of_one_is_pickled_before_the_next_task_is_taken() -> None:
    """Whatever the first tasks look like: refilled from the 100th on."""

    def late() -> Iterator[Any]:
        values = [0]
        for i in range(200):
            values[0] = max(i - 100, 0)
            yield delayed(first)(values)

    with_batch = Parallel(n_jobs=2, backend=flash_joblib.FlashBackend(nesting_level=0, batch=1))
    assert with_batch(late()) == [max(i - 100, 0) for i in range(200)]


def test_tasks_that_share_what_does_not_change_are_batched() -> None:
    shared = np.arange(100_000.0)
    settings = {"a": [1, 2]}
    tasks = (delayed(lambda x, s, i: i)(shared, settings, i) for i in range(3000))
    assert Parallel(n_jobs=2, backend="flash")(tasks) == list(range(3000))
    assert flash_joblib.last_run().batches < 300


def watched(tasks: Iterator[Any]) -> bool:
    watch = RefillWatch()
    return [watch.look(next(tasks)) for _ in range(3)][-1]


def test_new_objects_are_no_refilled_ones_though_they_take_the_place_of_old_ones() -> None:
    assert not watched(delayed(first)(np.full(200_000, i)) for i in range(9))
    assert not watched(delayed(first)([i]) for i in range(9))
    assert not watched(delayed(first)({"a": [bytearray([i])]}) for i in range(9))
    assert watched(nested())


def test_what_cannot_be_pickled_is_left_to_those_who_send_it() -> None:
    class Unpicklable:
        def __reduce__(self) -> str:
            raise RuntimeError("stays here")

    assert not watched(delayed(first)(Unpicklable()) for _ in range(9))


def test_watching_does_not_keep_arrays_alive() -> None:
    watch = RefillWatch()
    array = np.zeros(100)
    watch.look((first, (array, [1]), {}))

    alive = weakref.ref(array)
    del array
    assert alive() is None


def test_joblib_takes_one_task_for_a_single() -> None:
    assert SINGLE == 1
    assert (SINGLE * 8, 8 * SINGLE, SINGLE + 1) == (1, 1, 2)
