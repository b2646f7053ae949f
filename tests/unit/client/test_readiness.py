# SPDX-License-Identifier: Apache-2.0
"""The wait for a first worker of a load-balanced endpoint, on a platform that is scripted like Runpod."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import flash_plugins
from flash_plugins import Endpoint, NoWorkers
from flash_plugins.dispatcher import readiness
from tests.unit.client.scripted import Answer, ScriptedServer

NONE_YET = Answer({"error": "no workers available"}, status=400)
PING, PREDICT = "GET /cold/ping", "POST /cold/predict"
WORKERS = "GET /v2/serverless/e1/workers"


def worker(status: str) -> dict[str, Any]:
    return {"id": "w1", "status": status, "isStale": False, "version": 1, "gpuCount": 0, "image": "x"}


def workers(status: str) -> dict[str, Any]:
    return {"workers": [worker(status)], "summary": {status.lower(): 1, "total": 1}, "endpointVersion": 1}


@pytest.fixture
def endpoint(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    monkeypatch.setattr(readiness, "_PAUSE_S", 0.01)
    monkeypatch.setattr(readiness, "_HOLD_S", 0.2)
    monkeypatch.setattr(readiness, "_LOOK_AFTER_S", 0.1)
    base = f"{server.url}/cold"
    made = {
        "id": "e1", "name": "cold", "type": "LOAD_BALANCER", "requestUrls": {"base": base, "health": f"{base}/ping"},
        "workers": {"min": 0, "max": 1}, "scaling": {"type": "REQUEST_COUNT", "requestCount": 4}, "dataCenterIds": [],
        "networkVolumes": [], "timeout": 1, "flashboot": "OFF", "createdAt": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    server.script("GET /v2/serverless", {"endpoints": []}, {"endpoints": [made]})
    server.script("POST /v2/serverless", Answer(made, status=201))
    server.script("GET /v2/serverless/e1", made)
    server.script(PREDICT, {"label": "positive"})
    return Endpoint(name="cold", image="some/image", cpu="cpu5c-4-8", idle_timeout=60)


def test_a_request_is_sent_once_there_is_a_worker(server: ScriptedServer, endpoint: Endpoint) -> None:
    held, starting = Answer("", after_s=1.0), Answer(b"", status=204)
    server.script(PING, NONE_YET, held, starting, Answer("starting", status=503), "healthy")
    server.script(WORKERS, workers("INITIALIZING"))
    assert endpoint.post("/predict", {"text": "x"}).result(30) == {"label": "positive"}
    assert len(server.seen(PREDICT)) == 1
    assert len(server.seen(PING)) == 5


def test_an_endpoint_that_answered_lately_is_not_asked_again(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script(PING, "healthy")
    for _ in range(3):
        endpoint.post("/predict").result(30)
    assert len(server.seen(PING)) == 1


def test_one_whose_workers_may_have_stopped_is(
    server: ScriptedServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_MARGIN_S", 60.0)
    server.script(PING, "healthy")
    for _ in range(2):
        endpoint.post("/predict").result(30)
    assert len(server.seen(PING)) == 2


@pytest.mark.parametrize("status", [401, 404, 405])
def test_an_image_that_knows_no_health_path_is_there_too(
    server: ScriptedServer, endpoint: Endpoint, status: int
) -> None:
    server.script(PING, Answer("what?", status=status, headers={"X-Runpod-Worker-Id": "w1"}))
    assert endpoint.post("/predict").result(30) == {"label": "positive"}


def test_a_worker_that_never_gets_healthy_is_an_error_with_its_log(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script(PING, NONE_YET)
    server.script(WORKERS, workers("INITIALIZING"), workers("UNHEALTHY"))
    line = b'id: 1\ndata: {"source": "container", "line": "CUDA driver is too old", "ts": "2026-01-01T00:00:00Z"}\n\n'
    server.script("GET /v2/serverless/e1/workers/w1/logs", Answer(line, headers={"Content-Type": "text/event-stream"}))
    with pytest.raises(NoWorkers, match=r"unhealthy \(w1\).*\nCUDA driver is too old"):
        endpoint.post("/predict").result(60)
    assert server.seen(PREDICT) == []


def test_no_capacity_is_told_and_in_the_end_an_error_that_says_what_would_help(
    server: ScriptedServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flash_plugins.platforms.api.WORKER_INIT_TIMEOUT_S", 0.5)
    server.script(PING, NONE_YET)
    server.script(WORKERS, workers("THROTTLED"))
    with pytest.raises(NoWorkers, match=r"no machine of the kind is free: allow more"):
        endpoint.post("/predict").result(60)
    assert server.seen(PREDICT) == []
    flash_plugins.close()
    told = [line for line in capfd.readouterr().err.splitlines() if "requests of endpoint 'cold' wait" in line]
    assert len(told) == 1  # however long they do


def test_a_platform_that_says_why_no_worker_starts_is_quoted(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script(PING, Answer({"error": "worker did not start: no module named 'torch'"}, status=502))
    with pytest.raises(NoWorkers, match="no module named 'torch'"):
        endpoint.post("/predict").result(30)


def test_requests_that_wait_for_the_same_worker_ask_for_it_together(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script(PING, NONE_YET, NONE_YET, "healthy")

    async def ask() -> list[Any]:
        return await asyncio.gather(*(endpoint.post("/predict") for _ in range(20)))

    assert asyncio.run(ask()) == [{"label": "positive"}] * 20
    assert len(server.seen(PING)) == 3


def test_requests_that_wait_together_all_learn_that_no_worker_starts(
    server: ScriptedServer, endpoint: Endpoint
) -> None:
    server.script(PING, NONE_YET, Answer({"error": "worker did not start: no module named 'torch'"}, status=502))

    async def ask() -> list[Any]:
        return await asyncio.gather(*(endpoint.post("/predict") for _ in range(3)), return_exceptions=True)

    assert [type(error) for error in asyncio.run(ask())] == [NoWorkers] * 3


def test_a_request_that_is_given_up_leaves_the_wait_to_the_others(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script(PING, *[NONE_YET] * 20, "healthy")

    async def ask() -> Any:
        first, second = asyncio.create_task(endpoint.post("/predict")), asyncio.create_task(endpoint.post("/predict"))
        await asyncio.to_thread(server.wait_for_requests, 4)
        first.cancel()
        return await second

    assert asyncio.run(ask()) == {"label": "positive"}
    assert len(server.seen(PREDICT)) == 1


def test_what_starts_may_take_longer_than_what_does_not_come(
    server: ScriptedServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_plugins.platforms.api.WORKER_INIT_TIMEOUT_S", 0.1)
    server.script(PING, *[NONE_YET] * 20, "healthy")
    server.script(WORKERS, workers("INITIALIZING"))
    assert endpoint.post("/predict").result(60) == {"label": "positive"}


def test_an_answer_404_of_an_endpoint_that_exists_is_not_asked_for_again(
    server: ScriptedServer, endpoint: Endpoint
) -> None:
    server.script(PING, "healthy")
    server.script("POST /cold/missing", Answer({"detail": "Not Found"}, status=404))
    with pytest.raises(flash_plugins.NotFoundError):
        endpoint.post("/missing").result(30)
    assert len(server.seen("POST /cold/missing")) == 1
