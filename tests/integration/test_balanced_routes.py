# SPDX-License-Identifier: Apache-2.0
"""Routes of an endpoint, deployed over REST and called through the local platform's balancer."""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flash_plugins import Endpoint
from flash_plugins.code.cargo import Cargo, CargoRoute, pack
from flash_plugins.platforms import api
from flash_plugins.platforms.local.launch import RunningPlatform, launch
from tests.integration.local_support import Balanced
from tests.support import require

require("fastapi")

squares = Endpoint(name="squares", cpu="cpu5c-4-8")


@squares
def square(x: int) -> int:
    return x * x


class State:
    """What the routes of one worker share."""

    calls = 0


def predict(text: str, times: int = 1) -> dict[str, Any]:
    State.calls += 1
    return {"text": text * times, "calls": State.calls}


async def count(n: int) -> AsyncIterator[dict[str, int]]:
    for number in range(n):
        yield {"number": number}
        await asyncio.sleep(0.1)


async def square_elsewhere(x: int) -> int:
    return await square(x)


@pytest.fixture(scope="module")
def platform() -> Iterator[RunningPlatform]:
    running = launch()
    yield running
    running.stop()


def opened(platform: RunningPlatform, name: str, *routes: CargoRoute, **fields: Any) -> Balanced:
    env = {
        **pack(Cargo(routes=routes)),
        api.HANDLER_ENV: api.HANDLER_HTTP,
        api.ENDPOINT_NAME_ENV: name,
    }
    client = Balanced(platform.url, platform.key)
    return client.open(api.WORKER_COMMAND, name=name, env=env, workers={"max": 1, "idleTimeout": 600}, **fields)


@pytest.fixture(scope="module")
def web(platform: RunningPlatform) -> Balanced:
    routes = [
        CargoRoute("POST", "/predict", predict),
        CargoRoute("POST", "/count", count),
        CargoRoute("POST", "/square", square_elsewhere),
    ]
    return opened(platform, "routes", *routes)


def sent(web: Balanced, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    status, answer, _ = web.post(path, json.dumps(body).encode(), Content_Type="application/json", **headers)
    return status, json.loads(answer)


def test_row_27_routes_answer_through_the_balancer(web: Balanced) -> None:
    status, first = sent(web, "/predict", {"text": "a", "times": 3})
    assert (status, first["text"]) == (200, "aaa")
    assert sent(web, "/predict", {"text": "b"})[1]["calls"] == first["calls"] + 1
    status, refused = sent(web, "/predict", {})
    assert (status, refused["detail"][0]["loc"]) == (422, ["body", "text"])


def test_row_28_ping_is_answered_through_the_balancer(web: Balanced) -> None:
    status, body, _ = web.get("/ping")
    assert (status, json.loads(body)) == (200, {"status": "healthy"})


def test_events_come_one_by_one(web: Balanced) -> None:
    headers = {"Authorization": f"Bearer {web.key}", "Accept": "text/event-stream", "Content-Type": "application/json"}
    with closing(web.connection()) as connection:
        connection.request("POST", f"/lb/{web.id}/count", b'{"n": 20}', headers)
        answer: http.client.HTTPResponse = connection.getresponse()
        began = time.monotonic()
        assert answer.readline() == b'data: {"number":0}\n'
        assert time.monotonic() - began < 1.5  # of the two seconds that all take
        assert answer.read().count(b"data: ") == 19


def test_row_23_a_route_calls_a_function_of_another_endpoint(web: Balanced) -> None:
    assert sent(web, "/square", {"x": 12}) == (200, 144)


def test_code_that_breaks_while_it_is_loaded_is_the_answer(
    platform: RunningPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_in_pool.py").write_text(
        f"import os\nif '{api.HANDLER_ENV}' in os.environ:\n    raise RuntimeError('no such weights')\n"
        "def route():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__("broken_in_pool")
    try:
        broken = opened(platform, "broken", CargoRoute("GET", "/", module.route))
        status, body, _ = broken.get("/")
    finally:
        sys.modules.pop("broken_in_pool")
    assert status == 502
    assert "RuntimeError: no such weights" in body.decode()
