# SPDX-License-Identifier: Apache-2.0
"""Many calls from lazy inputs: order, back-pressure, and every way in which the iteration can end."""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from flash_plugins import Call, ConfigError, Endpoint, JobCancelled, MapIterator, mapping
from flash_plugins.code import dumps
from flash_plugins.failure import encode_exception
from flash_plugins.payload import Outcome


class Function:
    """A decorated function whose calls end when a test says so."""

    def __init__(self, *, size_bytes: int = 0) -> None:
        self.calls: list[Call[Any]] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.size_bytes = size_bytes

    def __call__(self, *arguments: Any) -> Call[Any]:
        if arguments == ("unpicklable",):
            raise TypeError("cannot pickle it")
        call: Call[Any] = Call(
            endpoint_name="e", function_name="f", number=len(self.calls), payload_bytes=self.size_bytes
        )
        self.calls.append(call)
        self.arguments.append(arguments)
        return call

    def map(self, *iterables: Any, **options: Any) -> MapIterator[Any]:
        return MapIterator(self, iterables, **{"order": "input", "return_exceptions": False, "window": None, **options})

    def end(self, index: int, value: object = None, *, error: BaseException | None = None) -> None:
        """End a call with a value (its arguments by default) or an exception."""
        if error is not None:
            self.calls[index]._settle(Outcome(failure=encode_exception(error)))
            return
        value = self.arguments[index] if value is None else value
        self.calls[index]._settle(Outcome(result=dumps(value, what="a value").data))


@pytest.fixture
def function() -> Function:
    return Function()


def in_thread(results: MapIterator[Any], seen: list[Any]) -> None:
    for value in results:
        seen.append(value)


def in_coroutine(results: MapIterator[Any], seen: list[Any]) -> None:
    async def iterate() -> None:
        async for value in results:
            seen.append(value)

    asyncio.run(iterate())


Iterate = Callable[[MapIterator[Any], list[Any]], None]


@pytest.mark.parametrize("order", ["input", "completed"])
def test_no_inputs_are_no_results(function: Function, order: str) -> None:
    assert list(function.map([], order=order)) == []
    assert list(function.map([], [1, 2], order=order)) == []

    async def main() -> list[Any]:
        return [value async for value in function.map([], order=order)]

    assert asyncio.run(main()) == []
    assert function.calls == []


def test_a_map_of_nothing_at_all_is_an_error(function: Function) -> None:
    with pytest.raises(ConfigError, match="at least one iterable"):
        function.map()


@pytest.mark.parametrize("order", ["inputs", "", None, 1, "COMPLETED"])
def test_a_bad_order_is_an_error(function: Function, order: Any) -> None:
    with pytest.raises(ConfigError, match="input, completed"):
        function.map([1], order=order)
    assert function.calls == []


@pytest.mark.parametrize("window", [0, -1, 1.5, "5", True])
def test_a_bad_window_is_an_error(function: Function, window: Any) -> None:
    with pytest.raises(ConfigError, match="whole number of calls, at least 1"):
        function.map([1], window=window)
    assert function.calls == []


def test_a_decorated_function_checks_its_options() -> None:
    made: Any = Endpoint(name="e")(lambda x: x)
    for options in ({"order": "random"}, {"window": 0}):
        with pytest.raises(ConfigError):
            made.map([1], **options)
    with pytest.raises(ConfigError):
        made.map()
    with pytest.raises(TypeError):
        made.map(5)


def test_calls_begin_before_anybody_iterates(function: Function) -> None:
    results = function.map([1, 2, 3])
    assert function.arguments == [(1,), (2,), (3,)]
    results.close()


def test_several_iterables_are_taken_together_and_the_shortest_ends(function: Function) -> None:
    results = function.map([1, 2, 3], itertools.count(10))
    assert function.arguments == [(1, 10), (2, 11), (3, 12)]
    results.close()


def test_results_come_in_the_order_of_the_inputs(function: Function) -> None:
    results = function.map("abc")
    for index in (2, 0, 1):
        function.end(index)
    assert list(results) == [("a",), ("b",), ("c",)]
    assert list(results) == []


def test_results_come_as_they_are_completed(function: Function) -> None:
    results = function.map("abc", order="completed")
    for index in (2, 0, 1):
        function.end(index)
    assert list(results) == [("c",), ("a",), ("b",)]


@pytest.mark.parametrize("order", ["input", "completed"])
def test_equal_results_are_all_delivered(function: Function, order: str) -> None:
    results = function.map(range(5), order=order)
    for index in range(5):
        function.end(index, "same")
    assert list(results) == ["same"] * 5


@pytest.mark.parametrize("order", ["input", "completed"])
def test_inputs_are_taken_as_results_are_consumed(function: Function, order: str) -> None:
    results = function.map(itertools.count(), window=3, order=order)
    assert len(function.calls) == 3
    for index in range(20):
        function.end(index)
        assert next(results) == (index,)
        assert len(function.calls) == index + 3  # the next input is read when the next result is asked for
    results.close()


def test_more_calls_are_ahead_where_results_are_taken_fast(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(mapping, "time", SimpleNamespace(monotonic=lambda: now))
    results = function.map(itertools.count())
    places = itertools.count()

    def take(count: int) -> None:
        for place in itertools.islice(places, count):
            function.end(place)
            assert next(results) == (place,)

    def ahead() -> int:
        """Return how many calls are ahead of one that waits."""
        place = next(places)

        def end_when_no_more_come() -> None:
            before = -1
            while len(function.calls) > before:
                before = len(function.calls)
                threading.Event().wait(0.3)
            function.end(place)

        ending = threading.Thread(target=end_when_no_more_come)
        ending.start()
        next(results)
        ending.join()
        return len(function.calls) - place

    assert ahead() == 400
    take(599)
    now += 0.5
    take(1)  # 601 results in half a second
    assert ahead() == 1_202
    take(6_000)
    now += 1.0
    take(1)
    assert ahead() == 5_000
    now += 100.0
    take(1)
    take(4_990)  # which are ahead already
    assert ahead() == 400
    results.close()


def test_large_arguments_are_not_taken_far_ahead() -> None:
    function = Function(size_bytes=50_000_000)
    results = function.map(itertools.count())
    assert len(function.calls) == 16
    function.end(0)
    function.end(1)
    next(results)
    assert len(function.calls) == 16
    next(results)
    assert len(function.calls) == 17
    results.close()


@pytest.mark.parametrize("order", ["input", "completed"])
def test_an_exception_ends_the_iteration_and_cancels_the_rest(function: Function, order: str) -> None:
    results = function.map(range(4), order=order)
    function.end(0)
    function.end(1, error=KeyError("x"))
    assert next(results) == (0,)
    with pytest.raises(KeyError, match="x"):
        next(results)
    assert [call.cancelled() for call in function.calls] == [False, False, True, True]
    assert list(results) == []


@pytest.mark.parametrize("order", ["input", "completed"])
def test_exceptions_can_be_results(function: Function, order: str) -> None:
    results = function.map(range(4), order=order, return_exceptions=True)
    function.end(0)
    function.end(1, error=KeyError("x"))
    function.calls[2].cancel()
    function.end(3)
    first, second, third, fourth = results
    assert (first, fourth) == ((0,), (3,))
    assert isinstance(second, KeyError)
    assert isinstance(third, JobCancelled)


@pytest.mark.parametrize("order", ["input", "completed"])
@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_a_function_that_raises_stop_iteration_does_not_end_the_map_quietly(
    function: Function, kind: type[Exception], order: str
) -> None:
    results = function.map(range(2), order=order)
    function.end(0, error=kind("over"))
    with pytest.raises(RuntimeError, match=kind.__name__) as caught:
        list(results)
    assert isinstance(caught.value.__cause__, kind)
    again = function.map(range(1), order=order)
    function.end(2, error=kind("over"))

    async def main() -> list[Any]:
        return [value async for value in again]

    with pytest.raises(RuntimeError):
        asyncio.run(main())
    returned = function.map(range(1), order=order, return_exceptions=True)
    function.end(3, error=kind("over"))
    assert [type(value) for value in returned] == [kind]


@pytest.mark.parametrize("order", ["input", "completed"])
def test_leaving_the_loop_cancels_the_rest(function: Function, order: str) -> None:
    for _ in (1,):
        results = function.map(range(3), order=order)
        function.end(0)
        for value in results:
            assert value == (0,)
            break
        del results
    assert [call.cancelled() for call in function.calls] == [False, True, True]


@pytest.mark.parametrize("order", ["input", "completed"])
def test_close_cancels_and_the_iteration_is_over(function: Function, order: str) -> None:
    results = function.map(itertools.count(), window=3, order=order)
    results.close()
    results.close()
    assert all(call.cancelled() for call in function.calls)
    assert list(results) == []
    assert len(function.calls) == 3


@pytest.mark.parametrize("order", ["input", "completed"])
@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize("iterate", [in_thread, in_coroutine])
def test_inputs_that_fail_do_so_after_the_results_of_those_before(
    function: Function, order: str, returns: bool, iterate: Iterate
) -> None:
    def inputs() -> Iterator[int]:
        yield 1
        yield 2
        raise ZeroDivisionError("in the inputs")

    results, seen = function.map(inputs(), order=order, return_exceptions=returns), list[Any]()
    function.end(0)
    function.end(1)
    with pytest.raises(ZeroDivisionError):
        iterate(results, seen)
    assert seen == [(1,), (2,)]
    assert list(results) == []


@pytest.mark.parametrize("order", ["input", "completed"])
@pytest.mark.parametrize("iterate", [in_thread, in_coroutine])
def test_an_input_that_cannot_be_pickled_cancels_those_after_it(
    function: Function, order: str, iterate: Iterate
) -> None:
    results, seen = function.map([1, "unpicklable", 2], order=order), list[Any]()
    function.end(0)
    with pytest.raises(TypeError, match="cannot pickle"):
        iterate(results, seen)
    assert seen == ([(1,)] if order == "input" else [])
    assert function.calls[1].cancelled()
    assert list(results) == []


@pytest.mark.parametrize("order", ["input", "completed"])
@pytest.mark.parametrize("iterate", [in_thread, in_coroutine])
def test_an_input_that_cannot_be_pickled_can_be_an_exception_in_its_place(
    function: Function, order: str, iterate: Iterate
) -> None:
    results = function.map(["unpicklable", 1, "unpicklable", 2], order=order, return_exceptions=True)
    seen: list[Any] = []
    function.end(0)
    function.end(1)
    iterate(results, seen)
    kinds = [type(value) for value in seen]
    if order == "completed":
        kinds.sort(key=str)
        assert kinds == [TypeError, TypeError, tuple, tuple]
    else:
        assert kinds == [TypeError, tuple, TypeError, tuple]


def test_settings_that_allow_no_call_are_an_error_at_once() -> None:
    def refuse(*_: Any) -> Call[Any]:
        raise ConfigError("no worker")

    with pytest.raises(ConfigError, match="no worker"):
        MapIterator(refuse, [[1]], order="input", return_exceptions=True, window=None)


@pytest.mark.parametrize("order", ["input", "completed"])
@pytest.mark.parametrize("iterate", [in_thread, in_coroutine])
def test_an_input_may_depend_on_the_result_before(function: Function, order: str, iterate: Iterate) -> None:
    seen: list[Any] = []

    def end(n: int) -> None:
        while len(function.arguments) <= n:
            threading.Event().wait(0.001)  # until the call was made
        function.end(n)

    def inputs() -> Iterator[int]:
        for n in range(5):
            assert len(seen) == n
            threading.Thread(target=end, args=[n]).start()
            yield n

    iterate(function.map(inputs(), order=order, window=1), seen)
    assert seen == [(n,) for n in range(5)]


@pytest.mark.parametrize("order", ["input", "completed"])
@pytest.mark.parametrize("iterate", [in_thread, in_coroutine])
def test_a_slow_source_delays_no_result_by_more_than_one_input(
    function: Function, order: str, iterate: Iterate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "_FIRST_READING_S", 0.0)  # as if one input took longer
    seen: list[Any] = []

    def inputs() -> Iterator[int]:
        for n in range(6):
            if n:
                function.end(n - 1)  # while the next one is waited for
            assert len(seen) >= n - 2
            yield n
        function.end(5)

    results = function.map(inputs(), order=order)
    assert len(function.calls) == 1
    iterate(results, seen)
    assert seen == [(n,) for n in range(6)]


def test_a_loop_goes_on_between_two_inputs(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "_FIRST_READING_S", 0.0)
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def inputs() -> Iterator[int]:
        for n in range(10):
            assert turns >= n - 1
            yield n
        for n in range(10):
            function.end(n)

    async def main() -> list[Any]:
        ticking = asyncio.create_task(tick())
        try:
            return [value async for value in function.map(inputs())]
        finally:
            ticking.cancel()

    assert len(asyncio.run(main())) == 10


@pytest.mark.parametrize("order", ["input", "completed"])
def test_an_iterator_that_is_dropped_amid_a_loop_cancels_the_rest(function: Function, order: str) -> None:
    async def main() -> None:
        async for value in function.map(itertools.count(), order=order, window=3):
            assert value == (0,)
            break

    function_map = function.map
    made: list[weakref.ref[Any]] = []

    def remembered(*arguments: Any, **options: Any) -> MapIterator[Any]:
        results = function_map(*arguments, **options)
        made.append(weakref.ref(results))
        function.end(0)
        return results

    function.map = remembered  # type: ignore[method-assign]
    asyncio.run(main())
    assert made[0]() is None
    assert [call.cancelled() for call in function.calls] == [False, True, True]


def test_ctrl_c_while_waiting_for_any_result_cancels_everything(
    function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = function.map(range(3), order="completed")
    interrupts: list[int] = []
    for call in function.calls:
        monkeypatch.setattr(call, "_interrupt", lambda: interrupts.append(1))

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results._arrivals, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert interrupts == [1]
    assert all(call.cancelled() for call in function.calls)


def test_ctrl_c_while_waiting_cancels_the_rest(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    results = function.map(range(3))

    def interrupted(timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(function.calls[0], "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert all(call.cancelled() for call in function.calls)


@pytest.mark.parametrize("order", ["input", "completed"])
def test_a_thread_waits_for_results(function: Function, order: str) -> None:
    results = function.map(range(3), order=order)
    thread = threading.Thread(target=lambda: list(map(function.end, range(3))))
    thread.start()
    assert list(results) == [(0,), (1,), (2,)]
    thread.join()


@pytest.mark.parametrize("order", ["input", "completed"])
def test_a_coroutine_waits_for_results_without_blocking_its_loop(function: Function, order: str) -> None:
    async def main() -> list[Any]:
        results = function.map(itertools.count(), window=2, order=order)
        seen = []
        asyncio.get_running_loop().call_later(0.01, function.end, 0)
        async for value in results:
            seen.append(value)
            if len(seen) == 5:
                break
            asyncio.get_running_loop().call_soon(function.end, len(seen))
        results.close()
        return seen

    assert asyncio.run(main()) == [(index,) for index in range(5)]


@pytest.mark.parametrize("order", ["input", "completed"])
def test_a_cancelled_coroutine_cancels_the_calls(function: Function, order: str) -> None:
    async def main() -> None:
        async for _ in function.map(range(3), order=order):
            pass

    async def limited() -> None:
        await asyncio.wait_for(main(), 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(limited())
    assert all(call.cancelled() for call in function.calls)


@pytest.mark.parametrize("order", ["input", "completed"])
def test_an_exception_in_a_coroutine_cancels_the_rest(function: Function, order: str) -> None:
    async def main() -> None:
        async for _ in function.map(range(3), order=order):
            raise AssertionError("no value was due")

    async def failing() -> None:
        asyncio.get_running_loop().call_soon(lambda: function.end(0, error=KeyError("x")))
        await main()

    with pytest.raises(KeyError):
        asyncio.run(failing())
    assert [call.cancelled() for call in function.calls] == [False, True, True]


def test_a_thousand_results_in_a_shuffled_order(function: Function) -> None:
    ended = threading.Event()

    def end_all() -> None:
        index = 0
        while not ended.is_set():
            if index < len(function.calls):
                function.end(index)
                index += 1

    thread = threading.Thread(target=end_all)
    thread.start()
    try:
        assert sorted(function.map(range(1_000), order="completed", window=7)) == [(n,) for n in range(1_000)]
    finally:
        ended.set()
        thread.join()
