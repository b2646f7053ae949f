# SPDX-License-Identifier: Apache-2.0
"""A job that the platform has accepted: how its end is noticed, and what each kind of end becomes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from flash_plugins import (
    ApiError,
    Call,
    EnvelopeError,
    JobCancelled,
    JobError,
    JobExpired,
    JobFailed,
    JobTimeout,
    PlatformUnavailable,
    WorkerLost,
)
from flash_plugins.code import dumps
from flash_plugins.dispatcher import Session, queue_lane, window
from flash_plugins.dispatcher.queue_lane import QueueLane
from flash_plugins.failure import encode_exception
from flash_plugins.payload import CallEnvelope, Outcome, encode_failure_text
from flash_plugins.platforms import api
from tests.unit.dispatcher.conftest import Events
from tests.unit.dispatcher.fake import DEADLINE_S, RESET, Answer, FakeRunpod

Submit = Callable[..., Call[Any]]

NOT_THERE = Answer(404, {"error": "job not found"})


@pytest.fixture
def slow(fake: FakeRunpod, monkeypatch: pytest.MonkeyPatch) -> FakeRunpod:
    """A platform whose jobs end when a test says so; pauses between attempts are short."""
    monkeypatch.setattr(queue_lane, "_TRANSPORT_PAUSE_S", 0.02)
    fake.is_slow = True
    return fake


def test_a_longer_call_is_followed_by_held_requests(slow: FakeRunpod, submit: Submit, events: Events) -> None:
    call = submit(1)
    (held,) = slow.wait_for("stream")
    assert held.job_id == call.job_id == "job-1"
    assert "job-1" in repr(call)
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1
    assert [request.operation for request in slow.requests] == ["list", "create", "list", "runSync", "stream", "status"]
    assert events.stages(call) == ["queued", "sent", "done"]


def test_a_hold_that_ends_early_is_asked_for_again(
    slow: FakeRunpod, submit: Submit, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_lane, "_HOLDS_AT_LEAST_S", 0.1)
    slow.hold_s = 0.2
    call = submit(1)
    slow.wait_for("stream", 3)
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1
    assert len(slow.seen("status")) == 1
    (used,) = session._lanes.values()
    assert isinstance(used, QueueLane)
    assert used._is_held


def test_a_platform_that_does_not_hold_is_polled_with_pauses(
    slow: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_MIN_INTERVAL_S", 0.05)
    slow.hold_s = 0.0
    call = submit(1)
    first, second, third = slow.wait_for("status", 3)[:3]
    assert min(second.at - first.at, third.at - second.at) >= 0.04
    assert len(slow.seen("stream")) == 1
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1
    later = submit(2)
    slow.wait_until(lambda: len(slow.jobs) == 2, "no second job")
    slow.finish("job-2")
    assert later.result(DEADLINE_S) == 2
    assert len(slow.seen("stream")) == 1  # once found out, it is not asked again


def test_a_platform_that_did_not_hold_is_tried_again_now_and_then(
    slow: FakeRunpod, submit: Submit, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_MIN_INTERVAL_S", 0.01)
    monkeypatch.setattr(queue_lane, "_HOLDS_AT_LEAST_S", 0.1)
    slow.hold_s = 0.0
    call = submit(1)
    slow.wait_for("status", 3)
    assert len(slow.seen("stream")) == 1
    (used,) = session._lanes.values()
    assert isinstance(used, QueueLane)
    slow.hold_s = 0.2
    used._probe_at = 0.0  # as if the time had passed
    slow.wait_for("stream", 3)
    assert used._is_held
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1


def test_polls_of_many_jobs_are_spaced_out(slow: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "_MIN_INTERVAL_S", 0.05)
    slow.hold_s = 0.0
    calls = [submit(n) for n in range(40)]
    looks = slow.wait_for("status", 80)[:80]
    assert looks[-1].at - looks[0].at >= 79 * window._SPACING_S * 0.7
    for job_id in list(slow.jobs):
        slow.finish(job_id)
    assert [call.result(DEADLINE_S) for call in calls] == list(range(40))


@pytest.mark.parametrize("operation", ["stream", "status"])
def test_a_job_may_be_unknown_for_a_moment(slow: FakeRunpod, submit: Submit, operation: str) -> None:
    slow.script(operation, NOT_THERE, NOT_THERE)
    call = submit(1)
    slow.wait_until(lambda: slow.jobs, "no job")
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1
    assert len(slow.seen(operation)) == 3
    assert len(slow.seen("runSync")) == 1


def test_a_job_that_stays_unknown_has_expired(
    slow: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_lane, "_VISIBILITY_S", 0.05)
    slow.script("stream", *[NOT_THERE] * 100)
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, JobExpired)
    assert error.job_id == "job-1"
    assert 1 < len(slow.seen("stream")) < 100


@pytest.mark.parametrize("operation", ["stream", "status"])
@pytest.mark.parametrize("trouble", [RESET, Answer(502, b"bad gateway"), Answer(429, {}, {"Retry-After": "0.01"})])
def test_following_survives_trouble(slow: FakeRunpod, submit: Submit, operation: str, trouble: Answer) -> None:
    slow.script(operation, trouble, trouble)
    call = submit(1)
    slow.wait_until(lambda: slow.jobs, "no job")
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1
    assert len(slow.seen("runSync")) == 1


def test_a_platform_that_stops_answering_is_given_up(slow: FakeRunpod, submit: Submit) -> None:
    slow.script("stream", *[RESET] * 100)
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, PlatformUnavailable)
    assert "was accepted" in str(error)
    assert len(slow.seen("stream")) < 20


def test_a_job_in_a_state_that_nobody_described_is_live(slow: FakeRunpod, submit: Submit) -> None:
    slow.script("stream", Answer(200, {"status": "PONDERING", "stream": []}))
    call = submit(1)
    slow.wait_for("stream")
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1


def test_an_answer_without_a_state_is_an_error_with_the_answer(slow: FakeRunpod, submit: Submit) -> None:
    slow.script("stream", Answer(200, {"words": "nothing here", "stream": []}))
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, ApiError)
    assert "nothing here" in str(error)


ENDS: list[tuple[dict[str, Any], type[JobError], str]] = [
    ({"status": "TIMED_OUT", "error": "too long"}, JobTimeout, "too long.*execution_timeout_ms"),
    ({"status": "TIMED_OUT"}, TimeoutError, "no reason"),  # type: ignore[list-item]
    ({"status": "CANCELLED"}, JobCancelled, "cancelled on the platform"),
    ({"status": "FAILED", "error": "CUDA out of memory"}, JobFailed, "CUDA out of memory"),
    ({"status": "FAILED", "error": "flash_plugins is a word"}, JobFailed, "flash_plugins is a word"),
    ({"status": "FAILED", "error": '{"error_type": "KeyError"}'}, JobFailed, "KeyError"),
    ({"status": "FAILED"}, JobFailed, "no reason"),
    ({"status": "FAILED", "error": f"{api.WORKER_LOST_PREFIX}exit code 9"}, WorkerLost, "exit code 9"),
    ({"status": "FAILED", "error": f"{api.WORKER_START_FAILED_PREFIX}no image"}, WorkerLost, "no image"),
]


@pytest.mark.parametrize(("answer", "kind", "words"), ENDS)
@pytest.mark.parametrize("is_slow", [False, True])
def test_each_bad_end_of_a_job_is_its_own_error(
    slow: FakeRunpod, submit: Submit, answer: dict[str, Any], kind: type[JobError], words: str, is_slow: bool
) -> None:
    job = {"id": "job-1", "workerId": "w9", **answer}
    if is_slow:
        slow.script("stream", Answer(200, {"status": answer["status"], "stream": []}))
        slow.script("status", Answer(200, job))
    else:
        slow.script("runSync", Answer(200, job))
    call = submit()
    with pytest.raises(kind, match=words) as caught:
        call.result(DEADLINE_S)
    assert isinstance(caught.value, JobError)
    assert caught.value.job_id == "job-1"
    assert call.worker_id == "w9"


def test_an_exception_of_the_function_comes_as_itself(slow: FakeRunpod, submit: Submit, events: Events) -> None:
    failure = encode_exception(KeyError("who"))
    text = encode_failure_text(Outcome(failure=failure, worker="w3", pid=11, seconds=0.25))
    slow.script("runSync", Answer(200, {"id": "job-1", "status": "FAILED", "error": text}))
    call = submit()
    with pytest.raises(KeyError, match="who"):
        call.result(DEADLINE_S)
    assert (call.worker_id, call.worker_pid, call.execution_s) == ("w3", 11, 0.25)
    assert events.stages(call)[-1] == "failed"


def test_an_exception_that_the_service_keeps_as_an_object_comes_as_itself(slow: FakeRunpod, submit: Submit) -> None:
    text = encode_failure_text(Outcome(failure=encode_exception(KeyError("who")), worker="w3"))
    slow.script("runSync", Answer(200, {"id": "job-1", "status": "FAILED", "error": json.loads(text)}))
    error = submit().exception(DEADLINE_S)
    assert isinstance(error, (KeyError, JobFailed))  # a clear error at least, whatever the service does


@pytest.mark.parametrize(
    "output",
    [{"answer": 42}, [1, 2], "text", 5, {"flash_plugins": 99, "result": ""}, {"flash_plugins": 1, "result": "%%%"}],
)
def test_an_answer_of_somebody_elses_worker_is_named(slow: FakeRunpod, submit: Submit, output: Any) -> None:
    slow.script("runSync", Answer(200, {"id": "job-1", "status": "COMPLETED", "output": output}))
    with pytest.raises(EnvelopeError):
        submit().result(DEADLINE_S)


def test_running_is_another_word_for_in_progress(slow: FakeRunpod, submit: Submit) -> None:
    slow.script("status", Answer(200, {"id": "job-1", "status": "RUNNING"}))
    slow.script("stream", Answer(200, {"status": "COMPLETED", "stream": []}))
    call = submit(1)
    slow.wait_for("stream", 2)
    slow.finish("job-1")
    assert call.result(DEADLINE_S) == 1


def test_a_result_that_does_not_unpickle_is_the_outcome(slow: FakeRunpod, submit: Submit) -> None:
    output = Outcome(result=b"not a pickle", worker="w1").encode()
    slow.script("runSync", Answer(200, {"id": "job-1", "status": "COMPLETED", "output": output}))
    error = submit().exception(DEADLINE_S)
    assert error is not None
    assert "unpickled" in error.__notes__[0]


def test_output_is_shown_before_the_call_is_done(
    slow: FakeRunpod, submit: Submit, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Outcome(result=b"", worker="w1", records=[{"stream": "stdout", "text": "from the worker\n"}]).encode()
    slow.script("runSync", Answer(200, {"id": "job-1", "status": "COMPLETED", "output": output}))
    submit().exception(DEADLINE_S)
    assert capsys.readouterr().out == "from the worker\n"


class Broken:
    """A standard stream whose other end is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self) -> None: ...


def test_output_that_cannot_be_shown_does_not_lose_the_result(
    slow: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def complete(request: Any) -> Answer:
        result = slow._work(CallEnvelope.decode(request.json["input"]))
        return Answer(200, {"id": "job-1", "status": "COMPLETED", "output": {**result, "records": records}})

    records = [{"stream": "stdout", "text": "into the void"}]
    monkeypatch.setattr("sys.stdout", Broken())
    slow.script("runSync", complete)
    call = submit("kept")
    assert call.result(DEADLINE_S) == "kept"
    assert "BrokenPipeError" in caplog.text


class Leaving(logging.Handler):
    """Ends the process, or would like to."""

    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit(3)


def test_a_log_handler_that_ends_the_process_does_not_lose_the_result(
    slow: FakeRunpod, submit: Submit, caplog: pytest.LogCaptureFixture
) -> None:
    record = {"log": "leaving", "level": 40, "path": "f.py", "line": 3, "text": "t", "created": 0.0}
    output = Outcome(result=dumps("kept", what="a result").data, worker="w1", records=[record]).encode()
    slow.script("runSync", Answer(200, {"id": "job-1", "status": "COMPLETED", "output": output}))
    handler = Leaving()
    logging.getLogger("leaving").addHandler(handler)
    try:
        assert submit().result(DEADLINE_S) == "kept"
    finally:
        logging.getLogger("leaving").removeHandler(handler)
    assert "SystemExit" in caplog.text


def test_a_warning_that_the_callers_filters_refuse_is_the_outcome(slow: FakeRunpod, submit: Submit) -> None:
    record = {"warning": "old", "pickle": None, "path": "f.py", "line": 3, "module": "f"}
    output = Outcome(result=b"", worker="w1", records=[record]).encode()
    slow.script("runSync", Answer(200, {"id": "job-1", "status": "COMPLETED", "output": output}))
    with pytest.raises(UserWarning, match="old"):  # warnings are errors in these tests
        submit().result(DEADLINE_S)
