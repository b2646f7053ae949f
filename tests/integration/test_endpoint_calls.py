# SPDX-License-Identifier: Apache-2.0
"""Calls of decorated functions and classes on the local platform, with real workers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import flash_plugins
from flash_plugins import Call, Endpoint, StreamCall

#: Generous: the box may be busy.
DEADLINE_S = 60.0

endpoint = Endpoint(name="calls", cpu="cpu5c-4-8", workers=(0, 2), scaler_type="REQUEST_COUNT", scaler_value=1)


class PricedError(Exception):
    def __init__(self, item: str, *, price: float) -> None:
        super().__init__(f"{item} costs {price}")
        self.item = item
        self.price = price


@endpoint
def add(a: int, b: int = 1) -> int:
    return a + b


@endpoint
def keywords(**values: int) -> dict[str, int]:
    return values


@endpoint
async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    return a + b


@endpoint
def fail(kind: str) -> None:
    if kind == "priced":
        raise PricedError("apple", price=1.5)
    if kind == "caused":
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    if kind == "group":
        raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])
    if kind == "noted":
        noted = ValueError("noted")
        noted.add_note("look here")
        raise noted
    if kind == "exit":
        raise SystemExit(3)


@endpoint
def talk() -> int:
    print("printed on the worker")
    logging.getLogger("talk").warning("logged %s", "there")
    warnings.warn("warned there", UserWarning, stacklevel=1)
    return os.getpid()


@endpoint
def sleep(seconds: float, marker: str | None = None) -> float:
    time.sleep(seconds)
    if marker is not None:
        Path(marker).write_text("done")
    return seconds


@endpoint
def return_lock() -> Any:
    return {"deep": [threading.Lock()]}


@endpoint
def die(signal_number: int) -> None:
    os.kill(os.getpid(), signal_number)


@endpoint
class Counter:
    def __init__(self, start: int, *, step: int = 1) -> None:
        self.value = start
        self.step = step
        self.made_in = os.getpid()

    def add(self, times: int = 1) -> int:
        self.value += self.step * times
        return self.value

    async def where(self) -> int:
        return self.made_in

    def _private(self) -> None: ...


def test_a_call_runs_in_another_process_and_returns_its_value() -> None:
    call = add(2, b=3)
    assert call.result(DEADLINE_S) == 5
    assert call.done()
    assert call.exception() is None
    assert call.worker_pid not in (None, os.getpid())
    assert call.execution_s is not None
    assert call.job_id


def test_a_call_can_be_awaited_and_gathered() -> None:
    async def main() -> tuple[int, int, int]:
        return await asyncio.gather(add(1, 1), add_later(2, 2), add(3))

    assert list(asyncio.run(main())) == [2, 4, 4]


def test_calls_become_tasks() -> None:
    async def main() -> list[int]:
        first = asyncio.create_task(add(1))
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(add(n)) for n in (2, 3)]
        shared = add(4)
        both = await asyncio.gather(asyncio.create_task(shared), asyncio.create_task(shared))
        return [await first, *(task.result() for task in others), *both]

    assert asyncio.run(main()) == [2, 3, 4, 5, 5]


def test_a_parameter_may_be_called_self() -> None:
    assert keywords(self=1).result(DEADLINE_S) == {"self": 1}


def test_a_call_works_with_concurrent_futures() -> None:
    calls = [add(n) for n in range(5)]
    done, pending = concurrent.futures.wait(calls, timeout=DEADLINE_S)
    assert not pending
    assert sorted(call.result() for call in done) == [1, 2, 3, 4, 5]


def test_calls_work_inside_a_running_loop_from_a_thread() -> None:
    async def main() -> int:
        return await asyncio.to_thread(lambda: add(1).result(DEADLINE_S))

    assert asyncio.run(main()) == 2


def test_local_runs_here() -> None:
    assert add.local(1, 2) == 3


def test_done_callbacks_run_once_in_a_background_thread() -> None:
    seen: list[tuple[Any, str]] = []
    arrived = threading.Event()

    def note(call: Any) -> None:
        seen.append((call.result(), threading.current_thread().name))
        arrived.set()

    sleep(0.2).add_done_callback(note)
    assert arrived.wait(DEADLINE_S)
    assert seen == [(0.2, "flash-delivery")]


def test_map_keeps_the_order_of_its_inputs() -> None:
    assert list(add.map(range(20), range(20))) == [2 * n for n in range(20)]


def test_map_as_completed_yields_fast_results_first() -> None:
    assert list(echo_later.map([1.0, 0.0], order="completed")) == [0.0, 1.0]


def test_map_takes_its_inputs_lazily() -> None:
    taken: list[int] = []

    def inputs() -> Iterator[int]:
        for n in range(1000):
            taken.append(n)
            yield n

    results = add.map(inputs(), window=5)
    assert next(results) == 1
    assert len(taken) <= 7
    results.close()


def test_map_can_return_exceptions() -> None:
    results = list(fail.map(["none", "priced"], return_exceptions=True))
    assert results[0] is None
    assert isinstance(results[1], PricedError)


def test_map_can_be_iterated_in_a_coroutine() -> None:
    async def main() -> list[int]:
        return [value async for value in add.map(range(10), order="completed")]

    assert sorted(asyncio.run(main())) == list(range(1, 11))


def test_an_exception_comes_back_as_its_own_class_with_the_remote_traceback() -> None:
    with pytest.raises(PricedError) as caught:
        fail("priced").result(DEADLINE_S)
    assert (caught.value.item, caught.value.price) == ("apple", 1.5)
    assert "in fail" in str(caught.value.__cause__)


def test_causes_groups_and_notes_survive() -> None:
    error = fail("caused").exception(DEADLINE_S)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, KeyError)
    group = fail("group").exception(DEADLINE_S)
    assert isinstance(group, ExceptionGroup)
    assert [type(inner) for inner in group.exceptions] == [ValueError, TypeError]
    noted = fail("noted").exception(DEADLINE_S)
    assert noted is not None
    assert "look here" in noted.__notes__


def test_system_exit_on_the_worker_does_not_end_the_caller() -> None:
    with pytest.raises(flash_plugins.RemoteError, match="SystemExit"):
        fail("exit").result(DEADLINE_S)


def test_output_of_a_call_reaches_the_caller(capsys: pytest.CaptureFixture[str], caplog: Any) -> None:
    with pytest.warns(UserWarning, match="warned there"):
        pid = talk().result(DEADLINE_S)
    assert pid != os.getpid()
    assert "printed on the worker" in capsys.readouterr().out
    assert [(r.name, r.getMessage()) for r in caplog.records if r.name == "talk"] == [("talk", "logged there")]


def test_an_argument_that_cannot_be_pickled_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(flash_plugins.UnpicklableError, match="lock"):
        add({"x": threading.Lock()})  # type: ignore[arg-type]


def test_a_result_that_cannot_be_pickled_is_an_error_that_names_the_culprit() -> None:
    with pytest.raises(flash_plugins.UnpicklableError, match="deep"):
        return_lock().result(DEADLINE_S)


def test_arguments_over_the_limit_of_a_job_arrive() -> None:
    assert add(b"x" * 20_000_000, b"y").result(DEADLINE_S) == b"x" * 20_000_000 + b"y"  # type: ignore[arg-type,comparison-overlap]


def test_arguments_are_snapshotted_when_the_call_is_made() -> None:
    values = [1]
    call = add(values, [2])  # type: ignore[arg-type]
    values.append(99)
    assert call.result(DEADLINE_S) == [1, 2]  # type: ignore[comparison-overlap]


def test_a_class_is_made_once_per_worker_and_arguments() -> None:
    counter: Any = Counter(10, step=2)  # mypy does not apply decorators of classes
    values = {counter.add().result(DEADLINE_S) for _ in range(3)}
    assert max(values) >= 14  # at most two workers, so one of them got two calls
    assert isinstance(counter.where().result(DEADLINE_S), int)


factor = 2


def scale(x: int) -> int:
    return x * factor


@endpoint
def scaled(x: int) -> int:
    return scale(x)


@endpoint
class Scaler:
    def __init__(self, by: int) -> None:
        self.by = by

    def scaled(self, x: int) -> int:
        return scale(x) * self.by


def test_a_changed_global_and_a_changed_helper_count_for_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler: Any = Scaler(10)
    assert (scaled(1).result(DEADLINE_S), scaler.scaled(1).result(DEADLINE_S)) == (2, 20)
    monkeypatch.setitem(globals(), "factor", 3)
    assert (scaled(1).result(DEADLINE_S), scaler.scaled(1).result(DEADLINE_S)) == (3, 30)
    monkeypatch.setitem(globals(), "scale", lambda x: x + 100)
    assert (scaled(1).result(DEADLINE_S), scaler.scaled(1).result(DEADLINE_S)) == (101, 1010)


@endpoint
async def fib(n: int) -> int:
    return n if n < 2 else sum(await asyncio.gather(fib(n - 1), fib(n - 2)))


@endpoint
def fib_and_counter(n: int) -> tuple[int, int, int]:
    counter: Any = Counter(n)
    return fib(n).result(), counter.add().result(), counter.add().result()


def test_a_worker_calls_functions_and_classes_of_its_own_endpoint() -> None:
    assert fib(7).result(DEADLINE_S) == 13
    values, first, second = fib_and_counter(6).result(DEADLINE_S)
    assert values == 8
    assert second == first + 1


def test_class_arguments_and_methods_are_checked_here() -> None:
    with pytest.raises(TypeError):
        Counter()  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="private"):
        _ = Counter(1)._private
    with pytest.raises(AttributeError, match="add"):
        _ = Counter(1).subtract  # type: ignore[attr-defined]


def test_waiting_has_an_end_and_says_why() -> None:
    call = sleep(3)
    with pytest.raises(flash_plugins.WaitTimeout, match=r"0\.05 s"):
        call.result(0.05)
    assert isinstance(call.exception(DEADLINE_S), type(None))


def test_cancelling_stops_code_that_runs(tmp_path: Path) -> None:
    marker = tmp_path / "done"
    call = sleep(4, str(marker))
    time.sleep(1.5)
    assert call.running()
    assert call.cancel()
    with pytest.raises(flash_plugins.JobCancelled):
        call.result()
    assert add(1).result(DEADLINE_S) == 2
    time.sleep(4)
    assert not marker.exists()


def test_cancelling_before_it_is_sent_runs_nothing() -> None:
    calls = [sleep(0.3) for _ in range(8)]
    assert calls[-1].cancel()
    assert calls[-1].cancelled()
    assert [call.result(DEADLINE_S) for call in calls[:-1]] == [0.3] * 7


def test_a_call_that_kills_its_worker_again_and_again_fails_with_the_reason() -> None:
    with pytest.raises(flash_plugins.WorkerLost, match="SIGKILL"):
        die(9).result(DEADLINE_S)
    assert add(1).result(DEADLINE_S) == 2


open_scaling = Endpoint(name="open-scaling", cpu="cpu5c-4-8", workers=(0, 2))


@open_scaling
def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_workers_are_added_soon_where_scaling_was_left_open() -> None:
    assert len(set(pid_after.map([6.0, 6.0]))) == 2  # with Runpod's default of 4 s and one worker warm it would be 1


single = Endpoint(name="single", cpu="cpu5c-4-8", workers=(0, 1))


@single
def import_from(folder: str | None) -> int:
    if folder is not None:
        sys.path.insert(0, folder)
        import imported_slowly  # type: ignore[import-not-found]  # noqa: F401
    return os.getpid()


def test_a_call_cancelled_amid_an_import_leaves_no_half_imported_module(tmp_path: Path) -> None:
    (tmp_path / "imported_slowly.py").write_text("import time\nfor _ in range(600):\n    time.sleep(0.05)\n")
    before = import_from(None).result(DEADLINE_S)
    call = import_from(str(tmp_path))
    time.sleep(1.5)
    call.cancel()
    assert import_from(None).result(DEADLINE_S) != before


streams = Endpoint(name="streams", cpu="cpu5c-4-8", workers=(0, 1), idle_timeout=30)


@streams
def count(n: int, *, fail_at: int | None = None) -> Iterator[int]:
    for i in range(n):
        if i == fail_at:
            raise PricedError("pear", price=i)
        time.sleep(0.05)
        yield i


@streams
async def count_later(n: int) -> AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0.01)
        yield i


@streams
def plain(x: int) -> int:
    return x + 1


def test_a_generator_streams_as_it_yields() -> None:
    call = count(30)
    assert isinstance(call, StreamCall)
    values = iter(call)
    assert next(values) == 0
    assert not call.done()
    assert list(values) == list(range(1, 30))
    assert count(3).result(DEADLINE_S) == [0, 1, 2]


def test_an_async_generator_streams_into_a_coroutine() -> None:
    async def main() -> list[int]:
        return [value async for value in count_later(5)]

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_a_generator_that_raises_delivers_what_it_yielded_first() -> None:
    seen: list[int] = []
    with pytest.raises(PricedError) as caught:
        seen.extend(count(5, fail_at=3))
    assert seen == [0, 1, 2]
    assert caught.value.price == 3


def test_functions_that_return_work_beside_generators() -> None:
    call = plain(1)
    assert isinstance(call, Call)
    assert not isinstance(call, StreamCall)
    assert call.result(DEADLINE_S) == 2


wide = Endpoint(name="wide", cpu="cpu5c-4-8", workers=(0, 1), max_concurrency=4)


@wide
def nap(seconds: float) -> int:
    time.sleep(seconds)
    print("slept")
    return os.getpid()


@wide
async def nap_later(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@wide
async def echo_later(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@pytest.mark.parametrize("function", [nap, nap_later])
def test_one_worker_runs_several_calls_at_once(function: Any) -> None:
    function(0).result(DEADLINE_S)
    began = time.monotonic()
    pids = set(function.map([1.0] * 4))
    assert len(pids) == 1
    assert time.monotonic() - began < 3.5  # one after another takes 4 s
