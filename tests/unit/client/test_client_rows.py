# SPDX-License-Identifier: Apache-2.0
"""Client mode of `Endpoint`, row by row of what `runpod_flash` 1.21 does."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import inspect
import os
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import flash_plugins
from flash_plugins import ApiError, ConfigError, Endpoint, EndpointJob, PayloadTooLarge, Pending
from tests.unit.client.scripted import DROP, KEY, Answer, ScriptedServer

QUEUED = {"id": "j1", "status": "IN_QUEUE"}
VERBS = ["get", "post", "put", "delete", "patch"]


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint(id="abc")


@pytest.mark.parametrize("verb", VERBS)
def test_row_29_a_verb_of_a_client_is_awaitable(server: ScriptedServer, endpoint: Endpoint, verb: str) -> None:
    pending = getattr(endpoint, verb)("/x")
    assert inspect.isawaitable(pending)
    assert asyncio.iscoroutine(pending)
    pending.close()
    assert server.requests == []


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("make", [lambda: Endpoint(id="abc"), lambda: Endpoint(name="x", image="some/image")])
def test_row_29_as_a_decorator_it_is_a_type_error_and_nothing_is_sent(
    server: ScriptedServer, verb: str, make: Callable[[], Endpoint]
) -> None:
    def route() -> None: ...

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match="client"):
            getattr(make(), verb)("/x")(route)
        gc.collect()
    assert server.requests == []


def test_row_29_a_request_that_nobody_awaits_is_warned_about(server: ScriptedServer, endpoint: Endpoint) -> None:
    with pytest.warns(RuntimeWarning, match=r"GET '/x' of endpoint 'abc' was never awaited: .*result"):
        endpoint.get("/x")
    assert server.requests == []


@pytest.mark.asyncio
async def test_row_29_pending_requests_are_coroutines_for_asyncio(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("GET /lb/abc/x", {"n": 1})
    assert await asyncio.create_task(endpoint.get("/x")) == {"n": 1}
    assert list(await asyncio.gather(endpoint.get("/x"), endpoint.get("/x"))) == [{"n": 1}] * 2
    assert await asyncio.wait_for(endpoint.get("/x"), 30) == {"n": 1}
    async with asyncio.TaskGroup() as group:
        task = group.create_task(endpoint.get("/x"))
    assert task.result() == {"n": 1}


def test_row_29_asyncio_run_takes_one(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("GET /lb/abc/x", "text")
    assert asyncio.run(endpoint.get("/x")) == "text"


@pytest.mark.asyncio
async def test_a_request_is_sent_once_however_often_it_is_asked_for(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("GET /lb/abc/x", 1, 2)
    pending = endpoint.get("/x")
    assert [await pending, await pending, pending.result()] == [1, 1, 1]
    assert len(server.requests) == 1


@pytest.mark.asyncio
async def test_result_beside_a_running_loop_does_not_deadlock(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("GET /lb/abc/x", 1)
    assert endpoint.get("/x").result(30) == 1


@pytest.mark.asyncio
async def test_cancelling_the_task_cancels_the_request(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("GET /lb/abc/slow", Answer(1, after_s=60))
    pending = endpoint.get("/slow")
    task = asyncio.create_task(pending)
    await asyncio.to_thread(server.wait_for_requests, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "done" in repr(pending)


@pytest.mark.asyncio
async def test_a_task_cancelled_before_its_first_step_sends_nothing(server: ScriptedServer, endpoint: Endpoint) -> None:
    task = asyncio.create_task(endpoint.get("/x"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.1)
    assert server.requests == []


def test_result_stops_waiting_and_the_request_goes_on(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("GET /lb/abc/slow", Answer(1, after_s=1.0))
    pending = endpoint.get("/slow")
    with pytest.raises(flash_plugins.WaitTimeout, match="'/slow'"):
        pending.result(0.1)
    assert pending.result(30) == 1
    assert len(server.requests) == 1


def test_a_closed_request_is_not_sent(server: ScriptedServer, endpoint: Endpoint) -> None:
    pending = endpoint.get("/x")
    pending.close()
    with pytest.raises(RuntimeError, match="closed"):
        pending.result()
    assert server.requests == []


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.asyncio
async def test_row_30_a_verb_sends_its_data_as_json_with_the_key(
    server: ScriptedServer, endpoint: Endpoint, verb: str
) -> None:
    server.script(f"{verb.upper()} /lb/abc/v1/things", {"done": True})
    assert await getattr(endpoint, verb)("/v1/things?a=1", {"prompt": "hello"}) == {"done": True}
    (request,) = server.requests
    assert request.json == {"prompt": "hello"}
    assert request.query == {"a": ["1"]}
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Content-Type"] == "application/json"


@pytest.mark.asyncio
async def test_row_30_without_data_there_is_no_body(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("GET /lb/abc/x", 1)
    await endpoint.get("/x")
    assert server.requests[0].body == b""


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (Answer(b'{"a": 1}', headers={"Content-Type": "text/plain"}), {"a": 1}),
        (Answer(b"pong", headers={"Content-Type": "text/plain"}), "pong"),
        (Answer(b"<b>", headers={"Content-Type": "text/html"}), "<b>"),
        (Answer(b"not json"), "not json"),
        (Answer(b"\x89PNG", headers={"Content-Type": "image/png"}), b"\x89PNG"),
        (Answer(b"", status=204), None),
        (Answer(3, status=201), 3),
        (Answer(b'{"n": 1}\n{"n": 2}\n', headers={"Content-Type": "application/jsonl"}), [{"n": 1}, {"n": 2}]),
        (Answer(b'{"n": 1}\n', headers={"Content-Type": "application/jsonl"}), [{"n": 1}]),
    ],
)
@pytest.mark.asyncio
async def test_row_30_an_answer_is_json_else_text_else_bytes(
    server: ScriptedServer, endpoint: Endpoint, answer: Answer, content: object
) -> None:
    server.script("POST /lb/abc/x", answer)
    assert await endpoint.post("/x") == content


@pytest.mark.parametrize("status", [302, 400, 401, 404, 422, 500, 503])
@pytest.mark.asyncio
async def test_row_30_another_status_is_the_http_librarys_error_and_ours(
    server: ScriptedServer, endpoint: Endpoint, status: int
) -> None:
    server.script("POST /lb/abc/x", Answer({"detail": f"bad {KEY}"}, status=status))
    with pytest.raises(httpx.HTTPStatusError) as caught:
        await endpoint.post("/x")
    error = caught.value
    assert isinstance(error, ApiError)
    assert error.response.status_code == error.status == status
    assert error.response.json() == {"detail": f"bad {KEY}"}  # as it came; only messages are without the key
    assert error.request.url.path == "/lb/abc/x"
    assert "bad [key]" in str(error)
    assert KEY not in str(error)
    assert len(server.requests) == 1


@pytest.mark.asyncio
async def test_row_30_the_timeout_is_that_of_the_caller(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /lb/abc/x", Answer(1, after_s=60))
    with pytest.raises(httpx.TimeoutException) as caught:
        await endpoint.post("/x", timeout=0.3)
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, flash_plugins.PlatformError)
    assert len(server.requests) == 1


@pytest.mark.asyncio
async def test_row_30_a_request_that_may_have_run_is_not_repeated(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /lb/abc/x", DROP)
    with pytest.raises(httpx.TransportError):
        await endpoint.post("/x", {})
    assert len(server.requests) == 1


@pytest.mark.asyncio
async def test_a_request_that_met_no_worker_is_sent_again(
    server: ScriptedServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_plugins.client.balanced._NO_WORKER_PAUSE_S", 0.05)
    server.script("POST /lb/abc/x", *[Answer({"error": "no workers available"}, status=s) for s in (400, 503)], 7)
    assert await endpoint.post("/x") == 7


@pytest.mark.asyncio
async def test_that_no_worker_comes_is_an_error_in_the_end(
    server: ScriptedServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_plugins.client.balanced._NO_WORKER_PAUSE_S", 0.05)
    server.script("POST /lb/abc/x", Answer({"error": "no workers available"}, status=503))
    with pytest.raises(httpx.HTTPStatusError, match="no workers available"):
        await endpoint.post("/x", timeout=0.2)
    assert len(server.requests) > 2


@pytest.mark.asyncio
async def test_an_answer_of_a_worker_is_never_taken_for_a_missing_one(
    server: ScriptedServer, endpoint: Endpoint
) -> None:
    answer = Answer({"error": "no workers available"}, status=503, headers={"X-Runpod-Worker-Id": "w1"})
    server.script("POST /lb/abc/x", answer)
    with pytest.raises(ApiError):
        await endpoint.post("/x")
    assert len(server.requests) == 1


@pytest.mark.asyncio
async def test_headers_query_and_files_of_a_request(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /lb/abc/x", 1)
    await endpoint.post("/x", headers={"X-Runpod-Worker-Id": "strict w1"}, params={"q": ["a", "b"], "n": 3})
    assert server.requests[0].headers["X-Runpod-Worker-Id"] == "strict w1"
    assert server.requests[0].query == {"q": ["a", "b"], "n": ["3"]}
    fields = {"size": 3, "tags": ["a", "b"], "more": {"k": [1]}, "none": None}
    await endpoint.post("/x", fields, files={"image": ("cat.png", b"\x89PNG")})
    form = server.requests[1]
    assert form.headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert b'name="image"; filename="cat.png"' in form.body
    assert b"\x89PNG" in form.body
    assert b"\r\n\r\n3\r\n" in form.body
    assert b'{"k": [1]}' in form.body
    assert form.body.count(b'name="tags"') == 2
    assert b'name="none"' not in form.body


def test_what_cannot_be_sent_is_said_at_once(endpoint: Endpoint) -> None:
    with pytest.raises(TypeError, match=r"post\('/x'\).*set"):
        endpoint.post("/x", {1, 2})
    with pytest.raises(ValueError, match=r"run\(\)"):
        endpoint.run(float("nan"))
    with pytest.raises(ConfigError, match="begins with '/'"):
        endpoint.post("x")
    with pytest.raises(PayloadTooLarge, match="30 MB"):
        endpoint.post("/x", "x" * 30_000_000)
    with pytest.raises(PayloadTooLarge, match="10 MB"):
        endpoint.run("x" * 10_000_000)
    with pytest.raises(PayloadTooLarge, match="20 MB"):
        endpoint.runsync("x" * 20_000_000)


@pytest.mark.asyncio
async def test_dataclasses_and_models_are_sent_as_objects(server: ScriptedServer, endpoint: Endpoint) -> None:
    @dataclasses.dataclass
    class Item:
        name: str

    server.script("POST /lb/abc/x", 1)
    await endpoint.post("/x", {"items": [Item("a")]})
    assert server.requests[0].json == {"items": [{"name": "a"}]}


@pytest.mark.parametrize(
    ("given", "sent"), [({"prompt": "x"}, {"prompt": "x"}), ({}, {"__empty": True}), ([], []), (None, None), (0, 0)]
)
@pytest.mark.asyncio
async def test_row_31_run_submits_a_job(server: ScriptedServer, endpoint: Endpoint, given: Any, sent: Any) -> None:
    server.script("POST /v2/abc/run", QUEUED)
    job = await endpoint.run(given)
    assert isinstance(job, EndpointJob)
    assert (job.id, job.done) == ("j1", False)
    assert server.requests[0].json == {"input": sent}


@pytest.mark.asyncio
async def test_row_31_run_passes_a_webhook_and_a_policy_on(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /v2/abc/run", QUEUED)
    await endpoint.run(1, webhook="https://example.com/hook", policy={"ttl": 60_000}, s3Config={"bucketName": "b"})
    assert server.requests[0].json == {
        "input": 1,
        "webhook": "https://example.com/hook",
        "policy": {"ttl": 60_000},
        "s3Config": {"bucketName": "b"},
    }


@pytest.mark.parametrize(("timeout_s", "wait"), [(60.0, "60000"), (0.2, "1000"), (900, "300000")])
@pytest.mark.asyncio
async def test_row_32_runsync_waits_on_the_platform(
    server: ScriptedServer, endpoint: Endpoint, timeout_s: float, wait: str
) -> None:
    server.script("POST /v2/abc/runsync", {"id": "j1", "status": "COMPLETED", "output": 1}, QUEUED)
    job = await endpoint.runsync({"a": 1}, timeout=timeout_s)
    assert (job.output, job.done) == (1, True)
    assert not (await endpoint.runsync({"a": 1}, timeout=timeout_s)).done
    assert server.requests[0].query == {"wait": [wait]}


@pytest.mark.asyncio
async def test_row_33_cancel_returns_the_job(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /v2/abc/cancel/j1", {"id": "j1", "status": "CANCELLED"})
    job = await endpoint.cancel("j1")
    assert isinstance(job, EndpointJob)
    assert job.done


@pytest.mark.asyncio
async def test_row_34_an_id_is_resolved_without_any_request(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /v2/abc/run", QUEUED)
    await endpoint.run(1)
    assert [request.path for request in server.requests] == ["/v2/abc/run"]


def test_row_34_where_the_cloud_has_an_endpoint() -> None:
    from flash_plugins import Connection
    from flash_plugins.platforms.runpod import EndpointKind, RunpodClient

    client = RunpodClient(Connection(api_base="https://api.runpod.io", key=KEY))
    queue, balanced = (client.existing("abc", kind) for kind in (EndpointKind.QUEUE, EndpointKind.LOAD_BALANCER))
    assert queue.url("run") == "https://api.runpod.ai/v2/abc/run"
    assert queue.url("status", "j 1") == "https://api.runpod.ai/v2/abc/status/j%201"
    assert balanced.base_url == "https://abc.api.runpod.ai"
    asyncio.run(client.aclose())


@pytest.mark.asyncio
async def test_row_35_one_object_makes_both_kinds_of_request(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /v2/abc/run", QUEUED)
    server.script("POST /lb/abc/v1/completions", {"text": "hi"})
    assert (await endpoint.run({"prompt": "hello"})).id == "j1"
    assert await endpoint.post("/v1/completions", {"prompt": "hello"}) == {"text": "hi"}


@pytest.mark.asyncio
async def test_a_submission_that_is_too_much_just_now_is_sent_when_the_platform_says(
    server: ScriptedServer, endpoint: Endpoint
) -> None:
    limited = Answer({"error": "slow down"}, status=429, headers={"Retry-After": "0.05"})
    server.script("POST /v2/abc/run", limited, limited, QUEUED)
    assert (await endpoint.run(1)).id == "j1"
    assert len(server.requests) == 3


@pytest.mark.asyncio
async def test_a_submission_whose_answer_got_lost_is_not_repeated(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /v2/abc/run", DROP)
    with pytest.raises(httpx.TransportError) as caught:
        await endpoint.run(1)
    assert "may or may not run" in caught.value.__notes__[0]
    assert len(server.requests) == 1


@pytest.mark.asyncio
async def test_refusals_of_jobs_are_the_http_librarys_errors_too(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /v2/abc/run", Answer({"error": "unauthorized"}, status=401))
    with pytest.raises(httpx.HTTPStatusError, match="RUNPOD_API_KEY") as caught:
        await endpoint.run(1)
    assert isinstance(caught.value, flash_plugins.AuthenticationError)


@pytest.mark.asyncio
async def test_an_unknown_endpoint_says_where_it_was_looked_for(server: ScriptedServer, endpoint: Endpoint) -> None:
    with pytest.raises(flash_plugins.NotFoundError) as caught:
        await endpoint.run(1)
    assert "platform 'runpod'" in caught.value.__notes__[0]


def test_requests_from_many_threads(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("GET /lb/abc/x", 1)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(endpoint.get("/x").result(30))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 8


def test_pending_says_how_far_it_is(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("GET /lb/abc/x", 1)
    pending: Pending[Any] = endpoint.get("/x")
    assert repr(pending) == "<Pending GET '/x' of endpoint 'abc': not sent yet>"
    pending.result()
    assert repr(pending).endswith(": done>")


@pytest.mark.parametrize("answer", [Answer("no", status=500), DROP])
def test_the_key_does_not_travel_with_an_error(server: ScriptedServer, endpoint: Endpoint, answer: Answer) -> None:
    server.script("POST /lb/abc/x", answer)
    with pytest.raises(httpx.HTTPError) as caught:
        endpoint.post("/x").result(30)
    assert caught.value.request.headers["Authorization"] == "[key]"
    assert KEY.encode() not in pickle.dumps(caught.value.__reduce__()[1:])


@pytest.mark.parametrize("timeout_s", [0, -1, "60", None, True, float("inf")])
def test_a_timeout_is_a_number_above_zero(endpoint: Endpoint, timeout_s: Any) -> None:
    for ask in (lambda: endpoint.get("/x", timeout=timeout_s), lambda: endpoint.runsync(1, timeout=timeout_s)):
        with pytest.raises(ConfigError, match="timeout="):
            ask()


def test_a_forked_child_is_not_left_waiting(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("GET /lb/abc/slow", Answer(1, after_s=60))
    pending = endpoint.get("/slow")
    with pytest.raises(flash_plugins.WaitTimeout):
        pending.result(0.05)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(flash_plugins.PlatformUnavailable):
            pending.result(10)
            code = 2
        os._exit(0 if code == 1 else code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pending.close()


def test_the_end_of_the_session_ends_what_waits(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("GET /lb/abc/slow", Answer(1, after_s=60))
    pending = endpoint.get("/slow")
    with pytest.raises(flash_plugins.WaitTimeout):
        pending.result(0.05)
    flash_plugins.close()
    with pytest.raises(flash_plugins.PlatformUnavailable, match="ending"):
        pending.result(30)
