# SPDX-License-Identifier: Apache-2.0
"""Calls that wait: their user is told why, rarely, and waiting in vain ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from flash_plugins import Call, WaitTimeout, WorkerLost, WorkerStartFailed, hookimpl
from flash_plugins.dispatcher import Session, queue_lane, watch
from tests.unit.dispatcher.fake import DEADLINE_S, Answer, FakeRunpod, problem, workers_answer

Submit = Callable[..., Call[Any]]

NOTHING_RUNS = {"jobs": {"inQueue": 2}, "workers": {"throttled": 1}}


class Reader:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    def flash_notice(self, text: str) -> None:
        self.seen.append(text)


@pytest.fixture
def told(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(watch, "LOOK_AFTER_S", 0.05)
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.05)
    reader = Reader()
    session.hooks.register(reader)
    return reader.seen


@pytest.fixture
def slow(fake: FakeRunpod) -> FakeRunpod:
    fake.is_slow = True
    return fake


def log(*lines: str) -> Answer:
    events = (f'id: {n}\ndata: {json.dumps({"source": "container", "line": line, "ts": "t"})}\n\n'
              for n, line in enumerate(lines))  # fmt: skip
    return Answer(200, "".join(events).encode(), {"Content-Type": "text/event-stream"})


def test_calls_without_capacity_are_told_once(slow: FakeRunpod, submit: Submit, told: list[str]) -> None:
    slow.script("health", *[Answer(content=NOTHING_RUNS)] * 50)
    slow.script("workers", *[workers_answer([("w1", "THROTTLED")])] * 50)
    calls = [submit(1), submit(2)]
    slow.wait_for("workers", 4)
    for job in ("job-1", "job-2"):
        slow.finish(job)
    assert [call.result(DEADLINE_S) for call in calls] == [1, 2]
    assert len(told) == 1
    assert told[0].startswith("calls of endpoint 'lane' wait: 1 worker waits for capacity")


def test_a_wait_that_ends_says_what_the_last_look_told(slow: FakeRunpod, submit: Submit, told: list[str]) -> None:
    slow.script("health", *[Answer(content={"workers": {"initializing": 1}})] * 50)
    slow.script("workers", *[workers_answer([("w1", "INITIALIZING")])] * 50)
    for _ in range(50):
        slow.script("logs", log("Downloading torch (800 MB)"), problem(404, "gone"))
    call = submit(1)
    slow.wait_until(lambda: told, "nobody is told")
    with pytest.raises(WaitTimeout, match=r"Downloading torch \(800 MB\)"):
        call.result(1.2)
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1


def test_another_reason_is_told_too(slow: FakeRunpod, submit: Submit, told: list[str]) -> None:
    slow.script("health", *[Answer(content=NOTHING_RUNS)] * 50)
    slow.script("workers", workers_answer([("w1", "THROTTLED")]), *[workers_answer([("w1", "INITIALIZING")])] * 50)
    call = submit(1)
    slow.wait_until(lambda: len(told) == 2, "nobody is told")
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1
    assert "starts since" in told[1]


def test_calls_that_run_or_will_are_left_alone(slow: FakeRunpod, submit: Submit, told: list[str]) -> None:
    slow.script("health", *[Answer(content={"jobs": {"inQueue": 9}, "workers": {"running": 1}})] * 50)
    call = submit(1)
    slow.wait_for("health", 3)
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1
    assert told == []
    assert not slow.seen("workers")


def test_calls_whose_workers_end_again_and_again_fail_with_the_traceback(
    slow: FakeRunpod, submit: Submit, told: list[str]
) -> None:
    slow.script("health", *[Answer(content={"workers": {"initializing": 1}})] * 50)
    slow.script("workers", *(workers_answer([(f"w{n}", "INITIALIZING")]) for n in range(1, 50)))
    for _ in range(50):
        slow.script("logs", log("Traceback (most recent call last):", "ImportError: no libcuda"), problem(404, "gone"))
    calls = [submit(1), submit(2)]
    for call in calls:
        error = call.exception(DEADLINE_S)
        assert isinstance(error, WorkerStartFailed)
        assert isinstance(error, WorkerLost)
        assert "Traceback (most recent call last):\nImportError: no libcuda" in str(error)
        assert error.job_id == call.job_id
    assert {request.job_id for request in slow.seen("cancel")} == {"job-1", "job-2"}


def test_calls_that_are_given_up_end_though_cancelling_them_fails_at_first(
    slow: FakeRunpod, submit: Submit, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_lane, "_MAX_TRANSPORT_ERRORS", 1)
    slow.script("health", *[Answer(content={"workers": {"initializing": 1}})] * 50)
    slow.script("workers", *(workers_answer([(f"w{n}", "INITIALIZING")]) for n in range(1, 50)))
    for _ in range(50):
        slow.script("logs", log("ImportError: no libcuda"), problem(404, "gone"))
    slow.script("cancel", problem(500, "try later"))
    assert isinstance(submit(1).exception(DEADLINE_S), WorkerStartFailed)
    assert len(slow.seen("cancel")) == 2


def test_a_platform_that_cannot_say_why_is_asked_again(slow: FakeRunpod, submit: Submit, told: list[str]) -> None:
    slow.script("health", *[Answer(404, {"error": "nothing here"})] * 50)
    slow.script("workers", *[problem(404, "nothing here")] * 3, *[workers_answer([("w1", "THROTTLED")])] * 50)
    call = submit(1)
    slow.wait_until(lambda: told, "nobody is told")
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1
