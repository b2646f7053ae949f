# SPDX-License-Identifier: Apache-2.0
"""A load-balanced worker: what its routes answer, when it is healthy, and how it begins and ends."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import http.client
import json
import os
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from flash_plugins import Endpoint
from flash_plugins.code.cargo import pack
from flash_plugins.platforms import api
from tests.registry import keep_installer_caches, require_registry
from tests.support import require
from tests.unit.worker_process import DEADLINE_S, Worker, environment, free_port, routes, worker

if require("fastapi") and require("uvicorn"):
    from fastapi import HTTPException, Response, WebSocket
    from pydantic import BaseModel


class Model(BaseModel):
    name: str
    data: bytes = b"text"


@dataclasses.dataclass
class Pair:
    left: int
    right: Any


calls = 0


def count() -> int:
    global calls
    calls += 1
    return calls


async def seen() -> list[int]:
    return [calls, os.getpid()]


def values(kind: str) -> Any:
    import numpy

    return {
        "none": None,
        "text": "ü",
        "model": Model(name="a"),
        "pair": Pair(1, {uuid.UUID(int=1), datetime.date(2026, 1, 2)}),
        "arrays": {"a": numpy.arange(3), "f": numpy.float32(1.5), "i": numpy.int64(2), "d": numpy.float64(0.5)},
        "nan": [float("nan"), float("inf"), 1.0],
        "bytes": b"\x00\xff",
        "inner bytes": [b"\x00\xff"],
        "response": Response("<b>", 201, {"X-Own": "1"}, "text/html"),
        "object": [object()],
    }[kind]


def fail(how: str) -> None:
    if how == "http":
        raise HTTPException(418, {"why": "teapot"}, {"X-Why": "teapot"})
    if how == "exit":
        sys.exit("enough")
    try:
        int(how)
    except ValueError as error:
        raise KeyError("the key") from error


async def fail_async() -> None:
    raise RuntimeError("in the loop")


async def numbers(count: int, failing: bool = False) -> AsyncIterator[dict[str, int]]:
    try:
        for number in range(count):
            yield {"number": number}
            await asyncio.sleep(0.05)
        if failing:
            raise ValueError("late")
    finally:
        print(f"closed after {count}")


def words(count: int) -> Iterator[str]:
    try:
        for number in range(count):
            print(f"word {number}")
            yield f"word {number}"
            time.sleep(0.02)
    finally:
        print("words closed")


def chunks(failing: bool = False) -> Iterator[bytes]:
    yield b"\x00"
    if failing:
        raise ValueError("broken off")
    yield b"\x01"


def early() -> Iterator[int]:
    raise LookupError("before the first")
    yield 1


async def made_elsewhere() -> Any:
    return numbers(2)


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


async def block(seconds: float) -> str:
    time.sleep(seconds)  # noqa: ASYNC251 - what users do: a model that computes in a coroutine
    return "blocked"


async def calls_another(x: int) -> Any:
    return [await seen(), count(), x]


async def chat(websocket: WebSocket, room: str) -> None:
    await websocket.accept()
    while (said := await websocket.receive_text()) != "bye":
        await websocket.send_text(f"{room}: {said}")
    await websocket.close()


CARGO = routes(
    ("GET", "/count", count), ("GET", "/seen", seen), ("GET", "/values/{kind}", values), ("POST", "/fail", fail),
    ("POST", "/fail-async", fail_async), ("POST", "/numbers", numbers), ("POST", "/words", words),
    ("GET", "/chunks", chunks), ("GET", "/early", early), ("GET", "/made-elsewhere", made_elsewhere),
    ("POST", "/sleep", sleep), ("POST", "/block", block), ("POST", "/calls-another", calls_another),
    ("GET", "/chat/{room}", chat),
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with worker(CARGO, tmp_path_factory.mktemp("worker")) as running:
        yield running


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


# -- what routes answer ---------------------------------------------------------------------------------------


def test_routes_share_the_globals_of_their_script(served: Worker) -> None:
    before = served.get("/seen").json[0]
    assert served.get("/count").json == before + 1
    assert served.get("/seen").json == [before + 1, served.process.pid]
    assert calls == 0


def test_row_26_a_route_function_is_a_plain_function(served: Worker) -> None:
    assert asyncio.run(calls_another(1))[0][1] == os.getpid()
    globals()["calls"] = 0
    ours, _, x = served.post("/calls-another", {"x": 3}).json
    assert (ours[1], x) == (served.process.pid, 3)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", None),
        ("text", "ü"),
        ("model", {"name": "a", "data": "text"}),
        ("arrays", {"a": [0, 1, 2], "f": 1.5, "i": 2, "d": 0.5}),
        ("nan", [None, None, 1.0]),
        ("inner bytes", ["AP8="]),
    ],
)
def test_values_are_json(served: Worker, kind: str, expected: Any) -> None:
    answer = served.get(f"/values/{kind.replace(' ', '%20')}")
    assert (answer.status, answer.headers["content-type"], answer.json) == (200, "application/json", expected)


def test_dataclasses_sets_dates_and_ids_are_json(served: Worker) -> None:
    found = served.get("/values/pair").json
    assert (found["left"], sorted(found["right"])) == (1, ["00000000-0000-0000-0000-000000000001", "2026-01-02"])


def test_bytes_and_responses_go_as_they_are(served: Worker) -> None:
    raw = served.get("/values/bytes")
    assert (raw.headers["content-type"], raw.body) == ("application/octet-stream", b"\x00\xff")
    own = served.get("/values/response")
    assert (own.status, own.headers["x-own"], own.body) == (201, "1", b"<b>")
    assert own.headers["content-type"].startswith("text/html")


def test_an_exception_is_a_500_that_tells_what_happened(served: Worker) -> None:
    answer = served.post("/fail", {"how": "x"})
    assert answer.status == 500
    assert (answer.json["error"], answer.json["error_type"]) == ("'the key'", "KeyError")
    told = answer.json["traceback"]
    assert "invalid literal for int()" in told
    assert told.rstrip().endswith("KeyError: 'the key'")
    assert "flash_plugins" not in told.replace(str(Path(__file__)), "")
    assert "route POST /fail (fail()) failed" in served.log
    assert served.post("/fail", {"how": "exit"}).json["error_type"] == "SystemExit"
    assert served.post("/fail-async").json["error"] == "in the loop"


def test_an_http_exception_is_its_status_and_detail(served: Worker) -> None:
    answer = served.post("/fail", {"how": "http"})
    assert (answer.status, answer.json, answer.headers["x-why"]) == (418, {"detail": {"why": "teapot"}}, "teapot")


def test_what_has_no_json_form_is_named(served: Worker) -> None:
    answer = served.get("/values/object")
    assert (answer.status, answer.json["error_type"]) == (500, "TypeError")
    assert "route GET /values/{kind} (values()) returned a list" in answer.json["error"]
    assert "a object inside" in answer.json["error"]


def test_unknown_paths_and_methods_are_told(served: Worker) -> None:
    assert served.get("/nowhere").status == 404
    assert served.post("/count").status == 405


def test_functions_run_in_threads_and_coroutines_in_the_loop(served: Worker, threads: ThreadPoolExecutor) -> None:
    began = time.monotonic()
    answers = list(threads.map(lambda _: served.post("/sleep", {"seconds": 0.5}).json, range(16)))
    assert answers == ["slept"] * 16
    assert time.monotonic() - began < 7  # one after the other they would take 8


# -- streams --------------------------------------------------------------------------------------------------


def test_a_generator_streams_lines_of_json_as_they_come(served: Worker) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)
    connection.request("POST", "/numbers", b'{"count": 40}', {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.headers["content-type"] == "application/jsonl"
    began = time.monotonic()
    assert json.loads(answer.readline()) == {"number": 0}
    assert time.monotonic() - began < 1.5  # of the two seconds that all of it takes
    assert [json.loads(line) for line in answer] == [{"number": number} for number in range(1, 40)]
    connection.close()


def test_server_sent_events_for_who_accepts_them(served: Worker) -> None:
    answer = served.post("/numbers", {"count": 2, "failing": True}, Accept="text/event-stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    first, second, last, rest = answer.body.decode().split("\n\n")
    assert (first, second, rest) == ('data: {"number":0}', 'data: {"number":1}', "")
    event, data = last.split("\n")
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"] == "late"


def test_a_stream_that_fails_ends_with_the_failure(served: Worker) -> None:
    lines = [json.loads(line) for line in served.post("/numbers", {"count": 1, "failing": True}).body.splitlines()]
    assert lines[0] == {"number": 0}
    assert (lines[1]["error"], lines[1]["error_type"]) == ("late", "ValueError")
    early = served.get("/early")
    assert (early.status, early.json["error"]) == (500, "before the first")


def test_generators_of_bytes_are_raw_and_break_off(served: Worker) -> None:
    assert served.get("/chunks").body == b"\x00\x01"
    with pytest.raises(http.client.IncompleteRead):
        served.get("/chunks?failing=1")


def test_a_generator_that_a_coroutine_returns_streams_too(served: Worker) -> None:
    assert len(served.get("/made-elsewhere").body.splitlines()) == 2


def test_a_caller_that_hangs_up_closes_the_generator(served: Worker) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)
    connection.request("POST", "/words", b'{"count": 100000}', {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert json.loads(answer.readline()) == "word 0"
    answer.close()
    connection.close()
    served.wait_for_log("words closed")


def test_websockets_are_served(served: Worker) -> None:
    client = require("websockets.sync.client")
    with client.connect(f"ws://127.0.0.1:{served.port}/chat/lobby", open_timeout=DEADLINE_S) as socket:
        socket.send("hello")
        assert socket.recv(DEADLINE_S) == "lobby: hello"
        socket.send("bye")


# -- health ---------------------------------------------------------------------------------------------------


def test_row_28_ping_is_answered_by_the_framework(served: Worker) -> None:
    answer = served.get("/ping")
    assert (answer.status, answer.json) == (200, {"status": "healthy"})
    assert "/ping" not in served.get("/openapi.json").json["paths"]
    assert served.post("/execute", {"function_code": "x"}).status == 404


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module whose import on a worker takes until there is a file `go`."""
    (tmp_path / "slow_to_load.py").write_text(
        textwrap.dedent(
            f"""
            import os, time
            while os.environ.get("{api.HANDLER_ENV}") and not os.path.exists({str(tmp_path / "go")!r}):
                time.sleep(0.02)
            def route():
                return "loaded"
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("slow_to_load")
    sys.modules.pop("slow_to_load")


@pytest.mark.parametrize("has_health_port", [False, True])
def test_row_28_health_is_204_while_code_loads_and_200_after(
    slow_module: Any, tmp_path: Path, has_health_port: bool
) -> None:
    ports: dict[str, Any] = {api.PORT_HEALTH_ENV: str(free_port())} if has_health_port else {}
    with worker(routes(("GET", "/", slow_module.route)), tmp_path, is_ready=False, **ports) as running:
        running.wait_for_health(204)
        early = running.get("/")
        assert (early.status, early.json) == (503, {"error": "this worker is starting"})
        assert running.post("/", b"x" * 1_000_000).status == 503
        assert running.request("GET", "/ping", port=running.health_port).body == b""
        (tmp_path / "go").touch()
        running.wait_for_health(200)
        assert running.get("/").json == "loaded"
        assert running.get("/ping").status == 200
        if has_health_port:
            assert running.request("GET", "/", port=running.health_port).status == 404


@pytest.mark.parametrize("has_health_port", [False, True])
def test_a_route_that_blocks_the_event_loop_leaves_the_worker_healthy(
    tmp_path: Path, threads: ThreadPoolExecutor, has_health_port: bool
) -> None:
    ports: dict[str, Any] = {api.PORT_HEALTH_ENV: str(free_port())} if has_health_port else {}
    with worker(CARGO, tmp_path, is_ready=True, **ports) as running:
        blocking = threads.submit(running.post, "/block", {"seconds": 6})
        time.sleep(0.5)
        assert running.request("GET", "/ping", port=running.health_port).status == 200
        assert not blocking.done()
        # Others that come meanwhile are not lost.
        waiting = [threads.submit(running.post, "/sleep", {"seconds": 0}) for _ in range(5)]
        assert not blocking.done()
        assert [one.result(DEADLINE_S).json for one in waiting] == ["slept"] * 5
        assert blocking.result(DEADLINE_S).json == "blocked"
        assert running.get("/ping").status == 200


def test_health_may_have_another_path_and_a_route_there_wins(tmp_path: Path) -> None:
    cargo = routes(("GET", "/seen", seen), ("GET", "/docs", sleep))
    with worker(cargo, tmp_path, is_ready=False, HEALTH_CHECK_PATH="/alive") as running:
        deadline = time.monotonic() + DEADLINE_S
        while running.health() is None or running.get("/alive").status != 200:
            assert time.monotonic() < deadline, running.log
            time.sleep(0.02)
        assert running.get("/ping").status == 404
        assert running.get("/docs?seconds=0").json == "slept"
    with worker(cargo, tmp_path, is_ready=False, HEALTH_CHECK_PATH="/seen") as running:
        deadline = time.monotonic() + DEADLINE_S
        while running.health() is None or running.get("/seen").status != 200:
            assert time.monotonic() < deadline, running.log
            time.sleep(0.02)
        assert running.get("/seen").json[1] == running.process.pid


def test_the_documentation_finds_its_description_below_a_prefix(served: Worker) -> None:
    page = served.get("/docs", X_Forwarded_Prefix="/lb/abc").body.decode()
    assert "/lb/abc/openapi.json" in page
    assert "//evil" not in served.get("/docs", X_Forwarded_Prefix="//evil").body.decode()


# -- how it begins and ends -----------------------------------------------------------------------------------


def test_code_that_cannot_be_loaded_ends_the_worker_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_on_worker.py").write_text(
        f"import os\nif '{api.HANDLER_ENV}' in os.environ:\n    raise RuntimeError('no such model')\n"
        "def route():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__("broken_on_worker")
    try:
        with worker(routes(("GET", "/", module.route)), tmp_path, is_ready=False) as running:
            assert running.process.wait(DEADLINE_S) == 1
            assert "RuntimeError: no such model" in running.log
            assert "broken_on_worker.py" in running.log
    finally:
        sys.modules.pop("broken_on_worker")


def test_a_worker_without_routes_says_how_to_get_some(tmp_path: Path) -> None:
    with worker(None, tmp_path, is_ready=False) as running:
        assert running.process.wait(DEADLINE_S) == 1
        assert "came without routes" in running.log


def test_code_of_another_python_is_refused(tmp_path: Path) -> None:
    first = f"{api.CARGO_ENV_PREFIX}0"
    version = ".".join(map(str, sys.version_info[:2]))
    changed = pack(CARGO)[first].replace(f"1:{version}:", "1:2.7:", 1)
    with worker(CARGO, tmp_path, is_ready=False, FLASH_PLUGINS_CODE_0=changed) as running:
        assert running.process.wait(DEADLINE_S) == 1
        assert "deployed from Python 2.7" in running.log


def test_a_port_that_is_taken_is_named(served: Worker, tmp_path: Path) -> None:
    with worker(CARGO, tmp_path, is_ready=False, PORT=str(served.port)) as running:
        assert running.process.wait(DEADLINE_S) == 1
        assert f"port {served.port}" in running.log


def test_routes_do_not_see_the_variables_that_carry_them(tmp_path: Path) -> None:
    def variables() -> list[str]:
        return [name for name in os.environ if name.startswith("FLASH_PLUGINS_CODE_")]

    with worker(routes(("GET", "/", variables)), tmp_path) as running:
        assert running.get("/").json == []


@pytest.mark.slow
def test_the_port_answers_while_dependencies_are_installed_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_registry()
    keep_installer_caches(monkeypatch)

    def version() -> list[Any]:
        import importlib.metadata

        inherited = [name for name in os.environ if name.startswith("FLASH_PLUGINS_DOOR")]
        return [importlib.metadata.version("idna"), os.getpid(), inherited]

    wanted = {"XDG_CACHE_HOME": str(tmp_path), api.DEPENDENCIES_ENV: '["idna==3.6"]'}
    ports = {api.PORT_HEALTH_ENV: str(free_port())}
    cargo = routes(("GET", "/", version))
    with worker(cargo, tmp_path, is_ready=False, **wanted, **ports) as running:
        running.wait_for_health(204)
        while (found := running.health()) != 200:
            assert found in (204, None), (
                running.log
            )  # the connections of one moment end with the program that took them
            assert running.process.poll() is None, running.log
            time.sleep(0.02)
        assert running.get("/").json == ["3.6", running.process.pid, []]
        assert running.get("/ping").status == 200


def test_sigterm_lets_requests_in_flight_finish(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    with worker(CARGO, tmp_path) as running:
        slow = threads.submit(running.post, "/sleep", {"seconds": 2})
        stream = threads.submit(running.post, "/numbers", {"count": 20})
        time.sleep(0.5)
        assert running.stop() == 0
        assert slow.result(DEADLINE_S).json == "slept"
        assert len(stream.result(DEADLINE_S).body.splitlines()) == 20
        assert "Error" not in running.log


def test_a_request_that_does_not_end_is_cut_after_a_while(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    hasty = (
        "import logging, sys; logging.basicConfig(); from flash_plugins.worker import http; "
        "http.DRAIN_S, http._LAST_S = 1, 0.5; sys.exit(http.serve())"
    )
    with worker(CARGO, tmp_path, command=["-c", hasty]) as running:
        endless = threads.submit(running.post, "/sleep", {"seconds": 20})
        time.sleep(0.5)
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 10
        assert "still ran" in running.log
        assert endless.result(DEADLINE_S).status == 500


def test_an_idle_worker_ends_at_once(tmp_path: Path) -> None:
    with worker(CARGO, tmp_path) as running:
        kept = http.client.HTTPConnection("127.0.0.1", running.port, timeout=DEADLINE_S)
        kept.request("GET", "/ping")
        kept.getresponse().read()
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 5
        kept.close()


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    given = environment(CARGO, tmp_path)
    starter = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); p.wait()"
    command = [sys.executable, "-c", starter, sys.executable, "-m", "flash_plugins.worker"]
    with (tmp_path / "log").open("wb") as log:
        parent = subprocess.Popen(command, env=given, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    port = int(given[api.PORT_ENV])
    Worker(parent, port, port, tmp_path / "log").wait_for_health(200)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + DEADLINE_S
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_route_may_call_decorated_functions_of_its_own_endpoint(tmp_path: Path) -> None:
    endpoint = Endpoint(name="the-endpoint", cpu="cpu5c-4-8")

    @endpoint
    def twice(x: int) -> int:
        return 2 * x

    async def awaited(x: int) -> int:
        return await twice(x)

    def returned(x: int) -> Any:
        return twice(x)

    with worker(routes(("POST", "/awaited", awaited), ("POST", "/returned", returned)), tmp_path) as running:
        assert running.post("/awaited", {"x": 4}).json == 8
        assert running.post("/returned", {"x": 5}).json == 10
