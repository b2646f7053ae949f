# SPDX-License-Identifier: Apache-2.0
"""`put` and `get`: handles that arrive as the values they stand for, with real workers."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flash_plugins
from flash_plugins import ConfigError, Endpoint, ObjectRef, UnpicklableError, get, process, put

#: Generous: the box may be busy.
DEADLINE_S = 60.0

endpoint = Endpoint(name="references", cpu="cpu5c-4-8", workers=(0, 1))

Array = np.ndarray[Any, np.dtype[np.float64]]


class Holder:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


@endpoint
def kinds(*values: Any, **named: Any) -> list[str]:
    found: list[str] = []

    def look(value: Any) -> None:
        if isinstance(value, list | tuple):
            for one in value:
                look(one)
        elif isinstance(value, dict):
            look(list(value.values()))
        elif isinstance(value, Holder):
            look(vars(value))
        elif callable(value):
            look(value())
        else:
            found.append(type(value).__name__)

    look([values, named])
    return found


@endpoint
def total(x: Any) -> float:
    return float(x.sum())


@endpoint
def stored(size: int) -> Any:
    return [flash_plugins.put(np.arange(float(size))), "beside"]


@endpoint
def inner_kinds(refs: Any) -> list[str]:
    return kinds(refs, [refs], size=len(get(refs)) if isinstance(refs, ObjectRef) else len(refs)).result()


@endpoint
def keeps_a_handle(size: int) -> list[str]:
    ref = put(np.zeros(size))
    lambda_of_no_pickle = iter([1])
    return kinds(ref, {"a": [ref]}).result() + kinds(ref, lambda: lambda_of_no_pickle and "text").result()


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    yield
    flash_plugins.close()


def returns(value: Any) -> Any:
    return value


@pytest.mark.parametrize("size", [10, 200_000], ids=["small", "large"])
def test_a_handle_arrives_as_the_value_wherever_it_is(size: int) -> None:
    ref = put(np.arange(float(size)))
    closure = lambda: ref  # noqa: E731 - a function of this very place
    call = kinds(ref, [ref, (ref,)], {"a": ref}, Holder(x=ref), closure, functools.partial(returns, ref), named=ref)
    assert call.result(DEADLINE_S) == ["ndarray"] * 8


def test_one_handle_is_one_object_there() -> None:
    ref = put(np.arange(200_000.0))

    @endpoint
    def are_one(first: Any, second: Any) -> bool:
        return first is second

    assert are_one(ref, ref).result(DEADLINE_S)


def test_get_returns_the_values(tmp_path: Path) -> None:
    x: Array = np.arange(200_000.0)
    ref: ObjectRef[Any] = put({"x": x, "y": [1]})
    x[0] = 99
    value = get(ref)
    assert (value["x"][0], value["y"]) == (0, [1])
    assert get(ref) is not value
    assert get([put(1), put("two")]) == [1, "two"]
    assert ref.size_bytes > x.nbytes
    assert repr(ref).startswith("<ObjectRef of 16")
    assert copy.deepcopy([ref])[0] is ref


@pytest.mark.parametrize("wrong", [5, "text", [1, 2], {"a": 1}, None])
def test_what_is_no_handle_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"get\(.*give what put\(\) returned"):
        get(wrong)


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(UnpicklableError, match=r"the value of put\(\).*\['lock'\]"):
        put({"lock": threading.Lock()})


def test_what_is_put_is_kept_as_long_as_somebody_has_the_handle() -> None:
    ref = put(np.random.default_rng(3).random(100_000))
    space = process.session().objects.space()
    space.cache.evict(most_bytes=0)
    assert get(ref).shape == (100_000,)
    names = [one.digest for one in ref.refs]
    del ref
    space.lease(()).release()
    put(np.zeros(10_000))  # what was given up is let go with the next thing that is stored
    space.cache.evict(most_bytes=0)
    assert not {entry.ref.digest for entry in space.cache.entries()} & set(names)


def test_a_result_may_hold_handles() -> None:
    ref, beside = stored(300_000).result(DEADLINE_S)
    assert beside == "beside"
    assert isinstance(ref, ObjectRef)
    process.session().objects.space().cache.evict(most_bytes=0)
    assert get(ref).sum() == total(ref).result(DEADLINE_S) == np.arange(300_000.0).sum()


def test_calls_in_place_get_values_too() -> None:
    ref = put(np.zeros(200_000))
    assert inner_kinds(ref).result(DEADLINE_S) == ["ndarray", "ndarray", "int"]
    assert keeps_a_handle(5).result(DEADLINE_S) == ["ndarray", "ndarray", "ndarray", "str"]


def test_a_handle_outlives_its_platform() -> None:
    ref = put(np.arange(250_000.0))
    flash_plugins.close()
    assert get(ref)[5] == 5
    assert total(ref).result(DEADLINE_S) == np.arange(250_000.0).sum()
