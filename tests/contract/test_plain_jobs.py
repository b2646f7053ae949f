# SPDX-License-Identifier: Apache-2.0
"""Functions that were deployed with an endpoint, called by jobs in plain JSON as any client sends them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from flash_plugins import Endpoint
from flash_plugins.code.cargo import Cargo, pack
from flash_plugins.platforms import api
from flash_plugins.platforms.local.launch import launch
from tests.integration.local_support import Client

#: The functions of this file go by value: they are `endpoint`s of scripts to all intents.
endpoint = Endpoint(name="plain", cpu="cpu5c-4-8")


@endpoint
def add(x: int, y: int = 1, *, scale: int = 1) -> int:
    """One that is decorated, as all that are deployed are."""
    return (x + y) * scale


async def later(x: int) -> dict[str, int]:
    await asyncio.sleep(0.01)
    return {"x": x}


def nothing() -> str:
    return "called"


def anything(x: int, /, *args: Any, **others: Any) -> list[Any]:
    return [x, args, others]


def many(kind: str) -> Any:
    return {
        "none": None,
        "false": False,
        "list": [1, 2.5, "ü"],
        "tuple": (1, {2}),
        "nan": [float("nan")],
        "data": Point(1),
        "object": {"a": [1, object()]},
        "soft error": {"error": "not today", "detail": 1},
        "generator": (n for n in range(3)),
        "half a character": ["a", os.fsdecode(b"\xff.txt")],
        "half a key": {"\ud800": 1},
        "large": "x" * 10_000_001,
    }[kind]


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


def fail(how: str) -> None:
    if how == "exit":
        sys.exit(3)
    raise LookupError(f"no {how} here")


class Model:
    """Made once for each worker."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.seen: list[Any] = []

    def predict(self, text: str) -> list[Any]:
        self.seen.append(text)
        return [type(self).made, os.getpid(), list(self.seen)]

    async def forget(self) -> str:
        self.seen.clear()
        return "forgotten"

    def _private(self) -> None:
        return None


class Single:
    def go(self, x: int) -> int:
        return x + 1


class NeedsArguments:
    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> str:
        return self.path


def count(n: int, failing: bool = False) -> Iterator[Any]:
    for number in range(n):
        yield {"number": number}
    if failing:
        raise ValueError("late")


async def count_later(n: int) -> AsyncIterator[int]:
    for number in range(n):
        await asyncio.sleep(0.01)
        yield number


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    platform = launch()
    yield Client.of(platform)
    platform.stop()


class Stage:
    """Endpoints of one platform, each with one worker that stays."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ids: dict[str, str] = {}

    def endpoint(self, name: str, cargo: Cargo | None, **variables: str) -> str:
        """Return the id of the endpoint of this name, created when it is first asked for."""
        if name not in self._ids:
            env = {**({} if cargo is None else pack(cargo)), **variables}
            workers = {"min": 1, "max": 1}
            self._ids[name] = self._client.create(api.WORKER_COMMAND, name=name, env=env, workers=workers)
        return self._ids[name]

    def job(self, endpoint_id: str, content: Any) -> Any:
        sent = self._client.ok("POST", f"/v2/{endpoint_id}/run", {"input": content})
        return self._client.finished(endpoint_id, sent["id"])

    def output(self, endpoint_id: str, content: Any) -> Any:
        job = self.job(endpoint_id, content)
        assert job["status"] == "COMPLETED", job
        return job.get("output")

    def error(self, endpoint_id: str, content: Any) -> dict[str, str]:
        """Return what a failed job tells, as the official SDK writes it."""
        job = self.job(endpoint_id, content)
        assert job["status"] == "FAILED", job
        told: dict[str, str] = json.loads(job["error"])
        assert set(told) == {"error_type", "error_message", "error_traceback"}
        return told


@pytest.fixture(scope="module")
def stage(client: Client) -> Stage:
    return Stage(client)


@pytest.fixture
def several(stage: Stage) -> str:
    """An endpoint with all the functions that return."""
    functions: list[Any] = [later, nothing, anything, many, fail, Model, Single, NeedsArguments]
    named = {function.__name__: function for function in functions}
    return stage.endpoint("several", Cargo({"add": add, **named}))


@pytest.fixture
def alone(stage: Stage) -> str:
    return stage.endpoint("alone", Cargo({"add": add}))


def test_row_20_plain_json_is_mapped_onto_the_parameters(stage: Stage, alone: str) -> None:
    assert stage.output(alone, {"x": 3}) == 4
    assert stage.output(alone, {"y": 5, "x": 3, "scale": 2}) == 16


def test_row_20_runsync_answers_with_the_plain_result(client: Client, alone: str) -> None:
    answer = client.ok("POST", f"/v2/{alone}/runsync", {"input": {"x": 40, "y": 2}})
    assert (answer["status"], answer["output"]) == ("COMPLETED", 42)


def test_row_20_no_arguments_are_the_marker_for_empty(stage: Stage, several: str) -> None:
    assert stage.output(several, {"__function": "nothing", "__empty": True}) == "called"
    assert stage.output(stage.endpoint("nothing", Cargo({"nothing": nothing})), {"__empty": True}) == "called"


def test_row_20_one_of_several_functions_is_named(stage: Stage, several: str) -> None:
    assert stage.output(several, {"__function": "later", "x": 2}) == {"x": 2}
    told = stage.error(several, {"x": 2})
    assert told["error_type"].endswith("EnvelopeError")
    assert "several functions: give one of Model, NeedsArguments, Single, add, anything" in told["error_message"]
    assert "no function 'sub'" in stage.error(several, {"__function": "sub"})["error_message"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"__empty": True}, ["add() takes x, y, scale", "lacks 'x'"]),
        ({"x": 1, "scael": 2}, ["has 'scael', which is no parameter (did you mean 'scale'?)"]),
        ("text", ["the job's input is a str", "parameters"]),
        ([1], ["the job's input is a list"]),
    ],
)
def test_row_20_arguments_that_do_not_fit_are_named(stage: Stage, alone: str, content: Any, words: list[str]) -> None:
    message = stage.error(alone, content)["error_message"]
    assert all(word in message for word in words), message


def test_positional_only_and_open_parameters_get_their_values(stage: Stage, several: str) -> None:
    assert stage.output(several, {"__function": "anything", "x": 1, "z": 2}) == [1, [], {"z": 2}]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", None),
        ("false", False),
        ("list", [1, 2.5, "ü"]),
        ("tuple", [1, [2]]),
        ("nan", [None]),
        ("data", {"x": 1, "y": 0}),
        ("generator", [0, 1, 2]),
    ],
)
def test_row_20_results_are_plain_json(stage: Stage, several: str, kind: str, expected: Any) -> None:
    assert stage.output(several, {"__function": "many", "kind": kind}) == expected


def test_a_result_that_json_cannot_hold_is_named_with_its_place(stage: Stage, several: str) -> None:
    told = stage.error(several, {"__function": "many", "kind": "object"})
    assert "the result of many() has no JSON form: it has a object at ['a'][1]" in told["error_message"]


@pytest.mark.parametrize(
    ("kind", "words"), [("half a character", r"the text at [1] has '\udcff'"), ("half a key", r"'\ud800'")]
)
def test_texts_that_are_no_unicode_fail_the_job_at_once(stage: Stage, several: str, kind: str, words: str) -> None:
    told = stage.error(several, {"__function": "many", "kind": kind})
    assert "the result of many() has no JSON form" in told["error_message"]
    assert words in told["error_message"]
    large = stage.error(several, {"__function": "many", "kind": "large"})
    assert "the result of many() takes 10.0 MB on the wire" in large["error_message"]


def test_row_21_an_output_with_an_error_is_a_failure(stage: Stage, several: str) -> None:
    job = stage.job(several, {"__function": "many", "kind": "soft error"})
    assert (job["status"], job["error"], job["output"]) == ("FAILED", "not today", {"detail": 1})


def test_row_21_an_exception_keeps_its_traceback(stage: Stage, several: str) -> None:
    told = stage.error(several, {"__function": "fail", "how": "milk"})
    assert (told["error_type"], told["error_message"]) == ("LookupError", "no milk here")
    assert "in fail" in told["error_traceback"]
    assert "flash_plugins/worker" not in told["error_traceback"]
    assert stage.error(several, {"__function": "fail", "how": "exit"})["error_type"] == "SystemExit"


def test_methods_run_on_one_instance(stage: Stage, several: str) -> None:
    assert stage.output(several, {"__function": "Model", "method": "forget"}) == "forgotten"
    first = stage.output(several, {"__function": "Model", "method": "predict", "text": "a"})
    second = stage.output(several, {"__function": "Model", "method": "predict", "text": "b"})
    assert (first[0], second) == (1, [1, first[1], ["a", "b"]])
    # The only method needs no name.
    assert stage.output(several, {"__function": "Single", "x": 1}) == 2
    assert stage.output(several, {"__function": "Single", "method": "go", "x": 2}) == 3


def test_methods_that_cannot_be_called_are_named(stage: Stage, several: str) -> None:
    told = stage.error(several, {"__function": "Model", "text": "a"})["error_message"]
    assert "class Model has several methods: give one of forget, predict as 'method'" in told
    told = stage.error(several, {"__function": "Model", "method": "_private"})["error_message"]
    assert "class Model has no method '_private'" in told
    told = stage.error(several, {"__function": "NeedsArguments"})["error_message"]
    assert "NeedsArguments's constructor() takes path: the job's input lacks 'path'" in told


def test_row_20_generators_stream_plain_values(client: Client, stage: Stage) -> None:
    cargo = Cargo({"count": count, "count_later": count_later, "add": add})
    streaming = stage.endpoint("streaming", cargo, FLASH_PLUGINS_HANDLER=api.HANDLER_STREAMS)

    def chunks(content: Any) -> tuple[list[Any], Any]:
        sent = client.ok("POST", f"/v2/{streaming}/run", {"input": content})
        found = list(client.stream(streaming, sent["id"]))
        return found, client.finished(streaming, sent["id"])

    found, job = chunks({"__function": "count", "n": 40})
    assert (found, job["status"]) == ([{"number": number} for number in range(40)], "COMPLETED")
    assert chunks({"__function": "count_later", "n": 3})[0] == [0, 1, 2]
    assert chunks({"__function": "count", "n": 0})[0] == []
    assert chunks({"__function": "add", "x": 1})[0] == [2]
    found, job = chunks({"__function": "count", "n": 2, "failing": True})
    assert (found[:2], job["status"]) == ([{"number": 0}, {"number": 1}], "FAILED")
    assert json.loads(job["error"])["error_message"] == "late"


def test_several_jobs_at_once(client: Client, stage: Stage) -> None:
    concurrent = stage.endpoint("concurrent", Cargo({"later": later, "fail": fail}), RUNPOD_MAX_CONCURRENCY="4")
    sent = [
        client.ok("POST", f"/v2/{concurrent}/run", {"input": {"__function": "later", "x": number}})["id"]
        for number in range(12)
    ]
    assert [client.finished(concurrent, job)["output"] for job in sent] == [{"x": number} for number in range(12)]
    assert stage.error(concurrent, {"__function": "fail", "how": "x"})["error_type"] == "LookupError"


def test_without_deployed_code_plain_json_is_refused_with_the_remedy(stage: Stage) -> None:
    told = stage.error(stage.endpoint("bare", None), {"x": 1})
    assert told["error_type"].endswith("EnvelopeError")
    assert "created by calls from Python" in told["error_message"]
    assert "an object with the keys x" in told["error_message"]
    assert "provision()" in told["error_message"]


def test_damaged_code_is_told_to_each_job(stage: Stage) -> None:
    variables = pack(Cargo({"add": add}))
    first = f"{api.CARGO_ENV_PREFIX}0"
    damaged = stage.endpoint("damaged", None, FLASH_PLUGINS_CODE_0=variables[first][:-8])
    assert "damaged on its way" in stage.error(damaged, {"x": 1})["error_message"]
