# SPDX-License-Identifier: Apache-2.0
"""Sending a call: it is accepted once, sent again only where that is safe, and never lost."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flash_plugins import ApiError, Call, PlatformUnavailable, SubmissionUnknown
from flash_plugins.dispatcher import Session, queue_lane, window
from flash_plugins.dispatcher.queue_lane import QueueLane
from flash_plugins.platforms import carrier, rest
from flash_plugins.platforms.http import HttpClient, TransportFailure
from tests.unit.dispatcher.conftest import Events, config_of
from tests.unit.dispatcher.fake import DEADLINE_S, RESET, Answer, FakeRunpod, Request

Submit = Callable[..., Call[Any]]

TOO_MANY = Answer(429, {"error": "slow down"}, {"Retry-After": "0.05"})


@pytest.fixture
def unanswered(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a request got no answer; pauses are short."""
    happened = threading.Event()
    send = HttpClient.answer

    async def watched(self: HttpClient, *args: Any, **kwargs: Any) -> Any:
        try:
            return await send(self, *args, **kwargs)
        except TransportFailure:
            happened.set()
            raise

    monkeypatch.setattr(HttpClient, "answer", watched)
    monkeypatch.setattr(queue_lane, "_TRANSPORT_PAUSE_S", 0.02)
    return happened


def test_a_short_call_takes_one_request(fake: FakeRunpod, submit: Submit, events: Events) -> None:
    call = submit({"x": [1, 2]})
    assert call.result(DEADLINE_S) == {"x": [1, 2]}
    (sent,) = fake.seen("runSync")
    assert sent.query == {"wait": ["1000"]}
    assert not fake.seen("status")
    assert not fake.seen("stream")
    assert (call.job_id, call.worker_id, call.worker_pid, call.execution_s) == ("job-1", "w1", 7, 0.5)
    assert events.stages(call) == ["queued", "sent", "done"]
    last = events.seen[-1]
    assert (last.endpoint, last.function, last.job_id, last.worker_id, last.seconds) == (
        "lane", "echo", "job-1", "w1", 0.5,
    )  # fmt: skip


def test_every_request_carries_the_key_as_bearer(fake: FakeRunpod, submit: Submit) -> None:
    submit().result(DEADLINE_S)
    assert {request.headers["authorization"] for request in fake.requests} == {"Bearer rpa_S3CRETS3CRETS3CRET"}


def test_the_time_limit_of_the_endpoint_rides_in_the_policy(fake: FakeRunpod, submit: Submit) -> None:
    submit(config=config_of("limited", execution_timeout_ms=5000)).result(DEADLINE_S)
    submit(config=config_of("unlimited")).result(DEADLINE_S)
    limited, unlimited = (request.json["policy"] for request in fake.seen("runSync"))
    assert limited == {"executionTimeout": 5_000, "ttl": 86_405_000}
    assert unlimited == {"executionTimeout": 86_400_000, "ttl": 172_800_000}


def test_a_call_that_was_refused_for_its_rate_is_sent_again_and_accepted_once(
    fake: FakeRunpod, submit: Submit, session: Session
) -> None:
    fake.script("runSync", TOO_MANY, TOO_MANY)
    call = submit(5)
    assert call.result(DEADLINE_S) == 5
    first, second, third = fake.seen("runSync")
    assert first.body == second.body == third.body
    assert second.at - first.at >= 0.05
    assert len(fake.jobs) == 1
    (used,) = session._lanes.values()
    assert isinstance(used, QueueLane)
    assert used._window.size == 50  # 200, halved twice


def test_calls_that_are_refused_together_halve_the_window_once(
    fake: FakeRunpod, submit: Submit, session: Session
) -> None:
    submit().result(DEADLINE_S)
    arrived, all_arrived = [], asyncio.Event()

    async def refuse(request: Request) -> Answer:
        arrived.append(request)
        if len(arrived) == 8:
            all_arrived.set()
        await all_arrived.wait()
        return TOO_MANY

    fake.script("runSync", *[refuse] * 8)
    calls = [submit(n) for n in range(8)]
    assert [call.result(DEADLINE_S) for call in calls] == list(range(8))
    (used,) = session._lanes.values()
    assert isinstance(used, QueueLane)
    assert 100 <= used._window.size <= 102


def test_refused_questions_and_cancels_do_not_narrow_the_window(
    fake: FakeRunpod, submit: Submit, session: Session
) -> None:
    fake.is_slow = True
    fake.script("stream", TOO_MANY, TOO_MANY)
    fake.script("cancel", TOO_MANY, TOO_MANY)
    call = submit()
    fake.wait_for("stream", 3)
    call.cancel()
    fake.wait_for("cancel", 3)
    fake.wait_for("status")
    (used,) = session._lanes.values()
    assert isinstance(used, QueueLane)
    assert used._window.size == 200


@pytest.mark.parametrize("operation", ["list", "runSync", "stream"])
def test_a_platform_that_refuses_for_ever_is_an_error_with_the_reason(
    fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    monkeypatch.setattr(window, "PATIENCE_S", 0.3)
    monkeypatch.setattr(rest, "RATE_PATIENCE_S", 0.3)
    monkeypatch.setattr(rest, "FIRST_PAUSE_S", 0.01)
    fake.is_slow = True
    fake.script(operation, *[TOO_MANY] * 100)
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, PlatformUnavailable)
    assert "rate limit" in str(error)
    assert "slow down" in str(error)


def test_a_pause_that_is_longer_than_anybody_waits_is_an_error_at_once(fake: FakeRunpod, submit: Submit) -> None:
    fake.script("list", Answer(429, {"error": "come back tomorrow"}, {"Retry-After": "86400"}))
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, PlatformUnavailable)
    assert "come back tomorrow" in str(error)


def test_many_calls_survive_a_burst_of_refusals(fake: FakeRunpod, submit: Submit, session: Session) -> None:
    fake.script("runSync", *[TOO_MANY] * 30)
    calls = [submit(n) for n in range(60)]
    assert [call.result(DEADLINE_S) for call in calls] == list(range(60))
    assert len(fake.jobs) == 60
    (used,) = session._lanes.values()
    assert isinstance(used, QueueLane)
    assert 1 <= used._window.size < 200


def test_no_more_calls_fly_than_the_window_allows(fake: FakeRunpod, submit: Submit) -> None:
    fake.is_slow = True
    calls = [submit(n) for n in range(230)]
    fake.wait_for("stream", 200)
    assert len(fake.seen("runSync")) == 200
    assert sum(call.running() for call in calls) == 200
    assert "waiting here to be sent" in repr(calls[-1])
    fake.is_slow = False
    for job_id in list(fake.jobs):
        fake.finish(job_id)
    assert [call.result(DEADLINE_S) for call in calls] == list(range(230))


def test_a_refused_connection_is_tried_again(
    fake: FakeRunpod, submit: Submit, session: Session, unanswered: threading.Event
) -> None:
    fake.keeps_alive = False
    submit().result(DEADLINE_S)
    fake.deafen()
    call = submit("late")
    assert unanswered.wait(DEADLINE_S)
    assert not call.done()
    fake.listen()
    assert call.result(DEADLINE_S) == "late"
    assert len(fake.seen("runSync")) == 2


def test_a_platform_that_stays_unreachable_is_an_error(
    fake: FakeRunpod, submit: Submit, unanswered: threading.Event
) -> None:
    fake.keeps_alive = False
    submit().result(DEADLINE_S)
    fake.deafen()
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, PlatformUnavailable)
    assert isinstance(error, ConnectionError)
    assert "could not be sent" in str(error)


def test_a_connection_that_is_never_made_was_never_sent(
    fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch, unanswered: threading.Event
) -> None:
    # given a server whose queue of connections is full, so that packets to it are dropped
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        monkeypatch.setattr(carrier, "_CONNECT_TIMEOUT_S", 0.1)
        fake.url_base = f"http://127.0.0.1:{full.getsockname()[1]}"
        # when
        error = submit().exception(DEADLINE_S)
        for filler in fillers:
            filler.close()
    # then
    assert isinstance(error, PlatformUnavailable), repr(error)


def test_a_connection_lost_after_the_request_was_read_is_not_sent_again(fake: FakeRunpod, submit: Submit) -> None:
    submit().result(DEADLINE_S)
    fake.script("runSync", RESET)
    call = submit()
    error = call.exception(DEADLINE_S)
    assert isinstance(error, SubmissionUnknown)
    assert "not sent again" in str(error)
    assert len(fake.seen("runSync")) == 2
    assert submit("next").result(DEADLINE_S) == "next"


def test_a_connection_lost_while_the_answer_is_awaited_is_not_sent_again(fake: FakeRunpod, submit: Submit) -> None:
    released = asyncio.Event()

    async def accept_and_vanish(request: Request) -> Answer:
        await fake.behave(request)
        released.set()
        return RESET

    fake.script("runSync", accept_and_vanish)
    assert isinstance(submit().exception(DEADLINE_S), SubmissionUnknown)
    assert len(fake.seen("runSync")) == len(fake.jobs) == 1


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("status", [500, 502, 503])
def test_after_an_internal_error_of_the_platform_the_job_may_run(
    fake: FakeRunpod, submit: Submit, status: int, streams: bool
) -> None:
    operation = "run" if streams else "runSync"
    fake.script(operation, Answer(status, b"<html>it broke</html>", {"Content-Type": "text/html"}))
    error = submit(streams=streams).exception(DEADLINE_S)
    assert isinstance(error, SubmissionUnknown)
    assert isinstance(error.__cause__, ApiError)
    assert error.__cause__.status == status
    assert "it broke" in str(error)
    assert len(fake.seen(operation)) == 1


@pytest.mark.parametrize("status", [400, 405, 413, 422])
def test_a_refused_submission_surely_does_not_run(fake: FakeRunpod, submit: Submit, status: int) -> None:
    fake.script("runSync", Answer(status, {"error": "not like this"}))
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, ApiError)
    assert error.status == status
    assert "not like this" in str(error)


def test_after_an_answer_that_nobody_described_the_job_may_run(fake: FakeRunpod, submit: Submit) -> None:
    fake.script("runSync", Answer(200, b"pong"), Answer(200, {"id": "job-x"}), Answer(200, [1]))
    for words in ("pong", "job-x", "[1]"):
        error = submit().exception(DEADLINE_S)
        assert isinstance(error, SubmissionUnknown)
        assert words in str(error)


def test_two_endpoints_have_windows_of_their_own(fake: FakeRunpod, submit: Submit) -> None:
    fake.script("runSync", *[Answer(429, {}, {"Retry-After": "30"})])
    stuck = submit(config=config_of("stuck"))
    fake.wait_for("runSync")
    assert submit(1, config=config_of("free")).result(DEADLINE_S) == 1
    assert not stuck.done()
    stuck.cancel()
