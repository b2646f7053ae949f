# SPDX-License-Identifier: Apache-2.0
"""Calls that a worker makes of functions of its own endpoint: they look like calls made anywhere else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from flash_plugins import Call, ConfigError, Endpoint, JobCancelled, StreamCall, inplace
from flash_plugins.platforms import api

here = Endpoint(name="here", cpu="cpu5c-4-8")


@pytest.fixture(autouse=True)
def on_a_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(api.ENDPOINT_NAME_ENV, "here")
    yield
    loop = vars(inplace._of_thread).pop("loop", None)  # a worker keeps it until it ends
    if loop is not None:
        loop.close()


@here
def divide(a: float, b: float) -> float:
    return a / b


@here
async def fib(n: int) -> int:
    await asyncio.sleep(0)
    if n < 2:
        return n
    return sum(await asyncio.gather(fib(n - 1), fib(n - 2)))


@here
def returns_a_coroutine(n: int) -> Any:
    return fib.local(n)


@here
def count(n: int, fail_at: int | None = None) -> Iterator[int]:
    for i in range(n):
        if i == fail_at:
            raise KeyError(i)
        yield i


@here
async def count_later(n: int) -> AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@here
class Model:
    made = 0

    def __init__(self, factor: int) -> None:
        if factor < 0:
            raise ValueError("negative")
        type(self).made += 1
        self.factor = factor

    def predict(self, x: int) -> int:
        return self.factor * x

    async def predict_later(self, x: int) -> int:
        await asyncio.sleep(0)
        return self.factor * x

    def multiples(self, n: int) -> Iterator[int]:
        for i in range(n):
            yield self.factor * i


model: Any = Model  # mypy does not apply decorators of classes


def test_a_value_and_an_exception_are_outcomes() -> None:
    assert divide(6, 3).result(0) == 2
    assert isinstance(divide(1, 0).exception(0), ZeroDivisionError)
    assert isinstance(divide(1, 0, 0).exception(0), TypeError)  # type: ignore[call-arg]
    assert list(divide.map([2, 4], [2, 2])) == [1, 2]


def test_what_ends_the_process_ends_the_caller_too() -> None:
    @here
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_a_coroutine_function_can_be_awaited_in_a_loop() -> None:
    async def main() -> tuple[int, int]:
        return await fib(7), await returns_a_coroutine(5)

    assert asyncio.run(main()) == (13, 5)


def test_a_coroutine_function_runs_to_its_end_where_no_loop_runs() -> None:
    assert fib(7).result(0) == 13
    assert returns_a_coroutine(5).result(0) == 5
    assert list(fib.map(range(5))) == [0, 1, 1, 2, 3]


def test_asking_for_the_outcome_in_the_loop_that_makes_it_is_refused() -> None:
    async def main() -> None:
        call = fib(3)
        with pytest.raises(ConfigError, match="await it"):
            call.result()
        assert await call == 2
        assert call.result() == 2

    asyncio.run(main())


def test_another_thread_may_wait_for_a_coroutine() -> None:
    async def main() -> int:
        call = fib(5)
        return await asyncio.to_thread(call.result, 30)

    assert asyncio.run(main()) == 5


def test_cancelling_a_call_cancels_its_coroutine() -> None:
    seen: list[str] = []

    @here
    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main() -> None:
        call = endless()
        await asyncio.sleep(0)
        assert call.cancel()
        with pytest.raises(JobCancelled):
            await call
        waiting = asyncio.ensure_future(endless())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert seen == ["cancelled"] * 2


@pytest.mark.parametrize("function", [count, count_later])
def test_a_generator_function_gives_a_stream(function: Any) -> None:
    call = function(4)
    assert isinstance(call, Call)
    assert isinstance(call, StreamCall)
    assert list(call) == list(call) == call.result() == [0, 1, 2, 3]
    assert function(3).result() == [0, 1, 2]
    assert list(function.map([1, 2])) == [[0], [0, 1]]


@pytest.mark.parametrize("function", [count, count_later])
def test_a_stream_can_be_consumed_in_a_coroutine(function: Any) -> None:
    async def main() -> tuple[list[int], list[int]]:
        return [value async for value in function(3)], await function(2)

    assert asyncio.run(main()) == ([0, 1, 2], [0, 1])


def test_an_async_stream_is_not_iterated_without_async_in_a_loop() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="async for"):
            list(count_later(3))

    asyncio.run(main())


def test_a_stream_that_raises_gives_first_what_it_yielded() -> None:
    seen: list[int] = []
    with pytest.raises(KeyError):
        seen.extend(count(5, fail_at=2))
    assert seen == [0, 1]
    assert isinstance(count(1, fail_at=0).exception(), KeyError)


def test_leaving_a_stream_closes_the_generator() -> None:
    closed = threading.Event()

    @here
    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    call = endless()
    for _ in call:
        break
    del _
    assert call.cancelled() == closed.is_set()
    call.cancel()
    assert closed.is_set()


def test_one_instance_serves_all_calls_of_a_process() -> None:
    instance = model(3)
    before = Model.local.made  # type: ignore[attr-defined]
    assert instance.predict(2).result() == 6
    assert instance.predict_later(2).result() == 6
    assert list(model(3).multiples(3)) == [0, 3, 6]
    assert model(4).predict(1).result() == 4
    assert Model.local.made == before + 2  # type: ignore[attr-defined]
    assert isinstance(model(-1).predict(1).exception(), ValueError)


class Shop:
    def __init__(self, price: int) -> None:
        self.price = price

    @here
    def total(self, pieces: int) -> int:
        return self.price * pieces


def test_a_method_that_is_decorated_keeps_map_and_local() -> None:
    total: Any = Shop(5).total
    assert total(2).result() == total.local(2) == 10
    assert list(total.map([1, 2])) == [5, 10]
    assert total.__name__ == "total"
    assert Shop.total is Shop.__dict__["total"]
