# SPDX-License-Identifier: Apache-2.0
"""Calls of a load-balanced endpoint against a platform whose answers, and broken connections, are scripted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import flash_plugins
from flash_plugins import Call, Endpoint, code
from flash_plugins.binary import pack, unpack
from flash_plugins.dispatcher import balanced_lane, courier, readiness
from flash_plugins.exchange import CALLS_PATH, KEY_HEADER, CallAnswer, CallState, proof_of
from flash_plugins.failure import encode_exception
from flash_plugins.payload import Outcome
from tests.unit.client.scripted import DROP, KEY, Answer, ScriptedServer

BASE = "/lb/e1"
BEGIN, PING = f"POST {BASE}{CALLS_PATH}", f"GET {BASE}/ping"
NONE_YET = Answer({"error": "no workers available"}, status=503)
GONE = Answer({"error": "affinity_worker_gone"}, status=404)
LOST = Answer(
    {"error": "worker lost: worker w1 ended with exit code 1"}, status=502, headers={"X-Runpod-Worker-Id": "w1"}
)

Submit = Callable[..., Call[Any]]


def answer_of(state: CallState, **fields: Any) -> Answer:
    body = b"".join(CallAnswer(state, **fields).body("w1"))
    return Answer(body, headers={"X-Runpod-Worker-Id": "w1"})


def done(value: Any) -> Answer:
    result = Outcome(result=code.dumps(value, what="it").data, seconds=0.01, worker="w1")
    return answer_of(CallState.DONE, outcome=pack(result.fields()))


def missing(*digests: str) -> Answer:
    return answer_of(CallState.DONE, outcome=pack(Outcome(missing=digests).fields()))


ACCEPTED = answer_of(CallState.ACCEPTED)


def double(x: int) -> int:
    return 2 * x


@pytest.fixture
def submit(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Submit:
    for module, name in (
        (readiness, "_PAUSE_S"), (courier, "_PAUSE_S"), (balanced_lane, "_TRANSPORT_PAUSE_S"),
        (balanced_lane, "_NO_WORKER_PAUSE_S"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, 0.01)
    base = f"{server.url}{BASE}"
    made = {
        "id": "e1", "name": "fast", "type": "LOAD_BALANCER", "requestUrls": {"base": base, "health": f"{base}/ping"},
        "workers": {"min": 0, "max": 3}, "scaling": {"type": "REQUEST_COUNT", "requestCount": 1}, "dataCenterIds": [],
        "networkVolumes": [], "timeout": 1, "flashboot": "OFF", "createdAt": "2026-01-01T00:00:00Z",
        "cpu": [{"id": "cpu5c", "vcpuCount": 4}],
    }  # fmt: skip
    server.script("GET /v2/serverless", {"endpoints": []}, {"endpoints": [made]})
    server.script("POST /v2/serverless", Answer(made, status=201))
    for operation in ("GET", "PATCH"):
        server.script(f"{operation} /v2/serverless/e1", made)
    server.script(PING, "healthy")
    endpoint = Endpoint(name="fast", cpu="cpu5c-4-8", workers=3, transport="load_balanced")
    remote = endpoint(double)

    def make(x: int = 1, **options: Any) -> Call[Any]:
        return remote.with_options(**options)(x) if options else remote(x)

    return make


def begun(server: ScriptedServer) -> list[dict[str, Any]]:
    """Return what the requests that begin calls say."""
    return [unpack(request.body) for request in server.seen(BEGIN)]


def test_a_call_is_one_request_that_shows_no_key(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, done(14))
    call = submit(7)
    assert call.result(30) == 14
    assert (call.worker_id, call.execution_s) == ("w1", 0.01)
    (request,) = server.seen(BEGIN)
    assert request.headers[KEY_HEADER] == proof_of(KEY)
    (sent,) = begun(server)
    assert sent["streams"] is False
    assert set(sent["blobs"]) == {sent["code"]}


def test_the_next_call_leaves_out_what_a_worker_has(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, done(2))
    assert [submit().result(30) for _ in range(2)] == [2, 2]
    assert [len(sent["blobs"]) for sent in begun(server)] == [1, 0]
    assert len(server.seen(PING)) == 1


def test_what_a_worker_lacks_is_sent_by_another_request(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, done(2))
    submit().result(30)
    digest = begun(server)[0]["code"]
    server.answers[BEGIN].clear()
    server.script(BEGIN, missing(digest), done(2))
    assert submit().result(30) == 2
    first, second = begun(server)[1:]
    assert (set(first["blobs"]), set(second["blobs"])) == (set(), {digest})
    assert first["id"] != second["id"]


def test_a_call_waits_until_there_is_a_worker(server: ScriptedServer, submit: Submit) -> None:
    server.answers[PING].clear()
    server.script(PING, NONE_YET, Answer(b"", status=204), "healthy")
    server.script(BEGIN, NONE_YET, Answer(NONE_YET.content, status=400), done(2))
    assert submit().result(30) == 2
    assert len(server.seen(BEGIN)) == 3
    assert len(server.seen(PING)) == 5  # again whenever there is none


def test_calls_that_wait_for_workers_ask_for_as_many(server: ScriptedServer, submit: Submit) -> None:
    server.answers[PING].clear()
    server.script(
        PING, slow(NONE_YET, after_s=0.5), slow(NONE_YET, after_s=0.5), slow(NONE_YET, after_s=0.5), "healthy"
    )
    server.script(BEGIN, done(2))
    assert [call.result(30) for call in [submit(n) for n in range(3)]] == [2, 2, 2]
    assert len(server.seen(PING)) >= 4


def test_workers_that_do_not_start_end_the_call(server: ScriptedServer, submit: Submit) -> None:
    server.answers[PING].clear()
    server.script(PING, Answer({"error": "worker did not start: no such module"}, status=502))
    with pytest.raises(flash_plugins.WorkerStartFailed, match="no such module"):
        submit().result(30)
    assert server.seen(BEGIN) == []


def test_a_call_that_a_worker_gives_back_is_sent_again(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, answer_of(CallState.BUSY), answer_of(CallState.BUSY), done(2))
    assert submit().result(30) == 2
    assert len({sent["id"] for sent in begun(server)}) == 1


@pytest.mark.parametrize("status", [0, 500, 502, 503, 504])
def test_a_call_that_may_have_been_taken_is_repeated_only_if_it_may_run_twice(
    server: ScriptedServer, submit: Submit, status: int
) -> None:
    broken = Answer("bad gateway", status=status) if status else DROP
    server.script(BEGIN, broken, broken, done(2))
    with pytest.raises(flash_plugins.SubmissionUnknown):
        submit().result(30)
    assert submit(idempotent=True).result(30) == 2
    assert len(server.seen(BEGIN)) == 3


def test_a_call_that_is_lost_is_repeated_only_if_it_may_run_twice(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, LOST, LOST, done(2))
    with pytest.raises(flash_plugins.WorkerLost, match=r"exit code 1.*idempotent=True"):
        submit().result(30)
    assert submit(idempotent=True).result(30) == 2


def test_a_call_that_kills_each_worker_is_reported_in_the_end(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, answer_of(CallState.LOST, reason="the process that ran it ended with signal SIGKILL"))
    with pytest.raises(flash_plugins.WorkerLost, match="SIGKILL"):
        submit(idempotent=True).result(30)
    assert len(server.seen(BEGIN)) == 3


def asks(server: ScriptedServer, *answers: Answer, delete: Answer | None = None) -> None:
    """Line up answers to questions about the first call, whose id is known once it was sent."""
    deadline = time.monotonic() + 30
    while not server.seen(BEGIN):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    path = f"{BASE}{CALLS_PATH}/{begun(server)[0]['id']}"
    server.script(f"GET {path}", *answers)
    if delete is not None:
        server.script(f"DELETE {path}", delete)


def slow(answer: Answer, after_s: float = 0.3) -> Answer:
    return Answer(answer.content, status=answer.status, headers=answer.headers, after_s=after_s)


def test_an_accepted_call_survives_broken_connections(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, slow(ACCEPTED))
    call = submit()
    unwell = Answer("bad gateway", status=502)
    asks(server, DROP, unwell, ACCEPTED, DROP, Answer({"error": "slow down"}, status=429), NONE_YET, done(2))
    assert call.result(30) == 2
    questions = [request for request in server.requests if CALLS_PATH + "/" in request.path]
    assert len(questions) >= 7
    assert {request.headers["X-Runpod-Worker-Id"] for request in questions} == {"strict w1"}
    assert len(server.seen(BEGIN)) == 1


@pytest.mark.parametrize("gone", [GONE, Answer({"error": "worker_timeout"}, status=400), answer_of(CallState.UNKNOWN)])
def test_an_accepted_call_is_lost_with_its_worker(server: ScriptedServer, submit: Submit, gone: Answer) -> None:
    server.script(BEGIN, slow(ACCEPTED))
    call = submit()
    asks(server, gone)
    with pytest.raises(flash_plugins.WorkerLost, match="worker w1"):
        call.result(30)


def test_a_worker_can_be_asked_for(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, done(2), GONE)
    assert submit(worker="w1").result(30) == 2
    with pytest.raises(flash_plugins.WorkerLost, match="worker w1 does not run any more"):
        submit(worker="w1", idempotent=True).result(30)
    assert [request.headers["X-Runpod-Worker-Id"] for request in server.seen(BEGIN)] == ["strict w1"] * 2


def test_a_cancelled_call_is_deleted_once_its_worker_is_known(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, slow(ACCEPTED))
    call = submit()
    asks(server, slow(answer_of(CallState.CANCELLED)), delete=answer_of(CallState.CANCELLED))
    assert call.cancel()
    path = f"{BASE}{CALLS_PATH}/{begun(server)[0]['id']}"
    deadline = time.monotonic() + 30
    while not server.seen(f"DELETE {path}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cancelled_call_that_no_worker_answers_is_given_up(
    server: ScriptedServer, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balanced_lane, "_CANCEL_WAIT_S", 0.1)
    server.script(BEGIN, slow(ACCEPTED, after_s=60), done(4))
    first = submit()
    server.wait_for_requests(4)
    asks(server)
    assert first.cancel()
    assert submit(2).result(30) == 4


def test_an_exception_of_the_function_is_its_outcome(server: ScriptedServer, submit: Submit) -> None:
    outcome = Outcome(failure=encode_exception(ValueError("no")), worker="w1")
    server.script(BEGIN, answer_of(CallState.DONE, outcome=pack(outcome.fields())))
    with pytest.raises(ValueError, match="no"):
        submit().result(30)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (CallState.TIMED_OUT, flash_plugins.JobTimeout),
        (CallState.CANCELLED, flash_plugins.JobCancelled),
        (CallState.FAILED, flash_plugins.JobFailed),
    ],
)
def test_other_endings_have_their_errors(
    server: ScriptedServer, submit: Submit, state: CallState, error: type[Exception]
) -> None:
    server.script(BEGIN, answer_of(state, reason="why"))
    with pytest.raises(error):
        submit().result(30)


def test_an_endpoint_that_was_deleted_is_made_anew_once(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, Answer({"error": "no such endpoint"}, status=404), done(2))
    assert submit().result(30) == 2


def test_an_answer_of_something_else_is_an_error(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, Answer(b"<html>", headers={"X-Runpod-Worker-Id": "w1"}))
    with pytest.raises(flash_plugins.EnvelopeError):
        submit().result(30)


def test_a_refused_key_is_an_error(server: ScriptedServer, submit: Submit) -> None:
    server.script(BEGIN, Answer({"error": "bad key"}, status=401))
    with pytest.raises(flash_plugins.AuthenticationError):
        submit().result(30)
