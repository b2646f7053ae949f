# SPDX-License-Identifier: Apache-2.0
"""What pickles are equal to, and what is said about objects that have none."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import threading
import timeit
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from flash_plugins.code import (
    Pickled,
    dumps,
    loads,
)
from flash_plugins.errors import UnpicklableError
from tests.support import require

WriteFiles = Callable[..., Path]


_ANSWER = 42


class Level(Enum):
    LOW = 1


@dataclass
class Record:
    value: object


@pytest.mark.parametrize(
    "obj",
    [
        None,
        (1, 2.5, "x", b"y", True, None, 3j),
        {"a": [1, {2, 3}], ("t",): frozenset({4})},
        list(range(1000)),
        bytearray(b"z"),
        Level.LOW,
        Record({"nested": [Record(1)]}),
        functools.partial(int, base=2).keywords,
        types.SimpleNamespace(a=1),
        range(3),
        typing.Callable[[int], str],
        list[int],
        ...,
        NotImplemented,
        type(None),
        os.path,
    ],
)
def test_objects_are_equal_after_the_round_trip(obj: object) -> None:
    pickled = dumps(obj, what="obj")

    assert isinstance(pickled, Pickled)
    assert loads(pickled.data) == obj


def test_recursive_containers_survive() -> None:
    loop: list[object] = []
    loop.append(loop)

    copy = typing.cast("list[object]", loads(dumps(loop, what="loop").data))

    assert copy[0] is copy


def test_pickles_of_one_function_are_equal_so_that_they_can_be_sent_once() -> None:
    def f(x: int) -> int:
        return x + _ANSWER

    assert dumps(f, what="f") == dumps(f, what="f")


def test_pickle_of_an_unchanged_object_is_the_one_from_before() -> None:
    np: typing.Any = require("numpy")
    table = np.arange(100_000, dtype=float).reshape(100, -1)
    text = b"x" * 100_000

    def f() -> object:
        return table, table.T, table[::2], text, _ANSWER

    first = dumps(f, what="f")

    assert dumps(f, what="f", before=first) is first
    table[50, 50] = -1
    changed = dumps(f, what="f", before=first)
    assert changed != first
    assert dumps(f, what="f", before=changed) is changed
    text += b"y"
    assert len(dumps(f, what="f", before=changed).data) == len(changed.data) + 1


def test_object_that_became_unpicklable_is_refused_though_it_was_pickled_before() -> None:
    values: list[object] = [1]
    first = dumps(values, what="values")
    values.append(threading.Lock())

    with pytest.raises(UnpicklableError, match="lock"):
        dumps(values, what="values", before=first)


def test_looking_for_changes_of_a_large_array_costs_no_copy() -> None:
    table = require("numpy").zeros(4_000_000)
    first = dumps(table, what="table")

    def again() -> None:
        assert dumps(table, what="table", before=first) is first

    compared = min(timeit.repeat(again, number=1, repeat=7))
    pickled = min(timeit.repeat(lambda: dumps(table, what="table"), number=1, repeat=7))

    assert compared < pickled / 2


class _Model:
    def __init__(self) -> None:
        self.layers: list[object] = [1, 2, types.SimpleNamespace(lock=threading.Lock())]


_LOCK = threading.Lock()


def _uses_global_lock() -> object:
    return _LOCK


def _captures(value: object) -> Callable[[], object]:
    return lambda: value


class _Raises:
    def __reduce__(self) -> typing.NoReturn:
        raise RuntimeError("not today")


class _Drops:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {}


@pytest.mark.parametrize(
    ("make", "path", "type_name"),
    [
        (_Model, ".layers[2].lock is a _thread.lock", "or drop it in __getstate__"),
        (lambda: {"a": {("k", 1): iter_of_nothing()}}, "['a'][('k', 1)] is a generator", "pass a list of its items"),
        (lambda: _uses_global_lock, "global '_LOCK' that _uses_global_lock() uses is", "_thread.lock"),
        (lambda: _captures(_LOCK), "variable 'value' that _captures.<locals>.<lambda>() captures is", "_thread.lock"),
        (lambda: functools.partial(print, 1, file=_LOCK), ".keywords['file'] is a _thread.lock", "inside"),
        (lambda: _Record_with_lock().method, ".__self__.value is a _thread.lock", "inside"),
        (lambda: [0, _Raises()], "[1] is a", "not today"),
        (lambda: threading.Lock(), "it is a _thread.lock", "inside"),
        (lambda: [_Drops(), Record(_LOCK)], "[1].value is a _thread.lock", "inside"),
        (lambda: sys._getframe(), "it is a frame", "cannot pickle 'frame' object"),
    ],
)  # fmt: skip
def test_unpicklable_object_is_named_by_its_path(make: Callable[[], object], path: str, type_name: str) -> None:
    with pytest.raises(UnpicklableError) as caught:
        dumps(make(), what="argument 'model' of fit()")

    message = str(caught.value)
    assert message.startswith("argument 'model' of fit() cannot be pickled: ")
    assert path in message
    assert type_name in message
    assert caught.value.__cause__ is not None


def iter_of_nothing() -> Iterator[int]:
    yield from ()


class _Record_with_lock(Record):
    def __init__(self) -> None:
        super().__init__(threading.Lock())

    def method(self) -> None: ...


def test_open_file_for_writing_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with open(tmp_path / "f", "w") as file, pytest.raises(UnpicklableError, match="pass the path"):
        dumps({"log": file}, what="argument 'x' of f()")


def test_object_nested_too_deeply_is_refused() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(UnpicklableError, match="nested too deeply"):
        dumps(deep, what="argument 'x' of f()")


def test_search_for_the_culprit_ends_on_cyclic_objects() -> None:
    a, b = types.SimpleNamespace(), types.SimpleNamespace()
    a.b, b.a, b.lock = b, a, threading.Lock()

    with pytest.raises(UnpicklableError, match=r"\.b\.lock is a _thread\.lock"):
        dumps(a, what="argument 'x' of f()")


def test_small_plain_values_cost_little() -> None:
    best = min(timeit.repeat(lambda: dumps((1, 2, 3), what="x"), number=2000, repeat=5)) / 2000

    assert best < 20e-6


def test_the_marks_of_dataclasses_stay_themselves() -> None:
    marks = [dataclasses.MISSING, dataclasses.KW_ONLY]
    missing, keyword_only = typing.cast("list[object]", loads(dumps(marks, what="marks").data))
    assert missing is dataclasses.MISSING
    assert keyword_only is dataclasses.KW_ONLY


def test_a_model_does_not_take_the_variables_around_it_along() -> None:
    pydantic = require("pydantic")
    lock = threading.Lock()

    class Item(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        name: str

    assert dumps(Item, what="Item").data
    assert lock is not None
