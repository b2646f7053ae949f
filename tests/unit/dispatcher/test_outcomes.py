# SPDX-License-Identifier: Apache-2.0
"""One outcome per call, however often it is tried and whichever limit it passes. Time is moved, not waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from flash_plugins import (
    Call,
    JobCancelled,
    JobExpired,
    JobTimeout,
    PlatformUnavailable,
    StreamCall,
    SubmissionUnknown,
    WorkerLost,
)
from flash_plugins.dispatcher import Session, queue_lane
from flash_plugins.failure import encode_exception
from flash_plugins.payload import Outcome, encode_failure_text
from flash_plugins.platforms import api
from tests.unit.dispatcher.conftest import Events, LoopClock
from tests.unit.dispatcher.fake import (
    DEADLINE_S,
    RESET,
    Answer,
    FakePlatform,
    FakeRunpod,
    Gate,
    Request,
    Step,
    workers_answer,
)
from tests.unit.dispatcher.test_lane_endpoint import lose

Submit = Callable[..., Call[Any]]


@pytest.fixture
def clock() -> LoopClock:
    return LoopClock()


def failing(fake: FakeRunpod, error: Exception) -> Callable[[Request], Any]:
    """A step that takes the job and fails it as a worker does whose function raised `error`."""

    async def step(request: Request) -> Answer:
        answer = await fake.behave(request)
        job = fake.jobs[answer.content["id"]]
        if (job.output or {}).get("missing"):
            return answer
        job.status, job.output = "FAILED", None
        job.error = encode_failure_text(Outcome(failure=encode_exception(error), worker="w1", seconds=0.1))
        return Answer(content=job.answer())

    return step


def lost(fake: FakeRunpod) -> Callable[[Request], Any]:
    async def step(request: Request) -> Answer:
        answer = await fake.behave(request)
        job = fake.jobs[answer.content["id"]]
        job.status, job.output, job.error = "FAILED", None, f"{api.WORKER_LOST_PREFIX}worker w1 was killed"
        return Answer(content=job.answer())

    return step


def wait_for_attempt(fake: FakeRunpod, call: Call[Any], number: int) -> None:
    """Wait until the pause before an attempt has begun."""
    fake.wait_until(lambda: call.attempts == number, f"there is no attempt {number}")


# -- retries ----------------------------------------------------------------------------------------------------


def test_a_call_that_fails_twice_is_one_call_that_succeeds(
    fake: FakeRunpod, submit: Submit, events: Events, clock: LoopClock
) -> None:
    fake.script("runSync", failing(fake, ValueError("one")), failing(fake, ValueError("two")))
    call = submit(5, retries=2, backoff=10)
    wait_for_attempt(fake, call, 2)
    clock.move(12.5)
    wait_for_attempt(fake, call, 3)
    assert not call.done()
    clock.move(25)
    assert call.result(DEADLINE_S) == 5
    assert events.stages(call) == ["queued", "sent", "done"]
    assert (call.attempts, call.job_id, call.worker_id, call.execution_s) == (3, "job-3", "w1", 0.5)


def test_a_pause_is_kept_and_holds_no_place_in_the_window(
    fake: FakeRunpod, submit: Submit, session: Session, clock: LoopClock
) -> None:
    fake.script("runSync", failing(fake, ValueError("one")))
    call = submit(5, retries=1, backoff=100)
    fake.wait_until(lambda: list(session.pauses), "no call rests")
    fake.wait_until(lambda: not any(lane._flying for lane in session._lanes.values()), "it keeps its place")
    wait_for_attempt(fake, call, 2)
    clock.move(74.9)  # three quarters of it at least
    assert submit(1).result(DEADLINE_S) == 1
    assert not call.done()
    assert len(fake.jobs) == 2
    clock.move(50.2)
    assert call.result(DEADLINE_S) == 5


def test_the_last_failure_is_the_outcome(fake: FakeRunpod, submit: Submit, events: Events) -> None:
    fake.script("runSync", *[failing(fake, ValueError(n)) for n in range(3)])
    call = submit(retries=2, backoff=0)
    error = call.exception(DEADLINE_S)
    assert isinstance(error, ValueError)
    assert error.args == (2,)
    assert events.stages(call) == ["queued", "sent", "failed"]
    assert call.attempts == 3


def test_an_exception_that_is_not_named_is_the_outcome_at_once(fake: FakeRunpod, submit: Submit) -> None:
    fake.script("runSync", failing(fake, ValueError("no")))
    call = submit(retries=5, retry_on=(OSError,))
    assert isinstance(call.exception(DEADLINE_S), ValueError)
    assert call.attempts == len(fake.jobs) == 1


def test_retry_on_sees_the_exception_as_the_caller_would_in_a_thread_of_its_own(
    fake: FakeRunpod, submit: Submit
) -> None:
    seen: list[tuple[BaseException, str]] = []

    def decide(error: BaseException) -> bool:
        seen.append((error, threading.current_thread().name))
        return error.args == ("again",)

    fake.script("runSync", failing(fake, KeyError("again")), failing(fake, KeyError("enough")))
    error = submit(retries=5, retry_on=decide, backoff=0).exception(DEADLINE_S)
    assert isinstance(error, KeyError)
    assert [type(one) for one, _ in seen] == [KeyError, KeyError]
    assert {name for _, name in seen} == {"flash-delivery"}


def test_a_retry_on_that_fails_ends_the_call_with_its_own_failure_and_a_note(fake: FakeRunpod, submit: Submit) -> None:
    def broken(error: BaseException) -> bool:
        raise ZeroDivisionError("mine")

    fake.script("runSync", failing(fake, KeyError("x")))
    error = submit(retries=5, retry_on=broken).exception(DEADLINE_S)
    assert isinstance(error, KeyError)
    assert any("ZeroDivisionError('mine')" in note for note in error.__notes__)


def test_a_lost_worker_is_tried_again_where_retries_were_asked_for(fake: FakeRunpod, submit: Submit) -> None:
    fake.script("runSync", lost(fake), lost(fake))
    assert isinstance(submit(1).exception(DEADLINE_S), WorkerLost)
    assert submit(2, retries=1, retry_on=(), backoff=0).result(DEADLINE_S) == 2


def test_a_result_that_expired_is_tried_again_where_retries_were_asked_for(fake: FakeRunpod, submit: Submit) -> None:
    fake.is_slow = True
    gone = Answer(404, {"error": "no such job"})
    fake.script("stream", *[gone] * 1_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue_lane, "_VISIBILITY_S", 0.0)
        patch.setattr(queue_lane, "_TRANSPORT_PAUSE_S", 0.01)
        assert isinstance(submit(1).exception(DEADLINE_S), JobExpired)
        call = submit(2, retries=1, backoff=0)
        fake.wait_for("runSync", 2)
        fake.wait_until(lambda: len(fake.seen("stream")) >= 2, "not followed")
        fake.is_slow = False
        fake.scripts["stream"].clear()
        fake.scripts["stream"].append(gone)
        fake.finish("job-2")
        assert call.result(DEADLINE_S) == 2


def test_a_cancelled_call_is_not_tried_again(
    fake: FakeRunpod, submit: Submit, session: Session, events: Events
) -> None:
    fake.script("runSync", failing(fake, ValueError("one")))
    call = submit(5, retries=1, backoff=100)
    fake.wait_until(lambda: list(session.pauses), "no call rests")
    assert call.cancel()
    with pytest.raises(JobCancelled):
        call.result(DEADLINE_S)
    fake.wait_until(lambda: events.stages(call)[-1] == "cancelled", "the end was not told")
    assert not list(session.pauses)
    assert events.stages(call) == ["queued", "sent", "cancelled"]


def test_closing_the_session_cancels_a_call_between_two_attempts(
    fake: FakeRunpod, submit: Submit, session: Session
) -> None:
    fake.script("runSync", failing(fake, ValueError("one")))
    call = submit(5, retries=1, backoff=100)
    fake.wait_until(lambda: list(session.pauses), "no call rests")
    session.close()
    assert call.cancelled()


def test_a_platform_that_ends_amid_a_call_costs_an_attempt(
    fake: FakeRunpod, platform: FakePlatform, submit: Submit
) -> None:
    fake.is_slow = True
    call = submit(7, retries=1, backoff=0)
    fake.wait_for("stream")
    fake.is_slow = False
    lose(fake, platform)
    assert call.result(DEADLINE_S) == 7
    assert call.attempts == 2
    assert platform.connects == 2


def test_a_job_that_cannot_be_followed_any_more_is_cancelled_before_the_next_attempt(
    fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_lane, "_TRANSPORT_PAUSE_S", 0.01)
    fake.is_slow = True
    fake.script("stream", *[Answer(503, {"error": "overloaded"})] * 5)
    call = submit(8, retries=1, backoff=0)
    fake.wait_for("runSync", 2)
    fake.wait_until(lambda: fake.jobs["job-1"].status == "CANCELLED", "the first job runs on")
    fake.finish("job-2")
    assert call.result(DEADLINE_S) == 8


# -- submissions of unknown fate ----------------------------------------------------------------------------------


def test_an_idempotent_call_of_unknown_fate_is_sent_again(fake: FakeRunpod, submit: Submit, events: Events) -> None:
    async def accept_and_vanish(request: Request) -> Answer:
        await fake.behave(request)
        return RESET

    submit(0).result(DEADLINE_S)
    fake.script("runSync", accept_and_vanish, RESET)
    call = submit(3, idempotent=True, backoff=0)
    assert call.result(DEADLINE_S) == 3
    assert events.stages(call) == ["queued", "sent", "done"]
    assert len(fake.seen("runSync")) == 4
    assert call.attempts == 3


def test_an_unknown_fate_that_repeats_itself_has_an_end(fake: FakeRunpod, submit: Submit) -> None:
    submit(0).result(DEADLINE_S)
    fake.script("runSync", *[RESET] * 20)
    assert isinstance(submit(1, idempotent=True, backoff=0).exception(DEADLINE_S), SubmissionUnknown)
    assert len(fake.seen("runSync")) == 7


# -- limits -------------------------------------------------------------------------------------------------------


def test_the_total_limit_ends_a_call_that_runs_and_cancels_its_job(
    fake: FakeRunpod, submit: Submit, events: Events, clock: LoopClock
) -> None:
    fake.is_slow = True
    call = submit(timeout=60)
    fake.wait_for("stream")
    clock.move(59.9)
    assert not call.done()
    clock.move(0.2)
    error = call.exception(DEADLINE_S)
    assert isinstance(error, JobTimeout)
    assert error.limit == "timeout"
    assert "within its timeout of 60 s" in str(error)
    fake.wait_for("cancel")
    fake.wait_until(lambda: fake.jobs["job-1"].status == "CANCELLED", "not cancelled")
    assert events.stages(call) == ["queued", "sent", "failed"]


def test_the_total_limit_ends_a_call_that_was_not_sent(fake: FakeRunpod, submit: Submit, clock: LoopClock) -> None:
    gate = Gate(fake)
    fake.script("list", gate)
    call = submit(timeout=5)
    fake.wait_for("list")
    clock.move(5.1)
    error = call.exception(DEADLINE_S)
    assert isinstance(error, JobTimeout)
    assert "still being created" in str(error)
    gate.open()
    assert submit(1).result(DEADLINE_S) == 1
    assert len(fake.jobs) == 1


def test_the_total_limit_counts_all_attempts_and_names_the_failure_before(
    fake: FakeRunpod, submit: Submit, clock: LoopClock
) -> None:
    fake.is_slow = True
    fake.script("runSync", failing(fake, ValueError("the reason")))
    call = submit(retries=3, backoff=8, timeout=11)
    wait_for_attempt(fake, call, 2)
    clock.move(10.9)
    fake.wait_for("stream")  # of the second attempt
    clock.move(0.2)
    error = call.exception(DEADLINE_S)
    assert isinstance(error, JobTimeout)
    assert "in attempt 2" in str(error)
    assert isinstance(error.__cause__, ValueError)


def test_a_pause_that_the_total_limit_leaves_no_room_for_is_not_made(fake: FakeRunpod, submit: Submit) -> None:
    fake.script("runSync", failing(fake, ValueError("the reason")))
    error = submit(retries=3, backoff=100, timeout=60).exception(DEADLINE_S)
    assert isinstance(error, ValueError)
    assert any("its timeout of 60 s leaves no room" in note for note in error.__notes__)


def test_a_job_that_no_worker_takes_in_time_is_cancelled_and_told_why(
    fake: FakeRunpod, submit: Submit, clock: LoopClock
) -> None:
    fake.is_slow = True
    fake.script("health", *[Answer(content={"jobs": {"inQueue": 1}, "workers": {"throttled": 2}})] * 5)
    fake.script("workers", *[workers_answer([("w1", "THROTTLED"), ("w2", "THROTTLED")])] * 5)
    call = submit(queue_timeout=30, retries=3)
    fake.wait_for("stream")
    clock.move(30.1)
    error = call.exception(DEADLINE_S)
    assert isinstance(error, JobTimeout)
    assert error.limit == "queue_timeout"
    assert "begun by no worker within its queue_timeout of 30 s" in str(error)
    assert "2 workers" in str(error)
    assert "capacity" in str(error)
    fake.wait_for("cancel")
    assert len(fake.jobs) == 1


def test_a_job_that_runs_is_left_alone_by_the_queue_limit(fake: FakeRunpod, submit: Submit, clock: LoopClock) -> None:
    fake.is_slow = True
    call = submit(6, queue_timeout=30)
    fake.wait_for("stream")
    fake.jobs["job-1"].status = "IN_PROGRESS"
    clock.move(30.1)
    fake.wait_for("status")
    clock.move(1_000)
    fake.finish("job-1")
    assert call.result(DEADLINE_S) == 6
    assert not fake.seen("cancel")


def test_a_job_whose_submission_is_under_way_at_the_queue_limit_is_looked_at_until_it_is_known(
    fake: FakeRunpod, submit: Submit, clock: LoopClock
) -> None:
    fake.is_slow = True
    submit(0)
    fake.wait_for("stream")
    gate = Gate(fake)
    fake.script("runSync", gate)
    call = submit(queue_timeout=1)
    fake.wait_for("runSync", 2)
    clock.move(1.1)
    for _ in range(5):
        clock.move(0.3)
    assert not call.done()
    gate.open()
    fake.wait_for("stream", 2)

    def is_over_now() -> bool:
        clock.move(0.3)
        return call.done()

    fake.wait_until(is_over_now, "it is not looked at again")
    assert isinstance(call.exception(DEADLINE_S), JobTimeout)


def test_every_attempt_has_a_queue_limit_of_its_own(fake: FakeRunpod, submit: Submit, clock: LoopClock) -> None:
    fake.script("runSync", lost(fake))
    call = submit(4, queue_timeout=30, retries=1, backoff=20)
    wait_for_attempt(fake, call, 2)
    clock.move(25)
    assert call.result(DEADLINE_S) == 4


def test_a_run_limit_travels_with_the_call_and_leaves_room_for_the_worker_to_keep_it(
    fake: FakeRunpod, submit: Submit
) -> None:
    submit(1, run_timeout=1.5).result(DEADLINE_S)
    submit(2, run_timeout=200_000).result(DEADLINE_S)
    submit(3).result(DEADLINE_S)
    bodies = [request.json for request in fake.seen("runSync")]
    assert [body["input"].get("limit_s") for body in bodies] == [1.5, 200_000, None]
    assert [body["policy"]["executionTimeout"] for body in bodies] == [61_500, 86_400_000, 86_400_000]
    assert all(body["policy"]["ttl"] >= body["policy"]["executionTimeout"] for body in bodies)


def test_a_worker_that_stopped_a_call_for_its_limit_is_a_timeout(fake: FakeRunpod, submit: Submit) -> None:
    stopped = f"{api.RUN_LIMIT_PREFIX}it ran longer than 2 s and was stopped"
    fake.script(
        "runSync", lambda request: Answer(content={"id": "job-x", "status": "FAILED", "error": stopped}),
    )  # fmt: skip
    error = submit(run_timeout=2).exception(DEADLINE_S)
    assert isinstance(error, JobTimeout)
    assert error.limit == "run_timeout"
    assert "longer than 2 s" in str(error)


def test_a_run_that_neither_worker_nor_platform_ends_is_ended_here(
    fake: FakeRunpod, submit: Submit, clock: LoopClock
) -> None:
    fake.is_slow = True
    call = submit(run_timeout=10)
    fake.wait_for("stream")
    fake.yield_chunk("job-1", Outcome(worker="w1").encode())  # whatever it is: a worker runs it
    fake.wait_for("stream", 2)
    clock.move(84)
    assert not call.done()
    clock.move(2)
    error = call.exception(DEADLINE_S)
    assert isinstance(error, JobTimeout)
    assert error.limit == "run_timeout"
    fake.wait_for("cancel")


# -- streams ------------------------------------------------------------------------------------------------------


def chunk(value: object, index: int, run: str = "a") -> dict[str, Any]:
    from flash_plugins.code import dumps

    return Outcome(chunk=dumps(value, what="a value").data, index=index, run=run).encode()


@pytest.mark.parametrize("is_iterated", [False, True])
def test_a_stream_is_tried_again_unless_values_of_it_were_given_out(
    fake: FakeRunpod, submit: Submit, clock: LoopClock, is_iterated: bool
) -> None:
    fake.is_slow = True
    call = submit(streams=True, is_generator=True, retries=1, backoff=5)
    assert isinstance(call, StreamCall)
    values = iter(call)
    fake.wait_for("stream")
    fake.yield_chunk("job-1", chunk("first", 0))
    if is_iterated:
        assert next(values) == "first"
    else:
        fake.wait_for("stream", 2)
    fake.finish("job-1", "FAILED", error=f"{api.WORKER_LOST_PREFIX}killed")
    if is_iterated:
        with pytest.raises(WorkerLost) as caught:
            next(values)
        assert any("values of it were given out" in note for note in caught.value.__notes__)
        return
    wait_for_attempt(fake, call, 2)
    clock.move(7)
    fake.wait_for("run", 2)
    fake.wait_for("stream", 3)
    fake.yield_chunk("job-2", chunk("again", 0, "b"))
    fake.finish("job-2", output=[Outcome(ended=True, count=1, run="b").encode()])
    assert call.result(DEADLINE_S) == ["again"]


def test_many_calls_with_retries_each_have_one_outcome(
    fake: FakeRunpod, submit: Submit, events: Events, clock: LoopClock
) -> None:
    steps: list[Step] = [failing(fake, ValueError("x")), lost(fake), Answer(429, {}, {"Retry-After": "0.01"})]
    fake.script("runSync", *steps * 30)
    calls = [submit(n, retries=50, backoff=0) for n in range(60)]

    def are_over_now() -> bool:
        clock.move(1.0)  # past pauses that the platform asked for
        return all(call.done() for call in calls)

    fake.wait_until(are_over_now, "not all have an outcome")
    assert [call.result(DEADLINE_S) for call in calls] == list(range(60))
    for call in calls:
        assert events.stages(call) == ["queued", "sent", "done"]


def test_a_platform_that_cannot_be_started_is_tried_again(
    fake: FakeRunpod, platform: FakePlatform, submit: Submit
) -> None:
    failures = iter([PlatformUnavailable("not yet"), PlatformUnavailable("not yet")])

    def refuse() -> None:
        if (error := next(failures, None)) is not None:
            raise error

    platform.on_connect = refuse
    call = submit(1, retries=2, backoff=0)
    assert call.result(DEADLINE_S) == 1
    assert platform.connects == 3
