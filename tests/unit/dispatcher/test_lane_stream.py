# SPDX-License-Identifier: Apache-2.0
"""Calls of generator functions: values as they come, and the two kinds of lane beside each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flash_plugins import Call, JobCancelled, ResultLost, StreamCall
from flash_plugins.code import dumps
from flash_plugins.dispatcher import queue_lane, stream, window
from flash_plugins.failure import encode_exception
from flash_plugins.payload import Outcome, encode_failure_text
from tests.unit.dispatcher.fake import DEADLINE_S, RESET, Answer, FakeRunpod, Request, problem

Submit = Callable[..., Call[Any]]


def chunk_of(value: object, index: int | None = None) -> dict[str, Any]:
    return Outcome(chunk=dumps(value, what="a chunk").data, index=index).encode()


END = Outcome(ended=True, worker="w1", pid=7, seconds=0.5).encode()


@pytest.fixture
def started(fake: FakeRunpod, submit: Submit) -> StreamCall[Any]:
    """A stream whose job has an id."""
    call = submit("ignored", streams=True, is_generator=True)
    assert isinstance(call, StreamCall)
    fake.wait_for("stream")
    return call


def test_values_come_as_they_are_yielded(fake: FakeRunpod, started: StreamCall[Any]) -> None:
    values = iter(started)
    fake.yield_chunk("job-1", chunk_of("first"))
    assert next(values) == "first"
    assert not started.done()
    fake.yield_chunk("job-1", chunk_of("second"))
    assert next(values) == "second"
    fake.yield_chunk("job-1", END)
    fake.finish("job-1", output=[])
    assert list(values) == []
    assert started.exception(DEADLINE_S) is None
    assert (started.worker_id, started.worker_pid, started.execution_s) == ("w1", 7, 0.5)
    assert len(fake.seen("run")) == 1
    assert not fake.seen("runSync")


def test_an_async_for_gets_the_same_values(fake: FakeRunpod, started: StreamCall[Any]) -> None:
    async def collect() -> list[Any]:
        seen: list[Any] = []
        async for value in started:
            seen.append(value)
            if value == 0:
                fake.yield_chunk("job-1", chunk_of(1))
                fake.yield_chunk("job-1", END)
                fake.finish("job-1", output=[])
        return seen

    fake.yield_chunk("job-1", chunk_of(0))
    assert asyncio.run(collect()) == [0, 1]


def test_an_exception_comes_after_what_was_yielded(fake: FakeRunpod, started: StreamCall[Any]) -> None:
    fake.yield_chunk("job-1", chunk_of("before"))
    values = iter(started)
    assert next(values) == "before"
    text = encode_failure_text(Outcome(failure=encode_exception(KeyError("then"))))
    fake.finish("job-1", "FAILED", error=text)
    with pytest.raises(KeyError, match="then"):
        next(values)
    with pytest.raises(KeyError, match="then"):
        started.result()


def test_chunks_that_came_with_the_last_state_are_not_lost(fake: FakeRunpod, submit: Submit) -> None:
    last = [{"output": chunk_of(1)}, {"output": chunk_of(2)}, {"output": END}]
    fake.script("stream", Answer(200, {"status": "COMPLETED", "stream": last}))
    call = submit(streams=True, is_generator=True)
    fake.wait_for("stream", 2)
    fake.finish("job-1", output=[])
    assert call.result(DEADLINE_S) == [1, 2]


def test_leaving_a_stream_early_cancels_it(fake: FakeRunpod, started: StreamCall[Any]) -> None:
    fake.yield_chunk("job-1", chunk_of(1))
    for value in started:
        assert value == 1
        break
    fake.wait_for("cancel")
    assert started.cancelled()


def test_cancelling_ends_the_iteration(fake: FakeRunpod, started: StreamCall[Any]) -> None:
    fake.yield_chunk("job-1", chunk_of(1))
    values = iter(started)
    assert next(values) == 1
    assert started.cancel()
    with pytest.raises(JobCancelled):
        next(values)
    assert fake.wait_for("cancel")[0].job_id == "job-1"


def test_a_stream_whose_worker_lacks_code_is_sent_again(fake: FakeRunpod, started: StreamCall[Any]) -> None:
    (digest,) = fake.seen("run")[0].blobs
    fake.yield_chunk("job-1", Outcome(missing=(digest,)).encode())
    fake.finish("job-1", output=[])
    fake.wait_for("run", 2)
    assert fake.seen("run")[1].blobs == {digest}
    fake.yield_chunk("job-2", chunk_of("value"))
    fake.yield_chunk("job-2", END)
    fake.finish("job-2", output=[])
    assert started.result(DEADLINE_S) == ["value"]
    assert started.job_id == "job-2"


def test_a_platform_that_does_not_hold_streams_is_asked_with_pauses(
    fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_MIN_INTERVAL_S", 0.05)
    fake.hold_s = 0.0
    call = submit(streams=True, is_generator=True)
    first, second, third = fake.wait_for("stream", 3)[:3]
    assert min(second.at - first.at, third.at - second.at) >= 0.04
    fake.yield_chunk("job-1", chunk_of(1))
    fake.yield_chunk("job-1", END)
    fake.finish("job-1", output=[])
    assert call.result(DEADLINE_S) == [1]


def test_a_function_that_returns_works_on_a_lane_of_streams(fake: FakeRunpod, submit: Submit) -> None:
    call = submit("ignored", streams=True)
    assert not isinstance(call, StreamCall)
    fake.wait_for("stream")
    result = Outcome(result=dumps(42, what="a result").data, worker="w1").encode()
    fake.yield_chunk("job-1", result)
    fake.finish("job-1", output=[result])
    assert call.result(DEADLINE_S) == 42


def test_an_endpoint_that_streams_carries_the_plain_calls_of_another_object_of_its_name(
    fake: FakeRunpod, submit: Submit
) -> None:
    stream = submit(streams=True, is_generator=True)
    fake.wait_for("stream")
    plain = submit(1)
    fake.wait_for("run", 2)
    assert not fake.seen("runSync")
    assert len(fake.seen("create")) == 1
    assert not fake.seen("patch")
    stream.cancel()
    plain.cancel()


def test_a_stream_survives_trouble_while_it_is_followed(
    fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_lane, "_TRANSPORT_PAUSE_S", 0.01)
    fake.script("stream", problem(503, "restarting"), Answer(404, {}), Answer(429, {}, {"Retry-After": "0"}))
    call = submit(streams=True, is_generator=True)
    fake.wait_for("stream", 4)
    fake.yield_chunk("job-1", chunk_of(1))
    fake.yield_chunk("job-1", END)
    fake.finish("job-1", output=[])
    assert call.result(DEADLINE_S) == [1]
    assert len(fake.seen("run")) == 1


def lose_next_answer(fake: FakeRunpod) -> None:
    """Let the next `/stream` be answered into a broken connection: what it gave out is gone."""

    async def lose(request: Request) -> Answer:
        await fake.behave(request)
        return RESET

    fake.script("stream", lose)


@pytest.fixture
def with_a_gap(fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> StreamCall[Any]:
    """A stream whose value 1 of 0, 1, 2 was lost on the way."""
    monkeypatch.setattr(queue_lane, "_TRANSPORT_PAUSE_S", 0.01)
    call = submit(streams=True, is_generator=True)
    assert isinstance(call, StreamCall)
    fake.wait_for("stream")
    fake.yield_chunk("job-1", chunk_of(0, 0))
    fake.wait_until(lambda: call._received == 1, "the first did not arrive")
    fake.wait_for("stream", 2)
    lose_next_answer(fake)
    fake.yield_chunk("job-1", chunk_of(None, 0))  # twice, which ends the request that was held already
    fake.wait_for("stream", 3)
    fake.yield_chunk("job-1", chunk_of(1, 1))
    fake.wait_for("stream", 4)
    fake.yield_chunk("job-1", chunk_of(2, 2))
    fake.wait_until(lambda: call._ahead, "nothing came behind the gap")
    return call


def test_a_gap_is_filled_from_what_the_platform_collected(fake: FakeRunpod, with_a_gap: StreamCall[Any]) -> None:
    values = iter(with_a_gap)
    assert next(values) == 0
    end = Outcome(ended=True, count=3, worker="w1").encode()
    fake.finish("job-1", output=[chunk_of(0, 0), chunk_of(1, 1), chunk_of(2, 2), end])
    assert list(values) == [1, 2]


@pytest.mark.parametrize("count", [3, None])
def test_a_gap_that_stays_is_an_error_and_not_a_shorter_list(
    fake: FakeRunpod, with_a_gap: StreamCall[Any], count: int | None
) -> None:
    fake.yield_chunk("job-1", Outcome(ended=True, count=count, worker="w1").encode())
    fake.finish("job-1", output=[])
    with pytest.raises(ResultLost, match="repeat the call") as caught:
        with_a_gap.result(DEADLINE_S)
    assert caught.value.job_id == "job-1"


def test_a_gap_is_given_up_when_much_came_since(
    fake: FakeRunpod, with_a_gap: StreamCall[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_MOST_WAITING", 2)
    for index in range(3, 6):
        fake.yield_chunk("job-1", chunk_of(index, index))
    with pytest.raises(ResultLost, match="1 values after the first 1"):
        with_a_gap.result(DEADLINE_S)
    fake.wait_for("cancel")  # nobody wants the rest


def test_a_job_that_runs_again_behind_a_gap_gives_the_values_of_one_run(
    fake: FakeRunpod, with_a_gap: StreamCall[Any]
) -> None:
    for index in range(2):
        value = dumps(("second", index), what="a chunk").data
        fake.yield_chunk("job-1", Outcome(chunk=value, index=index, run="b").encode())
    fake.yield_chunk("job-1", Outcome(ended=True, count=2, run="b").encode())
    fake.finish("job-1", output=[])
    assert with_a_gap.result(DEADLINE_S) == [("second", 0), ("second", 1)]


@pytest.mark.parametrize("is_generator", [True, False])
@pytest.mark.parametrize("is_collected", [True, False])
def test_a_lost_end_is_taken_from_what_the_platform_collected(
    fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch, is_generator: bool, is_collected: bool
) -> None:
    monkeypatch.setattr(queue_lane, "_TRANSPORT_PAUSE_S", 0.01)
    lose_next_answer(fake)
    call = submit(streams=True, is_generator=is_generator)
    fake.wait_for("stream")
    if is_generator:
        sent = [chunk_of(0, 0), Outcome(ended=True, count=1, worker="w1").encode()]
    else:
        sent = [Outcome(result=dumps([0], what="a result").data, worker="w1").encode()]
    for chunk in sent:
        fake.yield_chunk("job-1", chunk)
    fake.finish("job-1", output=sent if is_collected else [])
    if is_collected:
        assert call.result(DEADLINE_S) == [0]
    else:
        with pytest.raises(ResultLost):
            call.result(DEADLINE_S)


def test_a_job_that_is_run_again_gives_the_values_of_one_run(fake: FakeRunpod, started: StreamCall[Any]) -> None:
    for index in range(2):
        fake.yield_chunk("job-1", chunk_of(("first", index), index))
    for index in range(3):
        fake.yield_chunk("job-1", chunk_of(("second", index), index))
    fake.yield_chunk("job-1", Outcome(ended=True, count=3).encode())
    fake.finish("job-1", output=[])
    assert started.result(DEADLINE_S) == [("second", index) for index in range(3)]


def test_the_platform_is_not_asked_while_enough_waits_for_the_consumer(
    fake: FakeRunpod, started: StreamCall[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_MOST_WAITING", 1)
    values = iter(started)
    fake.yield_chunk("job-1", chunk_of(0, 0))
    assert next(values) == 0
    fake.wait_for("stream", 2)
    for n in (1, 2):
        fake.yield_chunk("job-1", chunk_of(n, n))
        fake.wait_until(lambda n=n: len(started._chunks) == n, "a value did not arrive")  # type: ignore[misc]
    asked = len(fake.seen("stream"))
    fake.yield_chunk("job-1", chunk_of(3, 3))
    fake.yield_chunk("job-1", Outcome(ended=True, count=4).encode())
    fake.finish("job-1", output=[])
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), fake.loop).result(DEADLINE_S)
    assert len(fake.seen("stream")) == asked
    assert not started.done()
    assert list(values) == [1, 2, 3]


def test_a_function_that_returns_a_generator_is_told_to_be_one(fake: FakeRunpod, submit: Submit) -> None:
    call = submit("ignored", streams=True)
    fake.wait_for("stream")
    fake.yield_chunk("job-1", chunk_of(0, 0))
    fake.yield_chunk("job-1", Outcome(ended=True, count=1).encode())
    fake.finish("job-1", output=[])
    with pytest.raises(TypeError, match="generator function"):
        call.result(DEADLINE_S)


def test_the_end_of_an_earlier_job_is_not_that_of_the_next(fake: FakeRunpod, started: StreamCall[Any]) -> None:
    (digest,) = fake.seen("run")[0].blobs
    fake.yield_chunk("job-1", Outcome(missing=(digest,)).encode())
    fake.finish("job-1", output=[])
    fake.wait_for("run", 2)
    fake.finish("job-2", output=[])
    with pytest.raises(ResultLost):
        started.result(DEADLINE_S)
    assert len(fake.seen("run")) == 2
