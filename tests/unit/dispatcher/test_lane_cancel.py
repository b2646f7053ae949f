# SPDX-License-Identifier: Apache-2.0
"""Cancelling a call wherever it is: queued, being sent, running, or about to be sent again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flash_plugins import Call, Connection, JobCancelled, PlatformUnavailable, RateLimit
from flash_plugins.dispatcher import Session, queue_lane
from flash_plugins.dispatcher import session as session_module
from flash_plugins.platforms.runpod import RunpodClient
from tests.unit.dispatcher.conftest import Events, config_of
from tests.unit.dispatcher.fake import DEADLINE_S, KEY, Answer, FakePlatform, FakeRunpod, Gate, Request

Submit = Callable[..., Call[Any]]


def until_final(fake: FakeRunpod, events: Events, call: Call[Any]) -> None:
    """Wait for the last event of a call: then nothing more is asked for it."""
    fake.wait_until(
        lambda: [event for event in list(events.seen) if event.call_id == call.number and event.stage.is_final],
        f"no final event of {call!r}",
    )


@pytest.fixture
def slow(fake: FakeRunpod, monkeypatch: pytest.MonkeyPatch) -> FakeRunpod:
    monkeypatch.setattr(queue_lane, "_TRANSPORT_PAUSE_S", 0.02)
    fake.is_slow = True
    return fake


def test_a_running_job_is_cancelled_on_the_platform(slow: FakeRunpod, submit: Submit, events: Events) -> None:
    call = submit()
    slow.wait_for("stream")
    assert call.cancel()
    assert call.cancelled()
    with pytest.raises(JobCancelled, match="job-1") as caught:
        call.result()
    assert caught.value.job_id == "job-1"
    (cancel,) = slow.wait_for("cancel")
    assert (cancel.method, cancel.job_id) == ("POST", "job-1")
    slow.wait_for("status")
    until_final(slow, events, call)
    assert events.stages(call) == ["queued", "sent", "cancelled"]


def test_a_call_cancelled_twice_is_cancelled_on_the_platform_once(
    slow: FakeRunpod, submit: Submit, events: Events
) -> None:
    call = submit()
    slow.wait_for("stream")
    assert call.cancel()
    assert call.cancel()
    slow.wait_for("status")
    until_final(slow, events, call)
    assert len(slow.seen("cancel")) == 1


def test_a_call_cancelled_before_its_job_has_an_id_is_cancelled_as_soon_as_it_has(
    slow: FakeRunpod, submit: Submit
) -> None:
    gate = Gate(slow)
    slow.script("runSync", gate)
    call = submit()
    slow.wait_for("runSync")
    assert call.job_id is None
    assert call.cancel()
    assert not slow.seen("cancel")
    gate.open()
    assert slow.wait_for("cancel")[0].job_id == "job-1"


def test_a_call_that_waits_to_be_sent_is_never_sent(fake: FakeRunpod, submit: Submit, events: Events) -> None:
    gate = Gate(fake)
    fake.script("create", gate)
    dropped, kept = submit("dropped"), submit("kept")
    fake.wait_for("create")
    assert dropped.cancel()
    assert not dropped.running()
    gate.open()
    assert kept.result(DEADLINE_S) == "kept"
    assert len(fake.seen("runSync")) == 1
    assert events.stages(dropped) == ["queued", "cancelled"]


def test_a_call_cancelled_while_the_platform_refuses_it_is_not_sent_again(
    fake: FakeRunpod, submit: Submit, events: Events
) -> None:
    fake.script("runSync", Answer(429, {}, {"Retry-After": "0.1"}))
    call = submit()
    fake.wait_for("runSync")
    assert call.cancel()
    until_final(fake, events, call)
    assert not fake.jobs
    assert len(fake.seen("runSync")) == 1
    assert not fake.seen("cancel")


def test_a_call_cancelled_while_a_worker_lacks_its_code_is_not_sent_again(
    fake: FakeRunpod, submit: Submit, events: Events
) -> None:
    # given a second worker that lacks the code of the first call
    submit().result(DEADLINE_S)
    fake.has.clear()
    gate = Gate(fake)
    fake.script("runSync", gate)
    call = submit()
    fake.wait_for("runSync", 2)
    # when
    assert call.cancel()
    gate.open()
    until_final(fake, events, call)
    # then
    assert len(fake.seen("runSync")) == 2


def test_cancelling_reaches_the_job_that_was_sent_again(fake: FakeRunpod, submit: Submit) -> None:
    submit().result(DEADLINE_S)
    fake.has.clear()
    gate = Gate(fake)

    def lack_the_code(request: Any) -> Answer:
        answer = fake._submit(request)
        fake.is_slow = True
        return answer

    fake.script("runSync", lack_the_code, gate)
    call = submit()
    fake.wait_for("runSync", 3)
    assert call.cancel()
    gate.open()
    assert fake.wait_for("cancel")[0].job_id == "job-3"
    assert len(fake.seen("cancel")) == 1


@pytest.mark.parametrize(
    "trouble", [Answer(429, {}, {"Retry-After": "0.02"}), Answer(404, {"error": "no such job"}), Answer(502, b"bad")]
)
def test_a_cancellation_is_repeated_until_the_platform_takes_it(
    slow: FakeRunpod, submit: Submit, events: Events, trouble: Answer
) -> None:
    slow.script("cancel", trouble, trouble)
    call = submit()
    slow.wait_for("stream")
    assert call.cancel()
    slow.wait_for("cancel", 3)
    until_final(slow, events, call)
    assert slow.jobs["job-1"].status == "CANCELLED"


def test_a_cancellation_that_is_refused_is_logged_and_the_job_is_followed(
    slow: FakeRunpod, submit: Submit, caplog: pytest.LogCaptureFixture, events: Events
) -> None:
    slow.script("cancel", Answer(403, {"error": "not yours"}))
    call = submit()
    slow.wait_for("stream")
    assert call.cancel()
    slow.wait_for("cancel")
    slow.wait_until(lambda: "not yours" in caplog.text, "nothing was logged")
    slow.finish("job-1")
    until_final(slow, events, call)
    assert "could not be cancelled" in caplog.text


def test_cancelling_all_reaches_every_call(slow: FakeRunpod, submit: Submit, session: Session) -> None:
    calls = [submit(n, config=config_of(f"lane{n % 2}")) for n in range(10)]
    slow.wait_for("stream", 10)
    session.cancel_all()
    slow.wait_for("cancel", 10)
    assert all(call.cancelled() for call in calls)
    assert {request.job_id for request in slow.seen("cancel")} == set(slow.jobs)


def test_nobody_is_asked_to_cancel_what_is_gone_with_its_platform(
    slow: FakeRunpod, submit: Submit, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    call = submit()
    slow.wait_for("stream")
    done = threading.Event()

    def leave() -> None:
        session._forget_platform("platform 'fake' ended")
        call.cancel()
        done.set()

    session.loop.post(leave)
    assert done.wait(DEADLINE_S)
    session.close()
    assert call.cancelled()
    assert not slow.seen("cancel")
    assert not caplog.records


def test_callbacks_of_calls_that_ctrl_c_cancelled_do_not_hold_up_the_dispatcher(
    slow: FakeRunpod, submit: Submit, session: Session
) -> None:
    threads: list[str] = []
    call = submit()
    call.add_done_callback(lambda _: threads.append(threading.current_thread().name))
    slow.wait_for("stream")
    session.cancel_all()
    slow.wait_until(lambda: threads, "no callback")
    assert threads == ["flash-delivery"]


def test_no_more_cancels_are_open_than_the_platform_takes(
    slow: FakeRunpod, submit: Submit, session: Session, platform: FakePlatform
) -> None:
    limits = {"cancel": RateLimit(1000, 1.0, 3)}
    platform.connection = Connection(api_base=slow.base, key=KEY, limits=limits)
    is_open, most = 0, 0

    async def count(request: Request) -> Answer:
        nonlocal is_open, most
        is_open += 1
        most = max(most, is_open)
        await asyncio.sleep(0.01)
        is_open -= 1
        return await slow.behave(request)

    slow.script("cancel", *[count] * 30)
    for n in range(30):
        submit(n)
    slow.wait_for("stream", 30)
    session.cancel_all()
    slow.wait_for("cancel", 30)
    assert most == 3


def test_cancels_are_spread_over_time(
    slow: FakeRunpod, submit: Submit, session: Session, platform: FakePlatform
) -> None:
    limits = {"cancel": RateLimit(100, 1.0, 20)}  # Runpod's, ten times as fast
    platform.connection = Connection(api_base=slow.base, key=KEY, limits=limits)
    for n in range(70):
        submit(n)
    slow.wait_for("stream", 70)
    session.cancel_all()
    slow.wait_for("cancel", 70)
    first, *_, last = slow.seen("cancel")
    assert last.at - first.at >= 0.4  # fifty at once, then forty a second


def test_the_end_of_the_process_says_what_it_waits_for(
    slow: FakeRunpod, submit: Submit, session: Session, platform: FakePlatform,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(session_module, "_SILENCE_S", 0.05)
    platform.outlives_us = True
    slow.script("cancel", *[Answer(429, {}, {"Retry-After": "0.5"})] * 2)
    for n in range(2):
        submit(n)
    slow.wait_for("stream", 2)
    session.close()
    assert {job.status for job in slow.jobs.values()} == {"CANCELLED"}
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["flash-plugins: 2 jobs are still to be cancelled on the platform; Ctrl-C leaves them running"]


def test_the_end_of_the_process_does_not_wait_for_a_cancel_that_broke(
    slow: FakeRunpod, submit: Submit, session: Session, platform: FakePlatform,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    async def broken(*args: object) -> None:
        raise RuntimeError("broken on purpose")

    platform.outlives_us = True
    submit()
    slow.wait_for("stream")
    monkeypatch.setattr(RunpodClient, "cancel", broken)
    session.close()
    assert "broken on purpose" in caplog.text


def test_ctrl_c_at_the_end_leaves_at_once_and_names_the_jobs(
    slow: FakeRunpod, submit: Submit, session: Session, platform: FakePlatform,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(session_module, "_SILENCE_S", 0.05)
    platform.outlives_us = True
    slow.script("cancel", *[Answer(429, {}, {"Retry-After": "100"})] * 2)
    for n in range(2):
        submit(n)
    slow.wait_for("stream", 2)
    call_loop, looks = session.loop.call, 0

    def interrupted(coroutine: Any, timeout_s: float) -> Any:
        nonlocal looks
        if coroutine.__name__ == "_not_cancelled":
            looks += 1
            if looks == 2:
                coroutine.close()
                raise KeyboardInterrupt
        return call_loop(coroutine, timeout_s)

    monkeypatch.setattr(session.loop, "call", interrupted)
    session.close()
    last = capsys.readouterr().err.splitlines()[-1]
    assert "not cancelled" in last
    assert "job-1" in last
    assert "job-2" in last


def test_the_end_of_the_process_waits_until_the_platform_was_told(
    slow: FakeRunpod, submit: Submit, session: Session, platform: FakePlatform
) -> None:
    platform.outlives_us = True
    gate = Gate(slow)
    slow.script("runSync", gate)
    unsent = submit(1)
    slow.wait_for("runSync")
    slow.loop.call_soon_threadsafe(lambda: slow.loop.call_later(0.1, gate._opened.set))
    session.close()
    assert unsent.cancelled()
    assert slow.jobs["job-1"].status == "CANCELLED"
    with pytest.raises(PlatformUnavailable, match="ending"):
        submit(2)
    session.close()  # once more is nothing
