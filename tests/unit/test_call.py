# SPDX-License-Identifier: Apache-2.0
"""A call as a future: everything that `concurrent.futures`, `asyncio` and impatient users do to one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, ThreadPoolExecutor
from typing import Any, cast

import pytest

from flash_plugins import Call, JobCancelled, JobFailed, UnpicklableError, WaitTimeout
from flash_plugins.code import dumps
from flash_plugins.dispatcher.lane import Submission
from flash_plugins.failure import encode_exception
from flash_plugins.payload import Outcome

#: Generous: the box may be busy.
DEADLINE_S = 30.0


class FakeSubmission:
    """What a call is sent with."""

    def __init__(self) -> None:
        self.is_sent = False
        self.cancels = 0
        self.interrupts = 0

    def cancel(self) -> None:
        self.cancels += 1

    def interrupt(self) -> None:
        self.interrupts += 1


def new(number: int = 1) -> Call[Any]:
    call: Call[Any] = Call(endpoint_name="e", function_name="f", number=number)
    call._submission = cast(Submission, FakeSubmission())
    return call


def submission_of(call: Call[Any]) -> FakeSubmission:
    return cast(FakeSubmission, call._submission)


def value(content: object) -> Outcome:
    return Outcome(result=dumps(content, what="a value").data)


def failure(error: BaseException) -> Outcome:
    return Outcome(failure=encode_exception(error))


@pytest.fixture
def later() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Run something in another thread, soon."""
    with ThreadPoolExecutor(4) as pool:

        def start(action: Callable[[], object]) -> None:
            pool.submit(action)

        yield start


def test_a_new_call_is_neither_done_nor_running() -> None:
    call = new()
    assert not call.done()
    assert not call.cancelled()
    assert not call.running()
    submission_of(call).is_sent = True
    assert call.running()
    call._settle(value(1))
    assert call.done()
    assert not call.running()


def test_the_state_is_in_the_representation() -> None:
    call = new(7)
    assert repr(call) == "<Call 7 of f() on 'e': waiting here to be sent>"
    submission_of(call).is_sent = True
    call.job_id = "job-1"
    assert repr(call) == "<Call 7 of f() on 'e' job job-1: sent to the platform>"
    call._settle(value(1))
    assert repr(call).endswith("done>")
    cancelled = new()
    cancelled.cancel()
    assert repr(cancelled).endswith("cancelled>")


def test_a_value_can_be_asked_for_again_and_is_the_same_object() -> None:
    call = new()
    call._settle(value([1, 2]))
    assert call.result() == [1, 2]
    assert call.result() is call.result(0)
    assert call.exception() is None


def test_none_is_a_value() -> None:
    call = new()
    call._settle(value(None))
    assert call.result(0) is None


def test_an_exception_is_raised_and_returned() -> None:
    call = new()
    call._settle(failure(KeyError("x")))
    with pytest.raises(KeyError, match="x") as caught:
        call.result()
    assert call.exception() is caught.value
    assert call.done()
    assert not call.cancelled()


def test_an_exception_as_a_value_is_a_value() -> None:
    call = new()
    call._settle(value(KeyError("x")))
    assert isinstance(call.result(), KeyError)
    assert call.exception() is None


def test_an_error_of_the_road_is_raised_and_returned() -> None:
    call = new()
    error = JobFailed("broken", job_id="j")
    call._settle(error)
    assert call.exception() is error
    with pytest.raises(JobFailed):
        call.result()


@pytest.mark.parametrize("timeout", [0, 0.0, 0.01])
def test_waiting_ends_after_its_time_and_the_call_goes_on(timeout: float) -> None:
    call = new()
    for wait in (call.result, call.exception):
        with pytest.raises(WaitTimeout, match=f"{timeout:g} s") as caught:
            wait(timeout)
        assert isinstance(caught.value, TimeoutError)
    assert submission_of(call).cancels == 0
    call._settle(value(1))
    assert call.result(0) == 1


def test_many_threads_may_wait(later: Callable[[Callable[[], object]], None]) -> None:
    call = new()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(call.result, DEADLINE_S) for _ in range(8)]
        call._settle(value({"a": 1}))
        results = [future.result() for future in waiting]
    assert all(result is results[0] for result in results)


def test_cancelling_tells_the_submission_once() -> None:
    call = new()
    submission = submission_of(call)
    assert call.cancel()
    assert call.cancel()
    assert submission.cancels == 1
    assert call.cancelled()
    assert call.done()
    for ask in (call.result, call.exception):
        with pytest.raises(JobCancelled) as caught:
            ask(0)
        assert isinstance(caught.value, concurrent.futures.CancelledError)


def test_a_call_that_runs_can_be_cancelled() -> None:
    call = new()
    submission_of(call).is_sent = True
    assert call.cancel()
    assert call.cancelled()


def test_a_call_that_is_done_cannot_be_cancelled() -> None:
    call = new()
    call._settle(value(1))
    assert not call.cancel()
    assert not call.cancelled()
    assert call.result() == 1


def test_an_outcome_after_cancelling_changes_nothing() -> None:
    call = new()
    call.cancel()
    call._settle(value(1))
    assert call.cancelled()
    with pytest.raises(JobCancelled):
        call.result()
    assert call.cancel()


def test_cancelling_from_many_threads_happens_once() -> None:
    for _ in range(20):
        call = new()
        submission = submission_of(call)
        with ThreadPoolExecutor(8) as pool:
            assert all(future.result() for future in [pool.submit(call.cancel) for _ in range(8)])
        assert submission.cancels == 1


def test_cancelling_and_settling_at_once_leaves_one_outcome() -> None:
    for number in range(200):
        call = new(number)
        barrier = threading.Barrier(2)

        def settle(call: Call[Any] = call, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(DEADLINE_S)
            call._settle(value(1))

        thread = threading.Thread(target=settle)
        thread.start()
        barrier.wait(DEADLINE_S)
        was_cancelled = call.cancel()
        thread.join()
        assert call.done()
        assert call.cancelled() == was_cancelled


def test_callbacks_run_once_in_order_with_the_call() -> None:
    call, seen = new(), list[Any]()
    call.add_done_callback(lambda done: seen.append(("first", done)))
    call.add_done_callback(lambda done: seen.append(("second", done)))
    assert seen == []
    call._settle(value(1))
    assert seen == [("first", call), ("second", call)]


def test_a_callback_on_a_call_that_is_done_runs_at_once() -> None:
    call, seen = new(), list[Any]()
    call._settle(value(1))
    call.add_done_callback(lambda done: seen.append(threading.current_thread()))
    assert seen == [threading.current_thread()]


def test_a_callback_that_fails_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    call, seen = new(), list[Any]()

    def fail(_: Any) -> None:
        raise ZeroDivisionError("in a callback")

    call.add_done_callback(fail)
    call.add_done_callback(seen.append)
    call._settle(value(1))
    assert seen == [call]
    assert "in a callback" in caplog.text
    assert call.result() == 1


def test_a_callback_may_look_at_the_outcome_and_cancel_again() -> None:
    call, seen = new(), list[Any]()
    call.add_done_callback(lambda done: seen.append((done.cancel(), done.cancelled())))
    call.cancel()
    assert seen == [(True, True)]
    other = new()
    other.add_done_callback(lambda done: seen.append((done.cancel(), done.result())))
    other._settle(value(5))
    assert seen[1] == (False, 5)


def test_a_callback_that_ends_the_process_does_not_keep_the_others_from_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    call, seen = new(), list[Any]()

    def leave(_: Any) -> None:
        raise SystemExit(3)

    call.add_done_callback(leave)
    call.add_done_callback(seen.append)
    call._settle(value(1))
    assert seen == [call]
    assert "SystemExit" in caplog.text


def test_callbacks_run_where_the_session_says() -> None:
    call, posted, seen = new(), list[Callable[[], object]](), list[Any]()
    call._run_callback = posted.append
    call.add_done_callback(seen.append)
    call._settle(value(1))
    assert (seen, len(posted)) == ([], 1)
    posted[0]()
    assert seen == [call]


def test_two_callbacks_may_cancel_one_anothers_calls() -> None:
    for end in (lambda call: call._settle(value(1)), lambda call: call.cancel()):
        first, second, both_run = new(1), new(2), threading.Barrier(2)

        def cancel(other: Call[Any], barrier: threading.Barrier = both_run) -> None:
            barrier.wait(DEADLINE_S)
            other.cancel()

        first.add_done_callback(lambda _, other=second, cancel=cancel: cancel(other))  # type: ignore[misc]
        second.add_done_callback(lambda _, other=first, cancel=cancel: cancel(other))  # type: ignore[misc]
        threads = [threading.Thread(target=end, args=(call,), daemon=True) for call in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert not any(thread.is_alive() for thread in threads)


def test_cancelling_returns_although_a_callback_runs() -> None:
    call, is_running, may_end = new(), threading.Event(), threading.Event()

    def linger(_: Any) -> None:
        is_running.set()
        may_end.wait(DEADLINE_S)

    call.add_done_callback(linger)
    settling = threading.Thread(target=call._settle, args=(value(1),), daemon=True)
    settling.start()
    assert is_running.wait(DEADLINE_S)
    cancelling = ThreadPoolExecutor(1)
    try:
        assert cancelling.submit(call.cancel).result(DEADLINE_S / 2) is False
    finally:
        may_end.set()
        settling.join()
        cancelling.shutdown()


def test_ctrl_c_while_waiting_interrupts_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    call = new()

    def interrupted(self: Any, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(concurrent.futures.Future, "exception", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call.result()
    assert submission_of(call).interrupts == 1


def test_concurrent_wait_returns_when_told(later: Callable[[Callable[[], object]], None]) -> None:
    first, second = new(1), new(2)
    later(lambda: first._settle(value(1)))
    done, pending = concurrent.futures.wait([first, second], DEADLINE_S, FIRST_COMPLETED)
    assert (done, pending) == ({first}, {second})
    later(lambda: second._settle(failure(KeyError())))
    done, pending = concurrent.futures.wait([first, second], DEADLINE_S, FIRST_EXCEPTION)
    assert second in done
    assert concurrent.futures.wait([first, second]).not_done == set()


def test_concurrent_wait_ends_for_calls_that_are_cancelled(later: Callable[[Callable[[], object]], None]) -> None:
    first, second = new(1), new(2)
    later(first.cancel)
    later(second.cancel)
    assert concurrent.futures.wait([first, second], DEADLINE_S).done == {first, second}


def test_as_completed_yields_each_call_once(later: Callable[[Callable[[], object]], None]) -> None:
    calls = [new(number) for number in range(4)]
    calls[2].cancel()
    later(lambda: calls[3]._settle(value(3)))
    later(lambda: calls[0]._settle(failure(KeyError())))
    later(calls[1].cancel)
    seen = list(concurrent.futures.as_completed(calls, DEADLINE_S))
    assert len(seen) == 4
    assert set(seen) == set(calls)
    with pytest.raises(TimeoutError):
        list(concurrent.futures.as_completed([new()], 0.01))


def test_a_call_can_be_awaited_once_and_again(later: Callable[[Callable[[], object]], None]) -> None:
    call = new()

    async def main() -> Any:
        later(lambda: call._settle(value([1])))
        first = await call
        return first, await call

    first, second = asyncio.run(main())
    assert first == [1]
    assert first is second


def test_a_call_can_be_awaited_by_several_tasks(later: Callable[[Callable[[], object]], None]) -> None:
    call = new()

    async def main() -> list[Any]:
        async def one() -> Any:
            return await call

        tasks = [asyncio.create_task(one()) for _ in range(5)]
        await asyncio.sleep(0)
        later(lambda: call._settle(value(1)))
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [1] * 5


def test_a_call_can_be_awaited_from_several_loops() -> None:
    call = new()

    async def wait() -> Any:
        return await call

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(asyncio.run, wait()) for _ in range(3)]
        call._settle(value(1))
        assert [future.result(DEADLINE_S) for future in waiting] == [1, 1, 1]


def test_a_loop_that_ended_does_not_disturb_the_others() -> None:
    call = new()

    async def leave() -> None:
        task = asyncio.ensure_future(call.settled())
        await asyncio.sleep(0)
        # Not cancelled: the loop is closed with the task in it.
        leaving.append(task)

    leaving: list[asyncio.Future[None]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    call._settle(value(1))
    assert call.result(0) == 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "call_exception_handler", lambda _: None)  # "Task was destroyed but it is pending"
        leaving.clear()


def test_gather_keeps_order_and_can_return_exceptions(later: Callable[[Callable[[], object]], None]) -> None:
    first, second, third = new(1), new(2), new(3)

    async def main() -> Any:
        later(lambda: third._settle(value(3)))
        later(lambda: second._settle(failure(KeyError("x"))))
        later(lambda: first._settle(value(1)))
        return await asyncio.gather(first, second, third, return_exceptions=True)

    results = asyncio.run(main())
    assert (results[0], type(results[1]), results[2]) == (1, KeyError, 3)


def test_cancelling_the_task_that_waits_cancels_the_call() -> None:
    call = new()
    submission = submission_of(call)

    async def main() -> None:
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert call.cancelled()
    assert submission.cancels == 1


def test_a_time_limit_of_asyncio_cancels_the_call() -> None:
    call = new()

    async def main() -> None:
        await asyncio.wait_for(call, 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert call.cancelled()


def test_cancelling_a_task_that_has_not_begun_cancels_its_call() -> None:
    first, second = new(1), new(2)

    async def main() -> None:
        task = asyncio.create_task(first)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.TaskGroup() as group:
            group.create_task(second)
            raise KeyError("before anything ran")

    with pytest.raises(ExceptionGroup):
        asyncio.run(main())
    assert first.cancelled()
    assert second.cancelled()


def test_a_call_can_be_the_task_itself_in_two_loops(later: Callable[[Callable[[], object]], None]) -> None:
    call, waiting = new(), threading.Barrier(3)

    async def main() -> Any:
        tasks = [asyncio.create_task(call), asyncio.create_task(call)]
        await asyncio.sleep(0)
        waiting.wait(DEADLINE_S)
        return await asyncio.gather(*tasks)

    with ThreadPoolExecutor(2) as pool:
        loops = [pool.submit(asyncio.run, main()) for _ in range(2)]
        waiting.wait(DEADLINE_S)
        call._settle(value(1))
        assert [loop.result(DEADLINE_S) for loop in loops] == [[1, 1], [1, 1]]
    assert not call._waits


def test_a_time_limit_around_several_calls_cancels_them() -> None:
    first, second = new(1), new(2)

    async def main() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.gather(first, second)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert first.cancelled()
    assert second.cancelled()


def test_a_call_that_fails_in_a_task_group_cancels_the_others(
    later: Callable[[Callable[[], object]], None],
) -> None:
    calls = [new(number) for number in range(3)]

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(call)) for call in calls]
            await asyncio.sleep(0)
            later(lambda: calls[0]._settle(value("done")))
            assert await tasks[0] == "done"
            later(lambda: calls[1]._settle(failure(KeyError("x"))))

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert [call.cancelled() for call in calls] == [False, False, True]


def test_one_of_several_waiting_tasks_that_is_shielded_may_leave_without_the_others(
    later: Callable[[Callable[[], object]], None],
) -> None:
    call = new()

    async def main() -> Any:
        patient = asyncio.create_task(_awaited(call))
        hasty = asyncio.create_task(asyncio.wait_for(asyncio.shield(patient), 0.01))
        with pytest.raises(TimeoutError):
            await hasty
        later(lambda: call._settle(value(1)))
        return await patient

    assert asyncio.run(main()) == 1


def test_cancelling_in_one_loop_ends_the_wait_in_another() -> None:
    call, is_waiting = new(), threading.Event()

    async def wait() -> None:
        asyncio.get_running_loop().call_soon(is_waiting.set)
        with pytest.raises(JobCancelled):
            await call

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(asyncio.run, wait())
        assert is_waiting.wait(DEADLINE_S)

        async def cancel() -> None:
            task = asyncio.create_task(_awaited(call))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
        waiting.result(DEADLINE_S)


def test_a_shielded_call_goes_on() -> None:
    call = new()

    async def main() -> Any:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(call), 0.01)
        assert not call.cancelled()
        call._settle(value(1))
        return await call

    assert asyncio.run(main()) == 1


def test_awaiting_a_call_that_was_cancelled_raises_ours_and_not_that_of_asyncio(
    later: Callable[[Callable[[], object]], None],
) -> None:
    call = new()

    async def main() -> None:
        later(call.cancel)
        await call

    with pytest.raises(JobCancelled) as caught:
        asyncio.run(main())
    assert not isinstance(caught.value, asyncio.CancelledError)


def test_wrap_future_works(later: Callable[[Callable[[], object]], None]) -> None:
    call, cancelled = new(1), new(2)

    async def main() -> Any:
        later(lambda: call._settle(value(1)))
        later(cancelled.cancel)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wrap_future(cancelled)
        return await asyncio.wrap_future(call)

    assert asyncio.run(main()) == 1


def test_stop_iteration_of_the_function_does_not_end_a_coroutine_quietly() -> None:
    call = new()
    call._settle(failure(StopIteration("over")))

    async def main() -> Any:
        return await call

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(main())
    assert isinstance(call.exception(), StopIteration)


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


def test_ctrl_c_while_a_value_is_unpickled_does_not_lose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interrupting, "presses", 0)
    call = new()
    call._settle(Outcome(result=pickle.dumps(Interrupting())))
    with pytest.raises(KeyboardInterrupt):
        call.result()
    assert call.result() == "kept"
    assert call.exception() is None


class FrozenError(Exception):
    """An exception that refuses every attribute."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def fail_frozen() -> None:
    raise FrozenError("frozen")


class Unfreezing:
    def __reduce__(self) -> tuple[Any, ...]:
        return fail_frozen, ()


def test_an_exception_that_takes_no_note_is_the_outcome_all_the_same() -> None:
    call = new()
    call._settle(Outcome(result=pickle.dumps(Unfreezing())))
    for _ in range(2):
        with pytest.raises(FrozenError):
            call.result()


def test_a_function_that_returned_a_generator_is_an_error_that_says_so() -> None:
    call = new()
    call._settle(Outcome(ended=True, count=3))
    with pytest.raises(UnpicklableError, match="generator function"):
        call.result()


def test_a_value_that_does_not_unpickle_is_an_exception_with_a_note() -> None:
    call = new()
    call._settle(Outcome(result=b"\x80\x05garbage"))
    error = call.exception()
    assert error is not None
    assert error.__notes__ == ["raised here while the result of f() was unpickled"]
    with pytest.raises(type(error)):
        call.result()


def test_a_call_made_in_place_has_its_outcome_at_once() -> None:
    call, failed = new(1), new(2)
    call._run_here(lambda: 5)
    assert call.result(0) == 5

    def fail() -> None:
        raise KeyError("here")

    failed._run_here(fail)
    with pytest.raises(KeyError, match="here"):
        failed.result(0)
    assert asyncio.run(_awaited(call)) == 5


async def _awaited(call: Call[Any]) -> Any:
    return await call
