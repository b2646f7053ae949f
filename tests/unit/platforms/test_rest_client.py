# SPDX-License-Identifier: Apache-2.0
"""The typed client of REST v2: what it decodes, what it repeats, how long it waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from flash_plugins import ApiError, AuthenticationError, Connection, NotFoundError, PlatformUnavailable
from flash_plugins.platforms import rest as rest_module
from flash_plugins.platforms.api import EndpointKind
from flash_plugins.platforms.http import HttpClient, RateLimited, TransportFailure
from flash_plugins.platforms.models import EndpointInfo, LogLine
from flash_plugins.platforms.quota import Quota
from flash_plugins.platforms.rest import RestClient
from tests.unit.dispatcher.fake import DEADLINE_S, KEY, RESET, Answer, FakeRunpod, Request, problem

T = TypeVar("T")

ENDPOINT = {"id": "e1", "name": "one", "type": "QUEUE", "requestUrls": {"run": "https://x/v2/e1/run"}}


@pytest.fixture
def fake() -> Iterator[FakeRunpod]:
    server = FakeRunpod()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_module, "FIRST_PAUSE_S", 0.01)


def ask(fake: FakeRunpod, question: Callable[[RestClient], Awaitable[T]], *, lost: str | None = None) -> T:
    """Return the answer to one question."""

    async def run() -> T:
        http = HttpClient(Connection(api_base=fake.base, key=KEY, key_advice="look at the key in the drawer"))
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await question(RestClient(http, lost=lambda: lost))
        finally:
            await http.aclose()

    return asyncio.run(run())


def passing(status: int) -> Answer:
    return problem(status, "a moment, please")


def limited(retry_after: str = "0.01") -> Answer:
    answer = problem(429, "slow down")
    return Answer(answer.status, answer.content, {**answer.headers, "Retry-After": retry_after})


# -- decoding ---------------------------------------------------------------------------------------------------


def test_an_endpoint_has_types(fake: FakeRunpod) -> None:
    fake.endpoints["e1"] = {
        **ENDPOINT,
        "type": "LOAD_BALANCER",
        "requestUrls": {"base": "https://e1.api.runpod.ai", "health": "https://e1.api.runpod.ai/ping"},
        "image": "python:3.12-slim",
        "workers": {"min": 1, "max": 5, "idleTimeout": 9},
        "scaling": {"type": "REQUEST_COUNT", "requestCount": 4},
        "gpu": {"pools": ["ADA_24"], "count": 2, "allowedCudaVersions": [], "minCudaVersion": None},
        "dataCenterIds": ["EU-RO-1"],
        "networkVolumes": ["v1"],
        "env": {"TOKEN": "s3cret"},
        "timeout": 300000,
        "flashboot": "OFF",
        "createdAt": "2026-06-01T12:00:00Z",
        "aFieldOfTomorrow": {"x": 1},
    }
    (found,) = ask(fake, lambda rest: rest.endpoints())
    assert found.kind is EndpointKind.LOAD_BALANCER
    assert (found.workers_min, found.workers_max, found.idle_timeout_s) == (1, 5, 9)
    assert (found.gpu_pools, found.gpu_count, found.cpus) == (("ADA_24",), 2, ())
    assert (found.data_centers, found.volumes, found.env) == (("EU-RO-1",), ("v1",), {"TOKEN": "s3cret"})
    assert found.urls["base"] == "https://e1.api.runpod.ai"
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({}, None),
        ({"type": "SOMETHING_NEW"}, None),
        ({"requestUrls": {"run": "https://x"}}, EndpointKind.QUEUE),
        ({"requestUrls": {"base": "https://x"}}, EndpointKind.LOAD_BALANCER),
    ],
)
def test_an_endpoint_that_says_little_is_still_listed(answer: dict[str, Any], kind: EndpointKind | None) -> None:
    found = EndpointInfo.parse({"id": "e1", "name": "one", "gpu": None, "env": None, **answer})
    assert found.kind is kind
    assert (found.workers_max, found.env, found.gpu_pools, found.created_at) == (0, {}, (), "")


@pytest.mark.parametrize("content", [b"<html>", [1], {"endpoints": [{"name": "no id"}]}, {"endpoints": 3}, {}])
def test_an_answer_that_nobody_described_is_an_error(fake: FakeRunpod, content: Any) -> None:
    fake.script("list", Answer(200, content))
    with pytest.raises(ApiError, match="not what Runpod's description says"):
        ask(fake, lambda rest: rest.endpoints())


def test_all_pages_of_a_list_are_read(fake: FakeRunpod) -> None:
    cursors: list[list[str]] = []

    def page(request: Request) -> Answer:
        cursors.append(request.query.get("cursor", []))
        number = len(cursors)
        more = {"hasNextPage": number < 3, "nextCursor": f"c&{number}"}
        return Answer(content={"endpoints": [{**ENDPOINT, "id": f"e{number}"}], "pagination": more})

    fake.script("list", page, page, page)
    assert [found.id for found in ask(fake, lambda rest: rest.endpoints())] == ["e1", "e2", "e3"]
    assert cursors == [[], ["c&1"], ["c&2"]]


def test_a_list_that_repeats_itself_ends(fake: FakeRunpod) -> None:
    page = Answer(content={"endpoints": [ENDPOINT], "pagination": {"hasNextPage": True, "nextCursor": "again"}})
    fake.script("list", page, page, page)
    assert len(ask(fake, lambda rest: rest.endpoints())) == 2


# -- repeating --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [RESET, passing(502), passing(503), passing(504), limited()])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_what_is_safe_to_repeat_is_repeated(fake: FakeRunpod, method: str, failure: Answer) -> None:
    fake.endpoints["e1"] = dict(ENDPOINT)
    answer = Answer(204, b"") if method == "DELETE" else Answer(content=ENDPOINT)
    fake.script(method.lower(), failure, failure, answer)
    questions: dict[str, Callable[[RestClient], Awaitable[object]]] = {
        "GET": lambda rest: rest.endpoint("e1"),
        "PATCH": lambda rest: rest.update_endpoint("e1", {"timeout": 5000}),
        "DELETE": lambda rest: rest.delete_endpoint("e1"),
    }
    ask(fake, questions[method])
    assert len(fake.seen(method.lower())) == 3


def test_repeating_ends_with_the_last_failure(fake: FakeRunpod) -> None:
    fake.script("list", *[passing(503)] * 20)
    with pytest.raises(ApiError, match="a moment, please"):
        ask(fake, lambda rest: rest.endpoints())
    assert len(fake.seen("list")) == rest_module.MAX_TRIES


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500])
def test_what_would_end_alike_is_not_repeated(fake: FakeRunpod, status: int) -> None:
    fake.script("list", problem(status, "no"))
    with pytest.raises((ApiError, AuthenticationError), match="no"):
        ask(fake, lambda rest: rest.endpoints())
    assert len(fake.seen("list")) == 1


@pytest.mark.parametrize("failure", [RESET, passing(502), passing(503), passing(504), passing(500)])
def test_a_creation_that_may_have_arrived_is_never_repeated(fake: FakeRunpod, failure: Answer) -> None:
    fake.script("create", failure)
    with pytest.raises((TransportFailure, ApiError)):
        ask(fake, lambda rest: rest.create_endpoint({"name": "x"}))
    assert len(fake.seen("create")) == 1


def test_a_creation_that_was_refused_for_its_rate_is_repeated(fake: FakeRunpod) -> None:
    fake.script("create", limited(), limited())
    assert ask(fake, lambda rest: rest.create_endpoint({"name": "x"})).id == "ep1"
    assert len(fake.endpoints) == 1


def test_a_creation_that_was_never_sent_is_repeated(fake: FakeRunpod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_module, "FIRST_PAUSE_S", 0.2)
    fake.deafen()
    fake.loop.call_soon_threadsafe(lambda: fake.loop.call_later(0.1, lambda: fake.loop.create_task(fake.begin())))
    assert ask(fake, lambda rest: rest.create_endpoint({"name": "x"})).id == "ep1"


def test_a_deletion_whose_answer_got_lost_is_done(fake: FakeRunpod) -> None:
    fake.script("delete", RESET, RESET, problem(404, "no such endpoint"))  # aiohttp itself repeats the first
    ask(fake, lambda rest: rest.delete_endpoint("e1"))
    fake.script("delete", problem(404, "no such endpoint"))
    with pytest.raises(NotFoundError):
        ask(fake, lambda rest: rest.delete_endpoint("e1"))


def test_nothing_is_repeated_once_the_platform_is_gone(fake: FakeRunpod) -> None:
    fake.script("list", passing(503))
    with pytest.raises(ApiError):
        ask(fake, lambda rest: rest.endpoints(), lost="it ended")
    assert len(fake.seen("list")) == 1


def test_a_platform_that_is_not_there_is_unavailable(fake: FakeRunpod) -> None:
    fake.deafen()
    with pytest.raises(PlatformUnavailable, match=fake.base):
        ask(fake, lambda rest: rest.endpoints())
    fake.listen()


# -- rate limits ------------------------------------------------------------------------------------------------


def test_as_long_as_the_platform_asks_is_waited(fake: FakeRunpod) -> None:
    fake.script("list", limited("0.3"))
    began_at = time.monotonic()
    ask(fake, lambda rest: rest.endpoints())
    assert time.monotonic() - began_at >= 0.3


def test_a_rate_limit_without_an_end_is_an_error(fake: FakeRunpod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_module, "RATE_PATIENCE_S", 0.2)
    fake.script("list", *[limited()] * 50)
    with pytest.raises(PlatformUnavailable, match="other programs use the same key") as raised:
        ask(fake, lambda rest: rest.endpoints())
    assert isinstance(raised.value.__cause__, RateLimited)


def test_a_request_waits_for_the_window_rather_than_being_refused(fake: FakeRunpod) -> None:
    header = {"RateLimit": '"minute";r=0;t=0.4, "hour";r=2800;t=1812'}
    fake.script("list", Answer(content={"endpoints": []}, headers=header))

    async def twice(rest: RestClient) -> float:
        await rest.endpoints()
        began_at = time.monotonic()
        await rest.endpoints()
        return time.monotonic() - began_at

    assert ask(fake, twice) >= 0.3


def test_a_window_that_ends_tomorrow_is_not_waited_for() -> None:
    quota = Quota()
    quota.note('"day";r=0;t=45012')
    asyncio.run(asyncio.wait_for(quota.turn(), 1))


@pytest.mark.parametrize("header", [None, "", "nonsense", '"minute"', '"minute";r=;t=x', '"minute";r=0', "a;b;c=1.2.3"])
def test_a_header_that_nobody_described_holds_up_nothing(header: str | None) -> None:
    quota = Quota()
    quota.note(header)
    asyncio.run(asyncio.wait_for(quota.turn(), 1))


def test_requests_that_are_on_their_way_count() -> None:
    async def run() -> None:
        quota = Quota()
        quota.note('"minute";r=2;t=60')
        await quota.turn()
        await quota.turn()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(quota.turn(), 0.05)

    asyncio.run(run())


# -- errors -----------------------------------------------------------------------------------------------------


def test_every_reason_of_a_refusal_is_there(fake: FakeRunpod) -> None:
    reasons = ["$.workers.max: must be >= 0", "$: additional properties 'bogus' not allowed"]
    fake.script("create", problem(422, "validation failed", errors=reasons))
    with pytest.raises(ApiError) as raised:
        ask(fake, lambda rest: rest.create_endpoint({"name": "x"}))
    assert raised.value.status == 422
    assert raised.value.errors == tuple(reasons)
    assert all(reason in str(raised.value) for reason in reasons)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_shown_and_its_place_is(fake: FakeRunpod, status: int) -> None:
    fake.script("list", problem(status, f"no access for {KEY}"))
    with pytest.raises(AuthenticationError, match="look at the key in the drawer") as raised:
        ask(fake, lambda rest: rest.endpoints())
    assert KEY not in str(raised.value)
    assert ("permissions" in str(raised.value)) == (status == 403)


# -- logs -------------------------------------------------------------------------------------------------------

LOGS = "logs"


def event(number: int, line: str) -> bytes:
    return b'id: t/%d\ndata: {"source": "container", "line": "%b", "ts": "t"}\n\n' % (number, line.encode())


def sse(*parts: bytes) -> Answer:
    return Answer(200, b"".join(parts), {"Content-Type": "text/event-stream"})


async def all_lines(rest: RestClient) -> list[LogLine]:
    return [line async for line in rest.logs("e1", "w1", tail=7)]


def test_logs_go_on_where_they_were(fake: FakeRunpod) -> None:
    fake.script(
        LOGS,
        sse(event(1, "one"), b": heartbeat\n\n", event(2, "two")),
        sse(b"event: other\ndata: not json\n\n", event(2, "two"), event(3, "three")),
        problem(404, "no such worker"),
    )
    assert [line.line for line in ask(fake, all_lines)] == ["one", "two", "three"]
    first, second, third = fake.seen(LOGS)
    assert first.query["tail"] == ["7"]
    assert "last-event-id" not in first.headers
    assert (second.headers["last-event-id"], third.headers["last-event-id"]) == ("t/2", "t/3")


def test_logs_of_no_worker_are_an_error(fake: FakeRunpod) -> None:
    fake.script(LOGS, problem(404, "no such worker"))
    with pytest.raises(NotFoundError):
        ask(fake, all_lines)


def test_logs_go_on_after_a_broken_connection(fake: FakeRunpod) -> None:
    fake.script(LOGS, RESET, limited(), sse(event(1, "one")), RESET, sse())
    assert [line.line for line in ask(fake, all_lines)] == ["one"]


def test_the_end_of_a_log_is_what_comes_without_a_pause(fake: FakeRunpod) -> None:
    async def never(request: Request) -> Answer:
        await asyncio.sleep(60)
        return sse()

    fake.script(LOGS, sse(event(1, "one"), event(2, "two")), never)
    found = ask(fake, lambda rest: rest.log_tail("e1", "w1", quiet_s=0.3))
    assert [line.line for line in found] == ["one", "two"]


def test_the_first_line_of_a_log_may_take_longer_than_a_pause(fake: FakeRunpod) -> None:
    async def late(request: Request) -> Answer:
        await asyncio.sleep(0.5)
        return sse(event(1, "one"))

    fake.script(LOGS, late, problem(404, "gone"))
    found = ask(fake, lambda rest: rest.log_tail("e1", "w1", quiet_s=0.1))
    assert [line.line for line in found] == ["one"]
