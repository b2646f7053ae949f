# SPDX-License-Identifier: Apache-2.0
"""The command lines that `deploy` prints, and what `jobs list` makes of a platform that lists none."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from flash_plugins import ApiError, Endpoint, NotFoundError
from flash_plugins.cli.examples import curl_example
from flash_plugins.cli.jobs import _requests
from flash_plugins.client.provisioned import ProvisionedEndpoint
from flash_plugins.platforms.runpod import EndpointHandle
from tests.support import require

QUEUE = ProvisionedEndpoint("e1", "e", {"run": "http://h/v2/e1/run", "runSync": "http://h/v2/e1/runsync"})
BALANCED = ProvisionedEndpoint("e1", "e", {"base": "http://h/lb/e1"}, base_url="http://h/lb/e1")


def body(command: str) -> Any:
    words = shlex.split(command)
    return json.loads(words[words.index("-d") + 1]) if "-d" in words else None


def endpoint() -> Endpoint:
    return Endpoint(name="e", cpu="cpu5c-4-8")


def test_a_function_gets_what_it_needs() -> None:
    queue = endpoint()

    @queue
    def f(x: int, items: list[str], name: str, *more: int, limit: int = 3, **rest: int) -> None: ...

    command = curl_example(queue, QUEUE)
    assert shlex.split(command)[:4] == ["curl", "-X", "POST", "http://h/v2/e1/runsync"]
    assert '-H "Authorization: Bearer $RUNPOD_API_KEY"' in command
    assert body(command) == {"input": {"x": 1, "items": [], "name": "text"}}


def test_one_of_several_functions_is_named() -> None:
    queue = endpoint()

    @queue
    def first() -> None: ...

    @queue
    def second() -> None: ...

    assert body(curl_example(queue, QUEUE)) == {"input": {"__function": "first"}}


def test_no_argument_has_its_mark() -> None:
    queue = endpoint()

    @queue
    def f() -> None: ...

    assert body(curl_example(queue, QUEUE)) == {"input": {"__empty": True}}


def test_a_method_of_a_class_is_named() -> None:
    queue = endpoint()

    @queue
    class Model:
        def predict(self, text: str) -> None: ...

        def reload(self) -> None: ...

    assert body(curl_example(queue, QUEUE)) == {"input": {"method": "predict", "text": "text"}}


def test_a_route_gets_its_fields_and_a_get_no_body() -> None:
    api = endpoint()

    @api.put("/items/{item}")
    def change(item: int, price: float) -> None: ...

    command = curl_example(api, BALANCED)
    assert shlex.split(command)[:4] == ["curl", "-X", "PUT", "http://h/lb/e1/items/{item}"]
    assert body(command) == {"price": 1.5}

    reader = endpoint()

    @reader.get("/health")
    def health() -> None: ...

    assert shlex.split(curl_example(reader, BALANCED))[:2] == ["curl", "http://h/lb/e1/health"]


def test_functions_behind_a_load_balancer_are_asked_for_their_health() -> None:
    quick = Endpoint(name="e", cpu="cpu5c-4-8", transport="load_balanced")

    @quick
    def f(x: int) -> None: ...

    urls = {"base": "http://h/lb/e1", "health": "http://h/lb/e1/ping"}
    made = ProvisionedEndpoint("e1", "e", urls, base_url="http://h/lb/e1")
    assert shlex.split(curl_example(quick, made))[:2] == ["curl", "http://h/lb/e1/ping"]


def test_a_model_is_the_body_itself() -> None:
    pydantic = require("pydantic")
    size = pydantic.create_model("Size", width=(int, ...))
    item = pydantic.create_model("Item", name=(str, ...), size=(size, ...), price=(float, 2.0))
    api = endpoint()

    def make(item: object) -> None: ...

    make.__annotations__["item"] = item
    api.post("/items")(make)
    assert body(curl_example(api, BALANCED)) == {"name": "text", "size": {"width": 1}}


def test_annotations_that_cannot_be_resolved_do_no_harm() -> None:
    queue = endpoint()

    @queue
    def f(x: NoSuchName, y: int) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert body(curl_example(queue, QUEUE)) == {"input": {"x": "text", "y": 1}}


def listed(answer: Callable[[], Any]) -> Any:
    asked = []

    async def json_(method: str, url: str) -> Any:
        asked.append((method, url))
        return answer()

    client: Any = SimpleNamespace(http=SimpleNamespace(json=json_))
    found = asyncio.run(_requests(client, EndpointHandle("e1", "e", QUEUE.request_urls)))
    assert asked == [("GET", "http://h/v2/e1/requests")]
    return found


def test_jobs_are_listed_where_the_platform_does() -> None:
    assert listed(lambda: {"requests": [{"id": "j"}, "odd"]}) == [{"id": "j"}]
    assert listed(lambda: {"jobs": [{"id": "j"}]}) == [{"id": "j"}]
    assert listed(lambda: {"something": "else"}) is None

    def missing() -> None:
        raise NotFoundError("no", status=404)

    def broken() -> None:
        raise ApiError("broken", status=500)

    assert listed(missing) is None
    with pytest.raises(ApiError):
        listed(broken)
