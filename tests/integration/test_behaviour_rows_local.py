# SPDX-License-Identifier: Apache-2.0
"""What `runpod_flash.Endpoint` does and ours shares, row by row of the table in docs/endpoint.md, with real workers."""

from __future__ import annotations

import asyncio
import os
import traceback
from typing import Any

import pytest

from flash_plugins import Endpoint

#: Generous: the box may be busy.
DEADLINE_S = 60.0

queue = Endpoint(name="rows", cpu="cpu5c-4-8")


@queue
def plain(a: int, b: int = 1) -> int:
    return a + b


@queue
async def later(a: int) -> int:
    await asyncio.sleep(0)
    return a + 1


@queue
def fail(text: str) -> None:
    raise LookupError(text)


@queue
class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, n: int) -> tuple[int, int]:
        self.value += n
        return self.value, os.getpid()

    async def add_later(self, n: int) -> tuple[int, int]:
        return self.add(n)


def test_row_14_a_decorated_function_is_awaited_also_where_it_is_no_coroutine() -> None:
    async def main() -> list[int]:
        return [await plain(1), await plain(1, b=5), await later(1)]

    assert asyncio.run(main()) == [2, 6, 2]


def test_row_14_asyncio_run_takes_the_call_itself() -> None:
    assert asyncio.run(plain(2)) == 3


def test_row_17_calls_go_to_workers_and_on_a_worker_of_its_own_it_is_the_plain_function() -> None:
    @queue
    def twice(a: int) -> tuple[int, int]:
        return plain(a).result(), os.getpid()

    result, pid = twice(3).result(DEADLINE_S)
    assert result == 4
    assert pid != os.getpid()


def test_row_21_a_remote_exception_is_raised_here_with_the_remote_traceback() -> None:
    with pytest.raises(LookupError, match="nothing there") as caught:
        fail("nothing there").result(DEADLINE_S)
    shown = "".join(traceback.format_exception(caught.value))
    assert "raise LookupError(text)" in shown
    assert "test_behaviour_rows_local.py" in shown


def test_row_22_a_class_is_one_instance_for_equal_constructor_arguments() -> None:
    async def main() -> list[tuple[int, int]]:
        counter: Any = Counter(10)
        same: Any = Counter(10)
        other: Any = Counter(100)
        return [await counter.add(1), await same.add_later(1), await other.add(1), await counter.add(1)]

    results = asyncio.run(main())
    assert [value for value, _ in results] == [11, 12, 101, 13]
    assert len({pid for _, pid in results}) == 1


def test_row_22_private_names_are_attribute_errors() -> None:
    counter: Any = Counter(0)
    with pytest.raises(AttributeError, match="private"):
        counter._add  # noqa: B018 - looking is the test
