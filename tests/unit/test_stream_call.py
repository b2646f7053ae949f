# SPDX-License-Identifier: Apache-2.0
"""A stream as its consumer and the lane see it: each value once, in its place, of one run, and not too many ahead."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from flash_plugins import JobCancelled, ResultLost, StreamCall, StreamConsumed
from flash_plugins.code import dumps
from flash_plugins.dispatcher import stream as stream_module
from flash_plugins.dispatcher.lane import Submission
from flash_plugins.failure import encode_exception
from flash_plugins.payload import Outcome

#: Generous: the box may be busy.
DEADLINE_S = 30.0


class FakeSubmission:
    """What a call is sent with."""

    is_sent = True

    def __init__(self) -> None:
        self.cancels = 0
        self.interrupts = 0

    def cancel(self) -> None:
        self.cancels += 1

    def interrupt(self) -> None:
        self.interrupts += 1


@pytest.fixture
def call() -> StreamCall[Any]:
    made: StreamCall[Any] = StreamCall(endpoint_name="e", function_name="f", number=1)
    made.job_id = "job-1"
    made._submission = cast(Submission, FakeSubmission())
    return made


def give(call: StreamCall[Any], content: object, index: int | None = None, run: str | None = None) -> None:
    """Let a value arrive."""
    call._receive(Outcome(chunk=dumps(content, what="a chunk").data, index=index, run=run))


def give_raw(call: StreamCall[Any], content: object, index: int) -> None:
    call._receive(Outcome(chunk=pickle.dumps(content), index=index))


def end(
    call: StreamCall[Any], count: int | None = None, run: str | None = None, collected: tuple[Outcome, ...] = ()
) -> None:
    """Let the end arrive, and the job be finished."""
    call._receive(Outcome(ended=True, count=count, run=run))
    call._settle(call._complete(collected))


def fail(call: StreamCall[Any], error: BaseException) -> None:
    call._settle(Outcome(failure=encode_exception(error)))


async def collected(call: StreamCall[Any]) -> list[Any]:
    return [value async for value in call]


def in_thread(call: StreamCall[Any]) -> list[Any]:
    return list(call)


def in_coroutine(call: StreamCall[Any]) -> list[Any]:
    return asyncio.run(collected(call))


either = pytest.mark.parametrize("iterate", [in_thread, in_coroutine])
Iterate = Callable[[StreamCall[Any]], list[Any]]


# Each value is given out once.


@either
def test_a_result_that_was_taken_as_a_whole_can_be_iterated(call: StreamCall[Any], iterate: Iterate) -> None:
    for n in range(3):
        give(call, n, n)
    end(call, 3)
    assert call.result() == [0, 1, 2]
    assert iterate(call) == iterate(call) == call.result() == [0, 1, 2]
    assert call.exception() is None


@either
def test_values_that_were_iterated_are_not_kept(call: StreamCall[Any], iterate: Iterate) -> None:
    for n in range(3):
        give(call, n, n)
    end(call, 3)
    assert iterate(call) == [0, 1, 2]
    assert not call._chunks
    assert call._waiting_bytes == 0
    for again in (call.result, lambda: iterate(call), lambda: asyncio.run(_awaited(call))):
        with pytest.raises(StreamConsumed, match="given out"):
            again()
    assert call.exception() is None
    assert call.done()


async def _awaited(call: StreamCall[Any]) -> Any:
    return await call


def test_a_whole_result_is_refused_at_once_while_somebody_iterates(call: StreamCall[Any]) -> None:
    give(call, 0, 0)
    values = iter(call)
    assert next(values) == 0
    with pytest.raises(StreamConsumed):
        call.result()
    with pytest.raises(StreamConsumed):
        asyncio.run(_awaited(call))
    with pytest.raises(StreamConsumed):
        next(iter(call))
    assert not call.cancelled()
    give(call, 1, 1)
    end(call, 2)
    assert list(values) == [1]


@either
def test_a_failure_comes_after_the_values_and_can_be_asked_for_again(call: StreamCall[Any], iterate: Iterate) -> None:
    give(call, 0, 0)
    fail(call, KeyError("then"))
    with pytest.raises(KeyError, match="then"):
        iterate(call)
    for ask in (call.result, lambda: asyncio.run(_awaited(call))):
        with pytest.raises(KeyError, match="then"):
            ask()
    assert isinstance(call.exception(), KeyError)


def test_a_stream_can_be_awaited_as_a_whole(call: StreamCall[Any]) -> None:
    async def main() -> Any:
        task = asyncio.create_task(_awaited(call))
        await asyncio.sleep(0)
        give(call, "a", 0)
        end(call, 1)
        return await task

    assert asyncio.run(main()) == ["a"]


def test_a_coroutine_that_leaves_a_stream_cancels_it(call: StreamCall[Any]) -> None:
    give(call, 1)
    give(call, 2)

    async def main() -> None:
        values = aiter(call)
        assert await anext(values) == 1
        await values.aclose()  # type: ignore[attr-defined]

    asyncio.run(main())
    assert call.cancelled()
    assert not call._chunks


def test_a_cancelled_wait_for_a_value_cancels_the_stream(call: StreamCall[Any]) -> None:
    async def main() -> None:
        await asyncio.wait_for(anext(aiter(call)), 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert call.cancelled()


def test_a_loop_that_is_gone_does_not_disturb_what_arrives(call: StreamCall[Any]) -> None:
    loop = asyncio.new_event_loop()
    waiting = [loop.create_task(collected(call))]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    give(call, 0)
    end(call, 1)
    assert call.done()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "call_exception_handler", lambda _: None)  # "Task was destroyed but it is pending"
        waiting.clear()


# What does not unpickle.


class Interrupting:
    """Ctrl-C is pressed while it is unpickled, the first time."""

    presses = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return interrupted_once, ()


def interrupted_once() -> str:
    Interrupting.presses += 1
    if Interrupting.presses == 1:
        raise KeyboardInterrupt
    return "kept"


class Broken:
    def __reduce__(self) -> tuple[Any, ...]:
        return fail_to_unpickle, ()


def fail_to_unpickle() -> None:
    raise ZeroDivisionError("in its class")


def test_ctrl_c_while_values_are_unpickled_does_not_lose_them(
    call: StreamCall[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Interrupting, "presses", 0)
    give(call, "first", 0)
    give_raw(call, Interrupting(), 1)
    end(call, 2)
    with pytest.raises(KeyboardInterrupt):
        call.result()
    assert call.result() == ["first", "kept"]


@either
@pytest.mark.parametrize("is_done", [False, True])
def test_a_value_that_does_not_unpickle_is_the_outcome(call: StreamCall[Any], iterate: Iterate, is_done: bool) -> None:
    submission = cast(FakeSubmission, call._submission)
    give(call, 0, 0)
    give_raw(call, Broken(), 1)
    give(call, 2, 2)
    if is_done:
        end(call, 3)
    with pytest.raises(ZeroDivisionError) as caught:
        iterate(call)
    assert caught.value.__notes__ == ["raised here while a value of f() was unpickled"]
    assert call.exception(0) is caught.value
    with pytest.raises(ZeroDivisionError):
        call.result(0)
    assert call.done()
    assert submission.cancels == (0 if is_done else 1)
    give(call, 3, 3)  # what comes late is nobody's
    assert not call._chunks


def test_a_list_with_a_value_that_does_not_unpickle_is_that_exception(call: StreamCall[Any]) -> None:
    give(call, 0, 0)
    give_raw(call, Broken(), 1)
    end(call, 2)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            call.result()
    assert isinstance(call.exception(), ZeroDivisionError)


# What was lost, came twice, or belongs to another run.


def test_a_value_that_comes_twice_is_taken_once(call: StreamCall[Any]) -> None:
    for index in (0, 0, 1, 1, 2):
        give(call, index, index)
    end(call, 3)
    assert call.result() == [0, 1, 2]


def test_a_value_that_is_missing_is_an_error_that_says_which(call: StreamCall[Any]) -> None:
    give(call, 0, 0)
    give(call, 3, 3)
    with pytest.raises(ResultLost, match=r"2 values after the first 1\b.*repeat the call") as caught:
        end(call, 4)
    assert caught.value.job_id == "job-1"


def test_values_before_one_that_is_missing_are_given_out(call: StreamCall[Any]) -> None:
    give(call, 0, 0)
    give(call, 2, 2)
    with pytest.raises(ResultLost) as caught:
        end(call, 3)
    call._settle(caught.value)
    values = iter(call)
    assert next(values) == 0
    with pytest.raises(ResultLost):
        next(values)
    with pytest.raises(ResultLost):
        call.result()


def test_a_stream_that_ends_too_early_is_an_error(call: StreamCall[Any]) -> None:
    give(call, 0, 0)
    with pytest.raises(ResultLost, match="first 1 of 3"):
        end(call, 3)


def test_a_stream_whose_end_is_missing_is_an_error(call: StreamCall[Any]) -> None:
    give(call, 0, 0)
    with pytest.raises(ResultLost, match="the end"):
        call._complete([])


@pytest.mark.parametrize("run", [None, "r1"])
@pytest.mark.parametrize("has_end", [False, True])
def test_what_the_platform_collected_makes_up_for_a_lost_tail(
    call: StreamCall[Any], run: str | None, has_end: bool
) -> None:
    give(call, 0, 0, run)
    give(call, 1, 1, run)
    if has_end:
        call._receive(Outcome(ended=True, count=4, run=run))
    chunks = [Outcome(chunk=dumps(n, what="n").data, index=n, run=run) for n in range(4)]
    call._settle(call._complete([*chunks, Outcome(ended=True, count=4, run=run)]))
    assert call.result() == [0, 1, 2, 3]


def test_values_without_numbers_are_taken_as_they_come(call: StreamCall[Any]) -> None:
    for _ in range(3):
        give(call, "same")
    end(call)
    assert call.result() == ["same"] * 3


@pytest.mark.parametrize(("first", "second"), [(None, None), ("r1", "r2")])
def test_a_second_run_replaces_the_first(call: StreamCall[Any], first: str | None, second: str | None) -> None:
    for n in range(2):
        give(call, ("first", n), n, first)
    for n in range(3):
        give(call, ("second", n), n, second)
    end(call, 3, second)
    assert call.result() == [("second", 0), ("second", 1), ("second", 2)]


@pytest.mark.parametrize(("first", "second"), [(None, None), ("r1", "r2")])
def test_a_second_run_is_not_mixed_with_a_first_that_was_given_out(
    call: StreamCall[Any], first: str | None, second: str | None
) -> None:
    give(call, 0, 0, first)
    give(call, 1, 1, first)
    values = iter(call)
    assert next(values) == 0
    with pytest.raises(ResultLost, match=r"runs the job again; 1 values.*repeat the call"):
        give(call, 0, 0, second)


def test_a_second_run_whose_beginning_was_lost_is_told_by_its_name(call: StreamCall[Any]) -> None:
    give(call, 0, 0, "r1")
    give(call, 1, 1, "r2")
    with pytest.raises(ResultLost):
        end(call, 2, "r2")


def test_the_end_of_another_run_is_not_taken_for_that_of_this_one(call: StreamCall[Any]) -> None:
    give(call, 0, 0, "r1")
    with pytest.raises(ResultLost):
        end(call, 1, "r2")


def test_a_run_that_reached_its_end_is_not_replaced(call: StreamCall[Any]) -> None:
    values = iter(call)
    give(call, "first", 0, "r1")
    assert next(values) == "first"
    call._receive(Outcome(ended=True, count=1, run="r1"))
    give(call, "second", 0, "r2")
    end(call, 1, "r2")
    assert list(values) == []


def test_another_job_of_the_same_call_begins_anew(call: StreamCall[Any]) -> None:
    call._receive(Outcome(missing=("digest",)))
    call._begin_job()
    give(call, 0, 0)
    with pytest.raises(ResultLost):
        call._complete([])


# Not too much ahead.


async def is_held_up(call: StreamCall[Any]) -> bool:
    """Whether the lane waits before it fetches more."""
    try:
        await asyncio.wait_for(call._room(), 0.02)
    except TimeoutError:
        return True
    return False


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_MOST_WAITING", 2)


@pytest.mark.usefixtures("narrow")
def test_no_more_is_fetched_while_enough_waits_for_the_one_who_iterates(call: StreamCall[Any]) -> None:
    async def main() -> None:
        for n in range(4):
            give(call, n, n)
        assert not await is_held_up(call)  # nobody iterates: somebody may want the whole
        values = aiter(call)
        assert await anext(values) == 0
        assert await is_held_up(call) is (len(call._chunks) > 2)
        fetching = asyncio.create_task(call._room())
        await asyncio.sleep(0)
        assert await anext(values) == 1
        await asyncio.wait_for(fetching, DEADLINE_S)
        assert len(call._chunks) == 2

    asyncio.run(main())


def test_large_values_count_by_their_size(call: StreamCall[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_MOST_WAITING_BYTES", 1_000)

    async def main() -> None:
        values = aiter(call)
        give(call, b"", 0)
        await anext(values)
        give(call, b"x" * 2_000, 1)
        assert await is_held_up(call)
        await anext(values)
        assert not await is_held_up(call)

    asyncio.run(main())


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("how", ["cancel", "end", "exception", "settled"])
def test_the_lane_goes_on_once_nobody_iterates_any_more(call: StreamCall[Any], how: str) -> None:
    async def main() -> None:
        for n in range(5):
            give(call, n, n)
        values = iter(call)
        assert next(values) == 0
        fetching = asyncio.create_task(call._room())
        await asyncio.sleep(0)
        assert not fetching.done()
        match how:
            case "cancel":
                await asyncio.to_thread(call.cancel)
            case "end":
                await asyncio.to_thread(end, call, 5)
            case "exception":
                with pytest.raises(TimeoutError):
                    call.exception(0)
            case "settled":
                waiting = asyncio.create_task(call.settled())
        await asyncio.wait_for(fetching, DEADLINE_S)
        if how == "settled":
            end(call, 5)
            await waiting

    asyncio.run(main())


def test_a_waiting_thread_gets_a_value_and_the_end(call: StreamCall[Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        values = iter(call)
        for n in range(50):
            waiting = pool.submit(next, values)
            give(call, n, n)
            assert waiting.result(DEADLINE_S) == n
        last = pool.submit(next, values, "over")
        end(call, 50)
        assert last.result(DEADLINE_S) == "over"


def test_a_thread_and_a_lane_at_full_speed_lose_nothing(call: StreamCall[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_MOST_WAITING", 3)

    async def produce() -> None:
        for n in range(2_000):
            await call._room()
            give(call, n, n, "r")
        end(call, 2_000, "r")

    producer = threading.Thread(target=lambda: asyncio.run(produce()))
    producer.start()
    try:
        assert list(call) == list(range(2_000))
    finally:
        producer.join()


def test_concurrent_wait_sees_the_end(call: StreamCall[Any]) -> None:
    give(call, 0, 0)
    end(call, 1)
    assert concurrent.futures.wait([call], DEADLINE_S).done == {call}


def test_cancelling_ends_the_iteration_after_what_had_arrived(call: StreamCall[Any]) -> None:
    give(call, 0, 0)
    values = iter(call)
    assert next(values) == 0
    give(call, 1, 1)
    call.cancel()
    assert next(values) == 1
    with pytest.raises(JobCancelled):
        next(values)
