# SPDX-License-Identifier: Apache-2.0
"""Many calls in one job: each has its own outcome, once, whatever becomes of the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flash_plugins import Call, EnvelopeError, JobCancelled, JobFailed, JobTimeout, SubmissionUnknown, WorkerLost
from flash_plugins.batches import CallResult
from flash_plugins.code import dumps, loads
from flash_plugins.dispatcher import Session, batch_lane
from flash_plugins.failure import encode_exception
from flash_plugins.objects.digest import digest_of
from flash_plugins.options import CallOptions
from flash_plugins.payload import CallEnvelope, Outcome, encode_failure_text
from flash_plugins.platforms import api
from tests.unit.dispatcher.conftest import Events, config_of
from tests.unit.dispatcher.fake import DEADLINE_S, RESET, Answer, FakeRunpod, Gate, Request, envelope_of

Submit = Callable[..., Call[Any]]


@pytest.fixture(autouse=True)
def all_fly(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, and a second job behind the one that it has."""
    monkeypatch.setattr(batch_lane, "slots_of", lambda config: 1)


@pytest.fixture
def short(fake: FakeRunpod, submit: Submit, session: Session, monkeypatch: pytest.MonkeyPatch) -> FakeRunpod:
    """Calls of "some code" are known to take 10 ms each, and a job costs 100 ms beside them."""
    fake.call_s = 0.01
    submit("known").result(DEADLINE_S)
    (lane,) = session._lanes.values()
    assert isinstance(lane, batch_lane.BatchLane)
    (estimate,) = lane._estimates.values()
    estimate.record(calls=100, busy_s=1.0, result_bytes=100)
    monkeypatch.setattr(lane._overhead, "seconds", 0.1)
    monkeypatch.setattr(lane._overhead, "record", lambda seconds: None)
    fake.requests.clear()
    return fake


@pytest.fixture
def held(short: FakeRunpod, submit: Submit) -> Callable[..., list[Call[Any]]]:
    """Make calls that share a job, which ends when a test says so."""

    def make(count: int, **options: Any) -> list[Call[Any]]:
        short.is_slow = True
        gate = Gate(short)
        short.script("runSync", gate)
        first = submit("first")
        short.wait_for("runSync")
        calls = [submit(number, **options) for number in range(count)]
        gate.open()
        short.wait_until(lambda: first.job_id, "the first call has no job")
        short.finish(first.job_id or "")
        assert first.result(DEADLINE_S) == "first"
        short.wait_until(lambda: all(call.job_id for call in calls), "no job for all calls")
        return calls

    return make


def sizes(fake: FakeRunpod) -> list[int]:
    """How many calls each job got."""
    bodies = [CallEnvelope.decode(request.json["input"]) for request in fake.requests if request.operation in SUBMITS]
    return [len(body.batch) or 1 for body in bodies]


SUBMITS = ("run", "runSync")


def results(*values: tuple[int, object]) -> list[CallResult]:
    return [CallResult(place, 0.01, dumps(value, what="a value").data) for place, value in values]


def answer(**fields: Any) -> dict[str, Any]:
    return Outcome(worker="w1", pid=7, **fields).encode()


def job_of(calls: Sequence[Call[Any]]) -> str:
    (job_id,) = {call.job_id for call in calls}
    assert job_id is not None
    return job_id


def test_calls_that_wait_travel_together(short: FakeRunpod, submit: Submit, events: Events) -> None:
    gate = Gate(short)
    short.script("runSync", gate)
    first = submit("first")
    short.wait_for("runSync")
    calls = [submit(number) for number in range(50)]
    gate.open()
    assert [call.result(DEADLINE_S) for call in [first, *calls]] == ["first", *range(50)]
    assert sizes(short)[0] == 1
    assert len(sizes(short)) < 10
    assert len({call.job_id for call in calls}) < 10
    assert {(call.worker_id, call.worker_pid, call.execution_s) for call in calls} == {("w1", 7, 0.01)}
    assert all(events.stages(call) == ["queued", "sent", "done"] for call in calls)
    told = {
        event.call_id: (event.job_id, event.worker_id, event.seconds) for event in events.seen if event.stage == "done"
    }
    assert all(told[call.number] == (call.job_id, "w1", 0.01) for call in calls)


def test_a_call_goes_at_once_where_a_worker_is_idle(short: FakeRunpod, submit: Submit) -> None:
    for number in range(5):
        assert submit(number).result(DEADLINE_S) == number
    assert sizes(short) == [1] * 5
    assert {request.operation for request in short.requests} == {"runSync"}


def test_what_is_worth_a_job_waits_behind_the_one_that_runs(short: FakeRunpod, submit: Submit) -> None:
    gate = Gate(short)
    short.script("runSync", gate)
    first = submit("first")
    short.wait_for("runSync")
    calls = [submit(number) for number in range(3)]
    short.script("list", Answer(500))  # nothing but time passes
    assert len(short.seen("runSync")) == 1  # 30 ms of work are not worth a job of 100 ms
    calls += [submit(number) for number in range(3, 40)]
    short.wait_until(lambda: sum(sizes(short)) > 10, "no second job")
    gate.open()
    assert [call.result(DEADLINE_S) for call in [first, *calls]] == ["first", *range(40)]
    assert len(sizes(short)) < 10


def test_unknown_functions_are_tried_one_by_one(fake: FakeRunpod, submit: Submit) -> None:
    fake.is_slow = True
    calls = [submit(number) for number in range(20)]
    fake.wait_for("stream", 2)
    assert sizes(fake) == [1, 1]
    fake.is_slow, fake.call_s = False, 0.01
    for job_id in list(fake.jobs):
        fake.finish(job_id)
    assert [call.result(DEADLINE_S) for call in calls] == list(range(20))
    assert max(sizes(fake)) > 1


def test_functions_do_not_share_jobs(short: FakeRunpod, submit: Submit) -> None:
    gate = Gate(short)
    short.script("runSync", gate)
    first = submit("first")
    short.wait_for("runSync")
    calls = [submit(number, code=b"other" if number % 2 else b"some code") for number in range(20)]
    gate.open()
    assert [call.result(DEADLINE_S) for call in [first, *calls]] == ["first", *range(20)]
    jobs = [CallEnvelope.decode(request.json["input"]) for request in short.seen("runSync")[1:]]
    for job in jobs:
        values: list[Any] = [loads(args) for args in job.batch or [job.args]]
        assert {digest_of(b"other" if value % 2 else b"some code") for value in values} == {job.code}
    assert max(len(job.batch) for job in jobs) > 1


def test_calls_with_time_limits_of_their_own_travel_alone(short: FakeRunpod, session: Session, submit: Submit) -> None:
    gate = Gate(short)
    short.script("runSync", gate)
    first = submit("first")
    short.wait_for("runSync")
    options = CallOptions(run_timeout=5)
    calls = [
        session.submit(
            config_of(), envelope_of(n), function_name="echo", streams=False, is_generator=False, options=options
        )
        for n in range(4)
    ]
    gate.open()
    assert [call.result(DEADLINE_S) for call in [first, *calls]] == ["first", *range(4)]
    assert sizes(short) == [1] * 5


def test_large_arguments_are_spread_over_jobs(
    short: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lane, "MAX_ARGUMENT_BYTES", 3_500)
    gate = Gate(short)
    short.script("runSync", gate)
    first = submit("first")
    short.wait_for("runSync")
    calls = [submit(b"x" * size) for size in (1_000,) * 6 + (5_000,)]
    gate.open()
    for call in [first, *calls]:
        call.result(DEADLINE_S)
    assert sizes(short) == [1, 3, 3, 1]


def test_what_takes_long_is_sent_without_waiting_for_it(fake: FakeRunpod, submit: Submit) -> None:
    fake.call_s = 2.0
    assert [submit(number).result(DEADLINE_S) for number in range(3)] == [0, 1, 2]
    assert [len(fake.seen(operation)) for operation in ("runSync", "run")] == [1, 2]


def test_results_arrive_before_the_job_has_ended(short: FakeRunpod, held: Callable[..., list[Call[Any]]]) -> None:
    calls = held(4)
    job_id = job_of(calls)
    short.yield_chunk(job_id, answer(results=results((0, "a"), (1, "b"))))
    assert [call.result(DEADLINE_S) for call in calls[:2]] == ["a", "b"]
    assert not calls[2].done()
    short.finish(job_id, output=answer(results=results((0, "x"), (1, "y"), (2, "c"), (3, "d"))))
    assert [call.result(DEADLINE_S) for call in calls] == ["a", "b", "c", "d"]  # what came twice counts once


def test_each_call_ends_in_its_own_way(short: FakeRunpod, held: Callable[..., list[Call[Any]]], events: Events) -> None:
    calls = held(3)
    failed = CallResult(1, 0.02, failure=encode_exception(KeyError("who")))
    short.finish(job_of(calls), output=answer(results=[*results((0, "a"), (2, "c")), failed]))
    assert calls[0].result(DEADLINE_S) == "a"
    with pytest.raises(KeyError, match="who"):
        calls[1].result(DEADLINE_S)
    assert calls[2].result(DEADLINE_S) == "c"
    assert events.stages(calls[1]) == ["queued", "sent", "failed"]


def test_calls_that_are_handed_back_are_sent_again_at_once(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]]
) -> None:
    calls = held(4)
    job_id = job_of(calls)
    short.is_slow = False
    short.yield_chunk(job_id, answer(results=results((0, "a")), returned=(2, 3)))
    assert [call.result(DEADLINE_S) for call in calls[2:]] == [2, 3]
    assert not calls[1].done()
    assert sizes(short)[-2:] == [1, 1]  # it is known by now that they may take long
    short.finish(job_id, output=answer(results=results((0, "a"), (1, "b")), returned=(2, 3)))
    assert [call.result(DEADLINE_S) for call in calls] == ["a", "b", 2, 3]


def test_a_call_that_comes_back_alone_is_sent_again(
    short: FakeRunpod, submit: Submit, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lane, "_QUICK_RETURNS", 1)
    handed_back = Answer(200, {"id": "job-x", "status": "COMPLETED", "output": answer(returned=(0,))})
    short.script("runSync", *[handed_back] * 3)
    call = submit("patient")
    assert call.result(DEADLINE_S) == "patient"
    _, second, third, fourth = short.seen("runSync")
    assert third.at - second.at >= 0.1  # others may use the same workers
    assert fourth.at - third.at >= 0.2
    assert events.stages(call) == ["queued", "sent", "done"]


def test_a_call_that_came_back_a_few_times_is_sent_again_at_once(
    short: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lane, "_FIRST_PAUSE_S", 100.0)
    monkeypatch.setattr(batch_lane, "_LONGEST_PAUSE_S", 100.0)
    handed_back = Answer(200, {"id": "job-x", "status": "COMPLETED", "output": answer(returned=(0,))})
    short.script("runSync", *[handed_back] * 8)
    assert submit("quick").result(DEADLINE_S) == "quick"
    assert len(short.seen("runSync")) == 9


def test_a_call_that_waits_to_be_sent_again_can_be_cancelled(
    short: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch, session: Session
) -> None:
    monkeypatch.setattr(batch_lane, "_QUICK_RETURNS", 1)
    monkeypatch.setattr(batch_lane, "_FIRST_PAUSE_S", 100.0)
    monkeypatch.setattr(batch_lane, "_LONGEST_PAUSE_S", 100.0)
    handed_back = Answer(200, {"id": "job-x", "status": "COMPLETED", "output": answer(returned=(0,))})
    short.script("runSync", *[handed_back] * 2)
    call = submit("impatient")
    short.wait_for("runSync", 2)
    (lane,) = session._lanes.values()
    short.wait_until(lambda: not call.running(), "it still flies")
    assert call.cancel()
    short.wait_until(lambda: not lane.submissions, "it is still there")
    assert len(short.seen("runSync")) == 2


def test_calls_that_come_back_again_and_again_travel_alone_in_the_end(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]]
) -> None:
    calls = held(2)

    def hand_all_back(request: Request) -> Answer:
        envelope = CallEnvelope.decode(request.json["input"])
        if not envelope.batch:
            return short._submit(request)
        everything = tuple(range(len(envelope.batch)))
        return Answer(200, {"id": "job-x", "status": "COMPLETED", "output": answer(returned=everything)})

    for operation in SUBMITS:
        short.script(operation, *[hand_all_back] * 50)
    short.is_slow = False
    short.finish(job_of(calls), output=answer(returned=(0, 1)))
    assert [call.result(DEADLINE_S) for call in calls] == [0, 1]
    assert len(short.seen("runSync") + short.seen("run")) < 12


def test_the_call_that_killed_its_process_runs_alone_and_those_not_begun_again(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]]
) -> None:
    calls = held(5)
    short.is_slow = False
    output = answer(results=results((0, "a"), (1, "b")), lost=(2, "killed by signal 9"))
    short.finish(job_of(calls), output=output)
    assert [call.result(DEADLINE_S) for call in calls] == ["a", "b", 2, 3, 4]
    assert sorted(sizes(short)[-2:]) == [1, 2]
    assert calls[2].job_id != calls[3].job_id == calls[4].job_id


def test_a_call_that_kills_its_worker_alone_is_named(short: FakeRunpod, held: Callable[..., list[Call[Any]]]) -> None:
    calls = held(3)
    lost = Answer(200, {"id": "job-p", "status": "FAILED", "error": f"{api.WORKER_LOST_PREFIX}exit code 139"})
    short.is_slow = False
    short.script("runSync", lost)
    short.finish(job_of(calls), output=answer(lost=(0, "exit code 139")))
    with pytest.raises(WorkerLost, match=f"Call {calls[0].number} of echo.*139") as caught:
        calls[0].result(DEADLINE_S)
    assert caught.value.job_id == "job-p"
    assert [call.result(DEADLINE_S) for call in calls[1:]] == [1, 2]


def test_a_job_whose_workers_died_is_divided_until_the_reason_is_alone(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]]
) -> None:
    calls = held(10)
    poison = dumps(7, what="a value").data

    def die_of_it(request: Request) -> Answer:
        envelope = CallEnvelope.decode(request.json["input"])
        if poison in (*envelope.batch, envelope.args):
            return Answer(200, {"id": "job-p", "status": "FAILED", "error": f"{api.WORKER_LOST_PREFIX}out of memory"})
        return short._submit(request)

    short.is_slow = False
    for operation in SUBMITS:
        short.script(operation, *[die_of_it] * 100)
    short.finish(job_of(calls), "FAILED", error=f"{api.WORKER_LOST_PREFIX}out of memory")
    with pytest.raises(WorkerLost, match="out of memory"):
        calls[7].result(DEADLINE_S)
    assert [call.result(DEADLINE_S) for call in calls if call is not calls[7]] == [n for n in range(10) if n != 7]


def test_what_was_left_when_a_batch_took_too_long_is_sent_again(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]]
) -> None:
    calls = held(3)
    job_id = job_of(calls)
    short.yield_chunk(job_id, answer(results=results((0, "a"))))
    calls[0].result(DEADLINE_S)
    short.is_slow = False
    short.finish(job_id, "TIMED_OUT", error="too long")
    assert [call.result(DEADLINE_S) for call in calls] == ["a", 1, 2]


def test_the_one_call_that_took_too_long_is_told_so(short: FakeRunpod, held: Callable[..., list[Call[Any]]]) -> None:
    calls = held(3)
    job_id = job_of(calls)
    short.is_slow = False
    short.yield_chunk(job_id, answer(results=results((0, "a")), returned=(2,)))
    calls[0].result(DEADLINE_S)
    short.finish(job_id, "TIMED_OUT", error="too long")
    with pytest.raises(JobTimeout, match="too long"):
        calls[1].result(DEADLINE_S)
    assert calls[2].result(DEADLINE_S) == 2


@pytest.mark.parametrize(("status", "kind"), [("FAILED", JobFailed), ("CANCELLED", JobCancelled)])
def test_what_ends_a_job_ends_each_of_its_calls(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]], status: str, kind: type[Exception]
) -> None:
    calls = held(3)
    short.finish(job_of(calls), status, error="out of luck")
    errors = [call.exception(DEADLINE_S) for call in calls]
    assert [type(error) for error in errors] == [kind] * 3
    assert len({id(error) for error in errors}) == 3


def test_code_that_cannot_be_loaded_is_the_outcome_of_each_call(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]]
) -> None:
    calls = held(3)
    text = encode_failure_text(Outcome(failure=encode_exception(ImportError("no such module"))))
    short.finish(job_of(calls), "FAILED", error=text)
    for call in calls:
        with pytest.raises(ImportError, match="no such module"):
            call.result(DEADLINE_S)


def test_an_answer_that_leaves_a_call_out_is_an_error_of_that_call(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]]
) -> None:
    calls = held(3)
    short.finish(job_of(calls), output=answer(results=results((0, "a"), (2, "c"), (7, "nobody's"))))
    assert calls[0].result(DEADLINE_S) == "a"
    assert calls[2].result(DEADLINE_S) == "c"
    with pytest.raises(EnvelopeError, match="another version"):
        calls[1].result(DEADLINE_S)


def test_a_worker_that_lacks_code_gets_the_whole_job_again(short: FakeRunpod, submit: Submit) -> None:
    gate = Gate(short)
    short.script("runSync", gate)
    first = submit("first")
    short.wait_for("runSync")
    calls = [submit(number) for number in range(5)]
    gate.open()
    first.result(DEADLINE_S)
    short.has.clear()
    assert [call.result(DEADLINE_S) for call in calls] == list(range(5))


def test_what_is_lacked_amid_a_batch_goes_with_what_is_handed_back(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]]
) -> None:
    calls = held(3)
    short.is_slow = False
    lacked = digest_of(b"some code")
    short.finish(job_of(calls), output=answer(results=results((0, "a")), missing=(lacked,), returned=(1, 2)))
    assert [call.result(DEADLINE_S) for call in calls] == ["a", 1, 2]
    assert lacked in [blob for request in short.requests if request.operation in SUBMITS for blob in request.blobs]


def test_a_submission_whose_fate_is_unknown_is_told_to_each_call(short: FakeRunpod, submit: Submit) -> None:
    gate = Gate(short)
    short.script("runSync", gate, RESET)
    short.script("run", RESET)
    first = submit("first")
    short.wait_for("runSync")
    calls = [submit(number) for number in range(8)]
    gate.open()
    first.result(DEADLINE_S)
    errors = [call.exception(DEADLINE_S) for call in calls]
    assert {type(error) for error in errors} == {SubmissionUnknown}
    assert "8 calls of echo()" in str(errors[0])
    assert sizes(short) == [1, 8]


def test_a_refused_batch_is_sent_again_and_accepted_once(short: FakeRunpod, submit: Submit) -> None:
    gate = Gate(short)
    short.script("runSync", gate, *[Answer(429, {}, {"Retry-After": "0.02"})] * 2)
    first = submit("first")
    short.wait_for("runSync")
    calls = [submit(number) for number in range(8)]
    gate.open()
    assert [call.result(DEADLINE_S) for call in [first, *calls]] == ["first", *range(8)]
    assert sizes(short) == [1, 8, 8, 8]
    assert len(short.jobs) == 3


def test_a_cancelled_call_leaves_its_mates_alone(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]], events: Events
) -> None:
    calls = held(3)
    assert calls[1].cancel()
    short.finish(job_of(calls), output=answer(results=results((0, "a"), (1, "b"), (2, "c"))))
    assert [calls[0].result(DEADLINE_S), calls[2].result(DEADLINE_S)] == ["a", "c"]
    with pytest.raises(JobCancelled):
        calls[1].result()
    short.wait_until(lambda: len(events.stages(calls[1])) == 3, "no last event")
    assert events.stages(calls[1]) == ["queued", "sent", "cancelled"]
    assert not short.seen("cancel")


def test_a_job_is_cancelled_once_nobody_waits_for_any_of_it(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]]
) -> None:
    calls = held(3)
    job_id = job_of(calls)
    short.yield_chunk(job_id, answer(results=results((0, "a"))))
    calls[0].result(DEADLINE_S)
    calls[1].cancel()
    assert not short.seen("cancel")
    calls[2].cancel()
    (cancel,) = short.wait_for("cancel")
    assert cancel.job_id == job_id


def test_a_cancelled_call_that_is_the_last_of_its_job_is_cancelled_with_it(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]]
) -> None:
    calls = held(3)
    job_id = job_of(calls)
    calls[0].cancel()
    calls[1].cancel()
    short.is_slow = False
    short.yield_chunk(job_id, answer(returned=(1, 2)))
    assert short.wait_for("cancel")[0].job_id == job_id
    assert calls[2].result(DEADLINE_S) == 2
    with pytest.raises(JobCancelled):
        calls[1].result()


def test_ctrl_c_cancels_each_job_once_and_drops_what_waits(
    short: FakeRunpod, submit: Submit, session: Session, held: Callable[..., list[Call[Any]]]
) -> None:
    calls = held(30)
    more = [submit(number) for number in range(500)]
    session.cancel_all()
    short.wait_for("cancel", 2)
    assert all(call.cancelled() for call in [*calls, *more])
    short.wait_until(lambda: not any(lane.submissions for lane in session._lanes.values()), "calls are left")
    assert len(short.seen("cancel")) == 2


def test_what_calls_of_a_batch_print_is_shown_once(
    short: FakeRunpod, held: Callable[..., list[Call[Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    calls = held(2)
    job_id = job_of(calls)
    loading = {"stream": "stdout", "text": "loaded\n"}
    first, second = ({"stream": "stdout", "text": f"call {place}\n", "call": place} for place in range(2))
    short.yield_chunk(job_id, answer(results=results((0, "a")), records=[loading, first]))
    calls[0].result(DEADLINE_S)
    whole = answer(results=results((0, "a"), (1, "b")), records=[loading, first, second])
    short.finish(job_id, output=whole)
    calls[1].result(DEADLINE_S)
    assert capsys.readouterr().out == "loaded\ncall 0\ncall 1\n"


def test_a_batch_has_the_time_of_a_call_and_that_of_its_mates(short: FakeRunpod, submit: Submit) -> None:
    config = config_of("limited", execution_timeout_ms=60_000)
    submit(config=config).result(DEADLINE_S)
    gate = Gate(short)
    short.script("runSync", gate)
    first = submit("first", config=config)
    short.wait_for("runSync", 2)
    calls = [submit(number, config=config) for number in range(10)]
    gate.open()
    for call in [first, *calls]:
        call.result(DEADLINE_S)
    alone, *batches = [request.json for request in short.seen("runSync")[1:]]
    assert alone["policy"]["executionTimeout"] == 60_000
    for batch in batches:
        if "batch" in batch["input"]:
            assert 62_000 <= batch["policy"]["executionTimeout"] < 70_000
            assert batch["policy"]["ttl"] == batch["policy"]["executionTimeout"] + 86_400_000


def test_ten_thousand_calls_take_few_requests(short: FakeRunpod, submit: Submit) -> None:
    short.call_s = 1e-5
    began = time.monotonic()
    calls = [submit(number) for number in range(2_000)]
    assert [call.result(DEADLINE_S) for call in calls] == list(range(2_000))
    assert time.monotonic() - began < DEADLINE_S
    assert len(short.requests) < 200
