# SPDX-License-Identifier: Apache-2.0
"""Pickles whose large parts are elsewhere: what goes there, what comes back, and what stays the same."""

from __future__ import annotations

import pickle
from typing import Any, cast

import numpy as np
import pytest
import scipy.sparse  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from flash_plugins import EnvelopeError
from flash_plugins.code import dumps, loads
from flash_plugins.objects import Ref, digest_of, refs_of
from flash_plugins.objects.codec import is_packed
from flash_plugins.objects.digest import digest_of_view

KB = 1024


class Memory:
    """A sink, and what fetches from it."""

    keeper = 0
    resolves = True

    def __init__(self, threshold_bytes: int = 64 * KB) -> None:
        self.threshold_bytes = threshold_bytes
        self.contents: dict[Ref, bytes] = {}
        self.stored = 0

    def store(self, content: memoryview) -> Ref:
        ref = Ref(digest_of(content), content.nbytes)
        self.contents[ref] = bytes(content)
        self.stored += 1
        return ref

    def again(self, ref: Ref, fetch: object) -> None:
        assert ref in self.contents

    def __call__(self, ref: Ref) -> memoryview:
        return memoryview(bytearray(self.contents[ref]))


class Custom:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def there_and_back(value: Any, memory: Memory) -> Any:
    pickled = dumps(value, what="it", sink=memory)
    assert set(pickled.refs) <= set(memory.contents)
    assert dumps(value, what="it", sink=memory, before=pickled) is pickled
    return loads(pickled.data, fetch=memory)


@pytest.mark.parametrize(
    ("value", "objects"),
    [
        (np.arange(100_000), 1),
        (np.asfortranarray(np.arange(100_000).reshape(1000, 100)), 1),
        ({"a": [np.arange(100_000), np.arange(50_000) * 2.5], "b": np.arange(9)}, 2),
        (Custom(x=np.arange(100_000)), 1),
        (scipy.sparse.random(1000, 1000, density=0.1, random_state=0, format="csr"), 2),
        (b"x" * 100_000, 1),
        (bytearray(b"y" * 100_000), 1),
        ("z" * 100_000, 1),
        (("é" * 100_000, b"x" * 100_000), 2),
    ],
    ids=["array", "fortran", "nested", "custom", "sparse", "bytes", "bytearray", "text", "two"],
)
def test_large_contents_go_elsewhere_at_any_depth(value: Any, objects: int) -> None:
    memory = Memory()
    pickled = dumps(value, what="it", sink=memory)
    assert len(pickled.refs) == objects
    assert len(pickled.data) < 8 * KB
    back = there_and_back(value, memory)
    assert type(back) is type(value)
    assert pickle.dumps(back) == pickle.dumps(value)


def test_an_array_that_arrives_can_be_written_to_unless_it_was_read_only() -> None:
    frozen = np.arange(100_000)
    frozen.flags.writeable = False
    back = there_and_back([np.arange(100_000), frozen], Memory())
    back[0][0] = 7
    assert not back[1].flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        [str(number) for number in range(200_000)],
        list(range(300_000)),
        {number: (number, str(number)) for number in range(50_000)},
        [Custom(number=number) for number in range(20_000)],
    ],
    ids=["texts", "numbers", "dict", "objects"],
)
def test_long_runs_of_small_objects_go_elsewhere(value: Any) -> None:
    memory = Memory()
    pickled = dumps(value, what="it", sink=memory)
    assert len(pickled.data) < 1 * KB + 64 * KB
    assert sum(ref.size for ref in pickled.refs) > 200 * KB
    assert pickle.dumps(there_and_back(value, memory)) == pickle.dumps(value)


def test_what_comes_before_leaves_most_of_a_long_run_the_same() -> None:
    memory, texts = Memory(), [f"text {number}" for number in range(300_000)]
    first, second = dumps((1, texts), what="it", sink=memory), dumps((2, texts), what="it", sink=memory)
    shared = set(first.refs) & set(second.refs)
    assert sum(ref.size for ref in shared) > 0.9 * sum(ref.size for ref in first.refs)


def test_identity_is_kept_across_parts() -> None:
    array, texts = np.arange(100_000), [str(number) for number in range(100_000)]
    back = there_and_back([array, texts, {"again": array, "texts": texts}, texts[500]], Memory())
    assert back[0] is back[2]["again"]
    assert back[1] is back[2]["texts"]
    assert back[3] is back[1][500]


def test_equal_contents_of_different_objects_are_one() -> None:
    memory = Memory()
    array = np.arange(100_000, dtype=np.uint8)
    dumps([array, array.copy(), bytes(array), np.arange(100_000, dtype=np.uint8)], what="it", sink=memory)
    assert len(memory.contents) == 1


def test_a_changed_array_has_another_name() -> None:
    memory, array = Memory(), np.zeros(100_000)
    before = dumps(array, what="it", sink=memory)
    array[5] = 1
    after = dumps(array, what="it", sink=memory, before=before)
    assert after.refs != before.refs
    assert loads(before.data, fetch=memory)[5] == 0  # type: ignore[index]
    assert loads(after.data, fetch=memory)[5] == 1  # type: ignore[index]


def test_comparing_stores_nothing() -> None:
    array = np.zeros(1_000_000)
    memory = Memory()

    def function() -> Any:
        return array

    before = dumps(function, what="it", sink=memory)
    assert memory.stored == 1
    assert len(before.data) < 8 * KB
    for _ in range(3):
        assert dumps(function, what="it", sink=memory, before=before) is before
    assert memory.stored == 1
    array[1] = 1
    assert dumps(function, what="it", sink=memory, before=before) is not before
    assert memory.stored == 2


@pytest.mark.parametrize("value", [5, ((1, "a"), {"k": b"b"}), np.zeros(3), Custom(a=1), "x" * 60_000])
def test_small_values_stay_what_they_were(value: Any) -> None:
    memory = Memory()
    pickled = dumps(value, what="it", sink=memory)
    assert pickled.data == dumps(value, what="it").data
    assert not is_packed(pickled.data)
    assert pickled.refs == ()
    assert memory.stored == 0


def test_the_threshold_is_that_of_the_sink() -> None:
    assert len(dumps(np.zeros(1000), what="it", sink=Memory(8 * KB)).refs) == 0
    assert len(dumps(np.zeros(1024), what="it", sink=Memory(8 * KB)).refs) == 1
    for value in (np.zeros(100_000), b"x" * 500_000, bytearray(500_000), ["text"] * 100 + list(range(100_000))):
        memory = Memory(1000 * KB)
        pickled = dumps(value, what="it", sink=memory)
        assert pickled.refs == ()
        assert pickle.dumps(loads(pickled.data)) == pickle.dumps(value)


def test_the_names_of_the_parts_are_part_of_the_name_of_the_whole() -> None:
    memory = Memory()
    one, other = np.zeros(100_000), np.ones(100_000)
    names = {digest_of(dumps(array, what="it", sink=memory).data) for array in (one, other, one.copy())}
    assert len(names) == 2


@given(st.lists(st.one_of(st.binary(max_size=3000), st.text(max_size=1000), st.integers()), max_size=30), st.data())
def test_any_value_comes_back(values: list[Any], data: st.DataObject) -> None:
    memory = Memory(data.draw(st.sampled_from([1, 10, 100, 1000])))
    values.append(data.draw(st.binary()) * data.draw(st.integers(0, 5000)))
    pickled = dumps((values, np.arange(len(values))), what="it", sink=memory)
    back, counted = cast("tuple[Any, Any]", loads(pickled.data, fetch=memory))
    assert back == values
    assert list(counted) == list(range(len(values)))


def test_a_pickle_that_looks_like_a_frame_comes_back() -> None:
    inner = pickle.dumps(list(range(30_000)), 5)
    values = [inner, b"\x95" + (70_000).to_bytes(8, "little") + bytes(70_000), inner]
    assert there_and_back(values, Memory()) == values


def test_a_damaged_one_is_said_to_be() -> None:
    memory = Memory()
    data = dumps([np.zeros(100_000), "x" * 500], what="it", sink=memory).data
    for damaged in (data[:10], data[:50], data[:-1], data + b"x", b"\xf7xxx" + data[4:]):
        with pytest.raises(EnvelopeError, match="damaged"):
            loads(damaged, fetch=memory)
        with pytest.raises(EnvelopeError, match="damaged"):
            refs_of(damaged)


def test_without_a_store_the_reason_is_said() -> None:
    data = dumps(np.zeros(100_000), what="it", sink=Memory()).data
    with pytest.raises(EnvelopeError, match="no store here"):
        loads(data)


def test_an_array_over_bytes_is_hashed_once() -> None:
    content = bytes(range(256)) * 4000
    fixed = np.frombuffer(content, dtype=np.uint8)
    digest = digest_of_view(fixed.data)
    assert digest_of_view(fixed.data) is digest
    # Only marked read-only, or a copy: the content may change, so it is looked at again.
    marked = fixed.copy()
    marked.flags.writeable = False
    assert digest_of_view(marked.data) == digest
    marked.flags.writeable = True
    marked[0] = 99
    marked.flags.writeable = False
    assert digest_of_view(marked.data) != digest
