# SPDX-License-Identifier: Apache-2.0
"""Clients of endpoints on the local platform: one's own, images, and endpoints that somebody else deployed."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

import flash_plugins
from flash_plugins import (
    ConfigError,
    Endpoint,
    EndpointJob,
    LocalImage,
    NotFoundError,
    NoWorkers,
    RemoteError,
    ServerlessType,
    hookimpl,
    process,
)
from flash_plugins.platforms.choice import LocalPlatform

#: Generous: the box may be busy.
DEADLINE_S = 60.0

api = Endpoint(name="client-api", cpu="cpu5c-4-8", workers=(0, 2))


@api.post("/predict")
async def predict(text: str, n: int = 1) -> dict[str, str]:
    return {"text": text * n}


@api.get("/items/{name}")
def item(name: str, q: int = 0) -> list[object]:
    return [name, q]


@api.post("/upload")
def upload(image: bytes, tags: list[str], more: dict[str, int]) -> list[object]:
    return [len(image), tags, more]


@api.get("/health")
def health() -> str:
    return "fine"


@api.post("/fail")
def fail() -> None:
    raise ValueError("on purpose")


STUB = """
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.do_POST()
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = json.dumps({"path": self.path, "body": body.decode(), "model": os.environ.get("MODEL")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *args): ...
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
JOBS = """
import runpod
runpod.serverless.start({"handler": lambda job: {"echo": job["input"]}, "concurrency_modifier": lambda _: 8})
"""


class Images:
    """What stands for the images of these tests on this machine."""

    @hookimpl
    def flash_local_image(self, image: str) -> LocalImage | None:
        commands = {
            "stub/http": ["python", "-c", STUB],
            "stub/jobs": ["python", "-c", JOBS],
            "stub/broken": ["python", "-c", "raise RuntimeError('the model is missing')"],
        }
        return LocalImage(commands[image]) if image in commands else None


@pytest.fixture(scope="module", autouse=True)
def images() -> Iterator[None]:
    plugin = Images()
    flash_plugins.register(plugin)
    yield
    flash_plugins.unregister(plugin)
    flash_plugins.close()


def endpoints_named(name: str) -> list[dict[str, Any]]:
    """What the platform lists under a name."""
    session = process.session()

    async def ask() -> list[dict[str, Any]]:
        client = await session.connected()
        listed = await client.http.json("GET", client.connection.api_base + "/v2/serverless")
        return [entry for entry in listed["endpoints"] if entry["name"] == name]

    return session.perform(ask).result(DEADLINE_S)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.asyncio
async def test_the_client_of_ones_own_routes() -> None:
    assert await api.client.post("/predict", {"text": "ab"}) == {"text": "ab"}
    assert await api.client.get("/items/x", params={"q": 3}) == ["x", 3]
    assert await api.client.get("/health") == "fine"


@pytest.mark.asyncio
async def test_a_call_for_each_route() -> None:
    assert await api.client.predict("ab", n=2) == {"text": "abab"}
    assert await api.client.call(predict, text="c") == {"text": "c"}
    assert await api.client.item("a b", q=3) == ["a b", 3]
    assert await api.client.upload(b"123", ["a", "b"], {"k": 1}) == [3, ["a", "b"], {"k": 1}]
    assert await api.client.call(health) == "fine"  # `client.health` is the operation of that name
    assert api.client.predict("sync").result(DEADLINE_S) == {"text": "sync"}


@pytest.mark.asyncio
async def test_row_26_a_route_function_stays_what_it_is() -> None:
    assert await predict("ab") == {"text": "ab"}
    assert item("x") == ["x", 0]


@pytest.mark.asyncio
async def test_what_a_route_raises_comes_with_its_traceback() -> None:
    with pytest.raises(httpx.HTTPStatusError, match="500: ValueError: on purpose") as caught:
        await api.client.fail()
    assert caught.value.response.json()["error_type"].endswith("ValueError")
    assert "in fail" in caught.value.__notes__[0]


@pytest.mark.asyncio
async def test_a_route_that_yields_gives_a_list() -> None:
    streams = Endpoint(name="client-streams", cpu="cpu5c-4-8")

    @streams.get("/count")
    def count(n: int, fails: bool = False) -> Iterator[dict[str, int]]:
        for i in range(n):
            yield {"i": i}
        if fails:
            raise ValueError("enough")

    assert await streams.client.count(2) == [{"i": 0}, {"i": 1}]
    assert await streams.client.count(1) == [{"i": 0}]
    with pytest.raises(RemoteError, match="ValueError: enough") as caught:
        await streams.client.count(1, fails=True)
    assert "after 1 values" in caught.value.__notes__[0]


@pytest.mark.asyncio
async def test_provision_says_where_any_http_client_finds_it() -> None:
    made = await api.provision()
    assert (made.name, set(made.request_urls)) == ("client-api", {"base", "health"})
    key = process.session().platform().connect().key
    request = urllib.request.Request(f"{made.base_url}/items/x", headers={"Authorization": f"Bearer {key}"})
    answer = await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=DEADLINE_S).read())
    assert answer == b'["x",0]'


@pytest.mark.asyncio
async def test_another_program_finds_it_by_name_and_by_id() -> None:
    made = await api.provision()
    named = Endpoint(name="client-api")
    assert await named.client.post("/predict", {"text": "x"}) == {"text": "x"}
    assert await Endpoint(id=made.id).post("/predict", {"text": "y"}) == {"text": "y"}
    assert (await named.provision()).id == (await Endpoint(id=made.id).provision()).id == made.id
    with pytest.raises(ConfigError, match="is load-balanced"):
        await named.run({})


@pytest.mark.asyncio
async def test_a_changed_route_is_deployed_again() -> None:
    changing = Endpoint(name="client-changing", cpu="cpu5c-4-8")
    changing.get("/one")(lambda: 1)
    assert await changing.client.get("/one") == 1
    changing.get("/two")(lambda: 2)
    assert await changing.client.get("/two") == 2
    assert len(endpoints_named("client-changing")) == 1


@pytest.mark.asyncio
async def test_a_request_that_is_given_up_ends_the_stream_that_it_read() -> None:
    """Else the route would go on for a caller that is gone, until its response object is collected."""
    streams, seen = Endpoint(name="client-streams", cpu="cpu5c-4-8"), {"begun": 0, "ended": 0}

    async def endless() -> AsyncIterator[int]:
        seen["begun"] += 1
        try:
            while True:
                yield 1
                await asyncio.sleep(0.01)
        finally:
            seen["ended"] += 1

    streams.get("/endless")(endless)
    streams.get("/seen")(lambda: seen)

    async def until(what: str) -> None:
        for _ in range(200):
            if (await streams.client.get("/seen"))[what]:
                return
            await asyncio.sleep(0.05)

    reading = asyncio.ensure_future(streams.client.get("/endless"))
    await until("begun")
    gc.disable()
    try:
        reading.cancel()
        await until("ended")
    finally:
        gc.enable()
    assert await streams.client.get("/seen") == {"begun": 1, "ended": 1}


@pytest.mark.asyncio
async def test_provision_deploys_what_a_route_refers_to_as_it_is_now() -> None:
    refers, there = Endpoint(name="client-refers", cpu="cpu5c-4-8"), {"n": 1}
    refers.get("/x")(lambda: there["n"])
    assert await refers.client.get("/x") == 1
    there["n"] = 2
    first, second = await asyncio.gather(refers.provision(), refers.provision())
    assert first.id == second.id
    assert await refers.client.get("/x") == 2


@pytest.mark.asyncio
async def test_remote_concurrency_first_requests_at_once_provision_once() -> None:
    busy = Endpoint(name="client-busy", cpu="cpu5c-4-8")
    busy.get("/x")(lambda n=0: n)
    assert await asyncio.gather(*(busy.client.get(f"/x?n={n}") for n in range(8))) == [str(n) for n in range(8)]
    assert len(endpoints_named("client-busy")) == 1


@pytest.mark.asyncio
async def test_two_objects_of_one_name_that_take_turns_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    first, second = (Endpoint(name="client-turns", cpu="cpu5c-4-8") for _ in range(2))
    first.get("/x")(lambda: 1)
    second.get("/x")(lambda: 2)
    assert await first.client.get("/x") == 1
    assert await second.client.get("/x") == 2  # the later one, as when a cell of a notebook runs again
    assert await Endpoint(name="client-turns").client.get("/x") == 2
    assert await second.client.get("/x") == 2
    assert not [record for record in caplog.records if "take turns" in record.getMessage()]
    assert await first.client.get("/x") == 1
    assert [record for record in caplog.records if "take turns" in record.getMessage()]


@pytest.mark.asyncio
async def test_max_concurrency_of_routes_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    limited = Endpoint(name="client-limited", cpu="cpu5c-4-8", max_concurrency=2)
    limited.get("/x")(lambda: 1)
    assert await limited.client.get("/x") == 1
    assert [record for record in caplog.records if "max_concurrency=2 is ignored" in record.getMessage()]


@pytest.mark.asyncio
async def test_a_deleted_endpoint_is_made_anew_by_the_next_request() -> None:
    short = Endpoint(name="client-short", cpu="cpu5c-4-8")
    short.get("/x")(lambda: 1)
    first = await short.provision()
    assert await short.client.get("/x") == 1
    await short.delete()
    assert endpoints_named("client-short") == []
    with pytest.raises(NotFoundError, match="client-short"):
        await short.delete()
    assert await short.client.get("/x") == 1
    assert (await short.provision()).id != first.id
    await Endpoint(id=(await short.provision()).id).delete()
    assert endpoints_named("client-short") == []


@pytest.mark.asyncio
async def test_a_deleted_queue_is_made_anew_by_the_next_call() -> None:
    queue = Endpoint(name="client-deleted-queue", cpu="cpu5c-4-8")

    @queue
    def square(x: int) -> int:
        return x * x

    assert await square(3) == 9
    await queue.delete()
    assert await square(4) == 16
    assert len(endpoints_named("client-deleted-queue")) == 1


@pytest.mark.asyncio
async def test_an_endpoint_that_somebody_else_deleted_is_made_anew() -> None:
    lost = Endpoint(name="client-lost", cpu="cpu5c-4-8")
    lost.get("/x")(lambda: 1)
    jobs = Endpoint(name="client-lost-jobs", image="stub/jobs", cpu="cpu5c-4-8")
    assert await lost.client.get("/x") == 1
    assert (await jobs.runsync(1)).done
    for endpoint in (lost, jobs):
        await Endpoint(id=(await endpoint.provision()).id).delete()
    assert await lost.client.get("/x") == 1
    job = await jobs.run(2)
    assert (await job.wait(DEADLINE_S)).output == {"echo": 2}


@pytest.mark.asyncio
async def test_questions_about_ones_own_endpoint_deploy_nothing() -> None:
    asked = Endpoint(name="client-asked", cpu="cpu5c-4-8")

    @asked
    def square(x: int) -> int:
        return x * x

    assert [await square(2), await square(3)] == [4, 9]
    before = endpoints_named("client-asked")
    assert (await asked.health())["jobs"]["completed"] == 2
    assert (await asked.purge_queue())["removed"] == 0
    assert endpoints_named("client-asked") == before


@pytest.mark.asyncio
async def test_calls_leave_deployed_code_where_it_is() -> None:
    queue = Endpoint(name="client-cargo", cpu="cpu5c-4-8")

    @queue
    def square(x: int) -> int:
        return x * x

    assert await square(2) == 4
    made = await queue.provision()
    before = endpoints_named("client-cargo")
    assert any(name.startswith("FLASH_PLUGINS_CODE_") for name in before[0]["env"])
    assert await square(3) == 9
    assert endpoints_named("client-cargo") == before
    assert before[0]["id"] == made.id


queue = Endpoint(name="client-row-20", cpu="cpu5c-4-8")


@queue
def square(x: int, plus: int = 0) -> dict[str, int]:
    return {"square": x * x + plus}


@pytest.mark.asyncio
async def test_row_20_a_deployed_function_takes_plain_json_by_name() -> None:
    made = await queue.provision()
    assert set(made.request_urls) >= {"run", "runSync", "status", "cancel"}
    job = await queue.runsync({"x": 3})
    assert job.output == {"square": 9}
    named = Endpoint(name="client-row-20")
    jobs = [await named.run({"x": x, "plus": 1}) for x in range(3)]
    assert [(await job.wait(DEADLINE_S)).output for job in jobs] == [{"square": x * x + 1} for x in range(3)]
    wrong = await (await named.run({"y": 3})).wait(DEADLINE_S)
    assert "square() takes x, plus" in wrong.error
    assert await square(4) == {"square": 16}


@pytest.mark.asyncio
async def test_row_20_no_arguments_are_the_empty_mark() -> None:
    constant = Endpoint(name="client-empty", cpu="cpu5c-4-8")
    constant(lambda n=7: n)
    await constant.provision()
    key = process.session().platform().connect().key
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=DEADLINE_S) as client:
        urls = (await constant.provision()).request_urls
        answer = await client.post(urls["runSync"], json={"input": {"__empty": True}})
    assert answer.json()["output"] == 7
    assert (await constant.runsync({})).output == 7


PROGRAM = """
import asyncio
from flash_plugins import Endpoint

async def main():
    print((await Endpoint(name="client-row-20").runsync({"x": 5})).output)
    print(await Endpoint(name="client-api").client.post("/predict", {"text": "z"}))

asyncio.run(main())
print(Endpoint(name="client-api").client.get("/items/x").result(60))
"""


@pytest.mark.asyncio
async def test_row_20_another_program_needs_neither_the_code_nor_the_script() -> None:
    await asyncio.gather(queue.provision(), api.provision())
    connection = process.session().platform().connect()
    environment = {
        **os.environ,
        "FLASH_PLATFORM": "runpod",
        "RUNPOD_API_BASE_URL": connection.api_base,
        "RUNPOD_API_KEY": connection.key,
    }
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["{'square': 25}", "{'text': 'z'}", "['x', 0]"], done.stderr


@pytest.mark.asyncio
async def test_requests_of_one_worker_run_side_by_side() -> None:
    wide = Endpoint(name="client-wide", cpu="cpu5c-4-8")
    barriers: list[asyncio.Barrier] = []

    @wide.get("/meet")
    async def meet() -> bool:
        if not barriers:
            barriers.append(asyncio.Barrier(4))
        async with barriers[0]:
            return True

    assert await asyncio.gather(*(wide.client.get("/meet") for _ in range(4))) == [True] * 4


@pytest.mark.asyncio
async def test_a_platform_that_ended_is_started_again_by_the_next_request() -> None:
    again = Endpoint(name="client-again", cpu="cpu5c-4-8")
    again.get("/x")(lambda: 1)
    assert await again.client.get("/x") == 1
    platform = process.session().platform()
    assert isinstance(platform, LocalPlatform)
    assert platform._running is not None
    os.kill(platform._running.pid, signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: platform.lost_reason() is not None)
    assert await again.client.get("/x") == 1


def test_start_deploys_routes_ahead_of_their_first_request() -> None:
    early = Endpoint(name="client-early", cpu="cpu5c-4-8")
    early.get("/x")(lambda: 1)
    early.start()
    wait_until(lambda: bool(endpoints_named("client-early")))
    assert endpoints_named("client-early")[0]["type"] == "LOAD_BALANCER"


def test_a_function_may_send_requests_to_routes_of_the_same_program() -> None:
    caller = Endpoint(name="client-caller", cpu="cpu5c-4-8")

    @caller
    async def ask(text: str) -> str:
        answer: dict[str, str] = await api.client.post("/predict", {"text": text, "n": 2})
        return answer["text"]

    assert ask("ab").result(DEADLINE_S) == "abab"


def test_a_client_travels_to_workers() -> None:
    caller = Endpoint(name="client-travels", cpu="cpu5c-4-8")
    client, stub = api.client, Endpoint(name="client-vllm-2", image="stub/http", cpu="cpu5c-4-8")
    stub.get("/").result(DEADLINE_S)

    @caller
    async def ask(text: str) -> list[object]:
        return [await client.post("/predict", {"text": text}), (await stub.get("/v1/models"))["path"]]

    assert ask("ab").result(DEADLINE_S) == [{"text": "ab"}, "/v1/models"]
    assert copy.copy(client).words == client.words
    job = pickle.loads(pickle.dumps(EndpointJob({"id": "j"}, client)))
    assert repr(job) == "EndpointJob(id='j', status='UNKNOWN')"


@pytest.mark.asyncio
async def test_what_nobody_deployed_is_not_found() -> None:
    with pytest.raises(NotFoundError, match=r"has no endpoint 'client-nothing'"):
        await Endpoint(name="client-nothing").run({})


@pytest.mark.asyncio
async def test_a_queue_takes_no_http_requests() -> None:
    queue = Endpoint(name="client-queue", cpu="cpu5c-4-8")
    queue(len)
    with pytest.raises(ConfigError, match="is a queue"):
        await queue.client.post("/x")


@pytest.mark.asyncio
async def test_row_34_an_image_is_provisioned_by_its_first_request_and_once() -> None:
    vllm = Endpoint(name="client-vllm", image="stub/http", cpu="cpu5c-4-8", env={"MODEL": "m"})
    answers = await asyncio.gather(*(vllm.post("/v1/completions", {"prompt": "x"}) for _ in range(4)))
    assert answers == [{"path": "/v1/completions", "body": '{"prompt":"x"}', "model": "m"}] * 4
    (made,) = endpoints_named("client-vllm")
    assert (made["type"], made["image"]) == ("LOAD_BALANCER", "stub/http")
    assert "FLASH_PLUGINS_HANDLER" not in made["env"]  # its workers are none of ours
    with pytest.raises(ConfigError, match="is load-balanced"):
        await vllm.run({})
    await vllm.delete()


@pytest.mark.asyncio
async def test_an_image_may_take_jobs() -> None:
    worker = Endpoint(name="client-jobs", image="stub/jobs", cpu="cpu5c-4-8")
    job = await worker.runsync({"prompt": "x"})
    await job.wait(DEADLINE_S)
    assert job.output == {"echo": {"prompt": "x"}}
    with pytest.raises(ConfigError, match="is a queue"):
        await worker.get("/v1/models")
    jobs = [await worker.run(n) for n in range(3)]
    assert [(await job.wait(DEADLINE_S)).output for job in jobs] == [{"echo": n} for n in range(3)]
    assert (await worker.status(jobs[0].id)).output == {"echo": 0}
    assert (await worker.health())["jobs"]["completed"] >= 4


@pytest.mark.asyncio
async def test_provision_of_an_image_is_told_its_kind() -> None:
    image = Endpoint(name="client-kind", image="stub/http", cpu="cpu5c-4-8")
    with pytest.raises(ConfigError, match=r"ServerlessType\.QB"):
        await image.provision()
    assert (await image.provision(ServerlessType.LB)).base_url is not None
    assert (await image.get("/v1/models"))["path"] == "/v1/models"
    with pytest.raises(ConfigError, match="ServerlessType"):
        image.provision("HTTP")


@pytest.mark.asyncio
async def test_an_image_that_ends_at_its_start_is_an_error_with_its_own_words() -> None:
    broken = Endpoint(name="client-broken", image="stub/broken", cpu="cpu5c-4-8")
    with pytest.raises(NoWorkers, match="RuntimeError: the model is missing"):
        await broken.get("/")


class Unloadable:
    """Cannot be unpickled on the worker."""

    def __reduce__(self) -> Any:
        return (int, ("this model is broken",))


@pytest.mark.asyncio
async def test_a_route_whose_code_does_not_load_is_an_error_with_its_traceback() -> None:
    crash = Endpoint(name="client-crash", cpu="cpu5c-4-8")
    model = Unloadable()
    crash.get("/x")(lambda: repr(model))
    with pytest.raises(NoWorkers, match=r"ValueError: invalid literal.*this model is broken"):
        await crash.client.get("/x")


@pytest.mark.asyncio
async def test_jobs_of_an_existing_endpoint() -> None:
    other = Endpoint(name="client-existing", image="stub/jobs", cpu="cpu5c-4-8")
    made = await other.provision("QB")
    endpoint = Endpoint(id=made.id)
    job = await endpoint.run({})
    assert isinstance(job, EndpointJob)
    await job.wait(DEADLINE_S)
    assert job.output == {"echo": {"__empty": True}}
    assert await job.status() == "COMPLETED"
    assert repr(job) == f"EndpointJob(id={job.id!r}, status='COMPLETED')"
