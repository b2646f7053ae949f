# SPDX-License-Identifier: Apache-2.0
"""The background threads outlive whatever is run in them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flash_plugins import Call
from flash_plugins.dispatcher.threads import BackgroundLoop, DeliveryThread, wake
from tests.unit.dispatcher.fake import DEADLINE_S, FakeRunpod

ENDINGS = [ZeroDivisionError("in it"), SystemExit(3), KeyboardInterrupt()]

every_ending = pytest.mark.parametrize("error", ENDINGS, ids=lambda error: type(error).__name__)


@pytest.fixture
def background() -> Iterator[BackgroundLoop]:
    made = BackgroundLoop()
    yield made
    made.stop()
    assert not made._thread.is_alive()


@pytest.fixture
def delivery() -> Iterator[DeliveryThread]:
    made = DeliveryThread()
    yield made
    made.stop()


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@every_ending
def test_an_action_that_fails_does_not_strand_those_after_it(
    background: BackgroundLoop, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    started, ran = threading.Event(), threading.Event()
    background.post(lambda: started.wait(DEADLINE_S))  # the next ones are run in one go
    background.post(raising(error))
    background.post(ran.set)
    started.set()
    assert ran.wait(DEADLINE_S)
    assert type(error).__name__ in caplog.text
    later = threading.Event()
    background.post(later.set)
    assert later.wait(DEADLINE_S)


@every_ending
def test_a_task_that_fails_does_not_end_the_loop(
    background: BackgroundLoop, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise error

    background.post(lambda: background.spawn(fail()))

    async def answer() -> int:
        return 1

    assert background.call(answer(), DEADLINE_S) == 1
    assert background.call(answer(), DEADLINE_S) == 1
    assert type(error).__name__ in caplog.text


@every_ending
def test_a_delivery_that_fails_does_not_keep_back_the_others(
    delivery: DeliveryThread, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    ran = threading.Event()
    delivery.post(raising(error))
    delivery.post(ran.set)
    assert ran.wait(DEADLINE_S)
    assert "Traceback" in caplog.text


def test_deliveries_come_in_order_from_many_threads_and_on_one(delivery: DeliveryThread) -> None:
    seen, done = list[tuple[int, int, int]](), threading.Barrier(5)

    def post(source: int) -> None:
        for n in range(100):
            delivery.post(lambda n=n: seen.append((source, n, threading.get_ident())))  # type: ignore[misc]
        delivery.post(lambda: None)
        done.wait(DEADLINE_S)

    threads = [threading.Thread(target=post, args=(source,)) for source in range(4)]
    for thread in threads:
        thread.start()
    done.wait(DEADLINE_S)
    delivery.stop()
    for thread in threads:
        thread.join()
    assert len({thread for _, _, thread in seen}) == 1
    assert [[n for source, n, _ in seen if source == wanted] for wanted in range(4)] == [list(range(100))] * 4


def test_what_is_posted_after_the_end_runs_at_once(delivery: DeliveryThread) -> None:
    delivery.post(lambda: None)
    delivery.stop()
    seen: list[int] = []
    delivery.post(lambda: seen.append(1))
    assert seen == [1]


def test_a_callback_that_ends_the_process_does_not_end_later_calls(
    fake: FakeRunpod, submit: Callable[..., Call[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    fake.is_slow = True
    first, arrived = submit(1), threading.Event()
    first.add_done_callback(lambda _: raising(SystemExit(3))())
    second = submit(2)
    second.add_done_callback(lambda _: arrived.set())
    fake.wait_for("stream", 2)
    fake.finish("job-1")
    assert first.result(DEADLINE_S) == 1
    fake.finish("job-2")
    assert second.result(DEADLINE_S) == 2
    assert arrived.wait(DEADLINE_S)
    assert "SystemExit" in caplog.text


def test_a_callback_that_lingers_does_not_hold_up_cancelling_or_outcomes(
    fake: FakeRunpod, submit: Callable[..., Call[Any]]
) -> None:
    fake.is_slow = True
    first, second, third = submit(1), submit(2), submit(3)
    is_running, may_end = threading.Event(), threading.Event()

    def linger(_: Any) -> None:
        is_running.set()
        may_end.wait(DEADLINE_S)

    first.add_done_callback(linger)
    third.add_done_callback(lambda _: None)
    fake.wait_for("stream", 3)
    fake.finish("job-1")
    try:
        assert is_running.wait(DEADLINE_S)
        assert not first.cancel()
        fake.finish("job-3")
        assert third.result(DEADLINE_S / 2) == 3
        assert second.cancel()
        assert second.cancelled()
    finally:
        may_end.set()


def test_waking_a_loop_that_is_closed_does_nothing() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    wake(loop, lambda: None)
