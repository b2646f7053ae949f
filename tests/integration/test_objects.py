# SPDX-License-Identifier: Apache-2.0
"""Large arguments, closures and results on the local platform, with real workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import scipy.sparse  # type: ignore[import-untyped]

import flash_plugins
from flash_plugins import Endpoint, process

#: Generous: the box may be busy.
DEADLINE_S = 60.0

endpoint = Endpoint(name="objects", cpu="cpu5c-4-8", workers=(0, 1))
streams = Endpoint(name="objects-streams", cpu="cpu5c-4-8", workers=(0, 1))

Array = np.ndarray[Any, np.dtype[np.float64]]
table: Array = np.arange(1_000_000.0)


@endpoint
def total(x: Any) -> float:
    return float(x.sum())


@endpoint
def spoil(x: Array) -> float:
    before = float(x[0])
    x[:] = -1
    return before


@endpoint
def same(x: Any) -> Any:
    return x


@endpoint
def column(number: int) -> float:
    return float(table[number])


@endpoint
def sizes(values: dict[str, Any]) -> dict[str, int]:
    return {name: len(value) for name, value in values.items()}


@endpoint
class Model:
    def __init__(self, weights: Array) -> None:
        self.weights = weights

    def predict(self, x: Array) -> Array:
        return self.weights * x


@streams
def arrays(count: int) -> Iterator[Array]:
    for number in range(count):
        yield np.full(700_000, float(number))


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    yield
    flash_plugins.close()


@pytest.fixture(scope="module")
def store() -> Path:
    assert total(np.zeros(1_000_000)).result(DEADLINE_S) == 0
    url = process.session().objects.space().url
    assert url is not None
    return Path(urlsplit(url).path)


def stored_bytes(store: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(store / "objects"))


def test_an_array_travels_by_its_content(store: Path) -> None:
    before = stored_bytes(store)
    x: Array = np.random.default_rng(1).random(1_000_000)
    calls = [total(x), total(x.copy()), total(x.reshape(1000, 1000))]
    assert [call.result(DEADLINE_S) for call in calls] == pytest.approx([x.sum()] * 3)
    assert stored_bytes(store) - before == x.nbytes
    assert calls[0].payload_bytes > x.nbytes > calls[1].payload_bytes


def test_each_call_sees_what_the_array_was_when_it_was_made(store: Path) -> None:
    x: Array = np.zeros(100_000)
    calls = []
    for number in range(8):
        x[:] = number
        calls.append(total(x))
    assert [call.result(DEADLINE_S) for call in calls] == [number * 100_000 for number in range(8)]


def test_what_a_call_writes_to_its_argument_is_seen_by_no_other(store: Path) -> None:
    x: Array = np.ones(100_000)
    assert [call.result(DEADLINE_S) for call in [spoil(x), spoil(x), spoil(x)]] == [1, 1, 1]
    assert x[0] == 1


def test_a_large_closure_is_stored_once(store: Path) -> None:
    before = stored_bytes(store)
    calls = [column(number) for number in range(30)]
    assert [call.result(DEADLINE_S) for call in calls] == list(range(30))
    assert stored_bytes(store) - before <= table.nbytes
    table[5] = -5.0
    assert column(5).result(DEADLINE_S) == -5
    table[5] = 5.0
    assert column(5).result(DEADLINE_S) == 5


def test_other_large_values_go_the_same_way(store: Path) -> None:
    values = {
        "texts": [str(number) for number in range(100_000)],
        "bytes": b"x" * 3_000_000,
        "dict": {number: str(number) for number in range(50_000)},
        "array": np.zeros(100_000),
    }
    call = sizes(values)
    assert call.result(DEADLINE_S) == {name: len(value) for name, value in values.items()}
    matrix = scipy.sparse.random(2000, 2000, density=0.05, random_state=0, format="csr")
    assert total(matrix).result(DEADLINE_S) == pytest.approx(matrix.sum())
    before = stored_bytes(store)
    assert sizes(dict(values)).result(DEADLINE_S)["texts"] == 100_000
    assert stored_bytes(store) == before


def test_a_large_result_is_mapped_and_can_be_written_to(store: Path) -> None:
    x: Array = np.arange(1_000_000.0)
    once, again = same(x), same(x)
    first, second = once.result(DEADLINE_S), again.result(DEADLINE_S)
    first[0] = 99
    assert second[0] == 0
    assert not first.flags.owndata
    assert (second == x).all()


def test_a_result_is_an_argument_without_another_copy(store: Path) -> None:
    x: Array = np.arange(500_000.0)
    first = same(x).result(DEADLINE_S)
    before = stored_bytes(store)
    assert total(same(first).result(DEADLINE_S)).result(DEADLINE_S) == x.sum()
    assert stored_bytes(store) == before


def test_an_instance_holds_a_large_array(store: Path) -> None:
    model: Any = Model(np.full(200_000, 2.0))
    assert model.predict(np.ones(200_000)).result(DEADLINE_S).sum() == 400_000


def test_large_values_are_yielded(store: Path) -> None:
    assert [value[0] for value in arrays(4)] == [0, 1, 2, 3]
    assert [value.sum() for value in arrays(3).result(DEADLINE_S)] == [0, 700_000, 1_400_000]


def test_what_was_removed_from_the_store_is_put_back(store: Path) -> None:
    x: Array = np.arange(300_000.0)
    before = {entry.name for entry in os.scandir(store / "objects")}
    call = total(x)
    for entry in os.scandir(store / "objects"):
        if entry.name not in before:
            os.unlink(entry.path)
    assert call.result(DEADLINE_S) == x.sum()


def test_what_a_call_sent_is_held_until_it_is_over(store: Path) -> None:
    x: Array = np.arange(400_000.0)
    before = {entry.name for entry in os.scandir(store / "objects")}
    call = total(x)
    (new,) = [entry for entry in os.scandir(store / "objects") if entry.name not in before]
    assert new.stat().st_nlink == 2 or call.done()
    assert call.result(DEADLINE_S) == x.sum()
    assert os.stat(new.path).st_nlink == 1


def test_the_folder_goes_with_the_platform(store: Path) -> None:
    assert store.exists()
    flash_plugins.close()
    assert not store.exists()
    assert column(7).result(DEADLINE_S) == 7  # on another platform, with another folder
