# SPDX-License-Identifier: Apache-2.0
"""Time limits of requests that are passed on, with a clock that is moved by hand and a worker that never ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flash_plugins.platforms import api
from flash_plugins.platforms.local.proxy import Proxy
from flash_plugins.platforms.local.relay import Routed
from flash_plugins.platforms.local.sockets import SocketProxy
from flash_plugins.platforms.local.upstream import open_session
from tests.unit.local.test_local_balanced import Scene

pytestmark = pytest.mark.asyncio

Streams = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Client:
    """The client's side of one request: what it sends, what it was sent."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.received: list[dict[str, Any]] = []
        self._messages = asyncio.Queue[dict[str, Any]]()
        for message in messages:
            self._messages.put_nowait(message)

    async def receive(self) -> dict[str, Any]:
        return await self._messages.get()

    async def send(self, message: Any) -> None:
        self.received.append(message)

    def go(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})


@asynccontextmanager
async def served(scene: Scene, worker: Streams) -> AsyncIterator[Routed]:
    """Let the scene's worker serve for real, and yield a request to it."""
    server = await asyncio.start_server(worker, "127.0.0.1", 0)
    scene.ready().port = server.sockets[0].getsockname()[1]
    scope = {"type": "http", "method": "GET", "query_string": b"", "subprotocols": []}
    async with server:
        yield Routed(scene.fleet, scope, [(b"host", b"x")], b"/x", b"")


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not look():  # noqa: ASYNC110 - what is looked at sets no event
            await asyncio.sleep(0.005)


NO_BODY = {"type": "http.request", "body": b"", "more_body": False}


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_request_over_the_time_limit_ends_on_both_sides(has_begun: bool) -> None:
    scene = Scene(workers={"min": 1})
    is_there, is_gone = asyncio.Event(), asyncio.Event()

    async def worker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if has_begun:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        is_there.set()
        await reader.read()  # until the other side closes
        is_gone.set()
        writer.close()

    client = Client(NO_BODY)
    async with served(scene, worker) as routed, open_session() as session:
        serving = asyncio.ensure_future(Proxy(session, scene.clock).serve(routed, client.receive, client.send))
        await is_there.wait()
        await until(lambda: len(client.received) == (2 if has_begun else 0))
        scene.clock.advance(api.BALANCED_REQUEST_TIMEOUT_S - 1)
        await asyncio.sleep(0)
        assert not serving.done()
        scene.clock.advance(2)
        async with asyncio.timeout(30):
            await serving
            await is_gone.wait()
    assert scene.fleet.in_flight == 0
    if has_begun:  # incomplete, which makes the server cut the connection
        assert [message.get("more_body") for message in client.received] == [None, True]
    else:
        assert client.received[0]["status"] == 504
        assert b"longer than 330 s" in client.received[1]["body"]


async def test_a_client_that_goes_while_it_waits_for_a_worker_waits_no_more() -> None:
    scene = Scene()
    client = Client(NO_BODY)
    async with open_session() as session:
        routed = Routed(scene.fleet, {"type": "http"}, [], b"/", b"")
        serving = asyncio.ensure_future(Proxy(session, scene.clock).serve(routed, client.receive, client.send))
        await until(lambda: scene.fleet.waiting)
        client.go()
        async with asyncio.timeout(30):
            await serving
    assert (scene.fleet.waiting, client.received) == (0, [])


async def test_an_uploading_client_that_goes_leaves_the_worker_an_unfinished_body() -> None:
    scene = Scene(workers={"min": 1})
    ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def worker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.set_result(await reader.read())
        writer.close()

    client = Client({"type": "http.request", "body": b"begun", "more_body": True})
    async with served(scene, worker) as routed, open_session() as session:
        routed.scope["method"] = "POST"
        serving = asyncio.ensure_future(Proxy(session, scene.clock).serve(routed, client.receive, client.send))
        await until(lambda: scene.fleet.in_flight)
        await asyncio.sleep(0.05)
        client.go()
        async with asyncio.timeout(30):
            await serving
            received = await ended
    assert b"5\r\nbegun\r\n" in received
    assert not received.endswith(b"0\r\n\r\n")


async def test_a_websocket_that_waits_for_a_worker_too_long_is_rejected() -> None:
    scene = Scene()
    client = Client({"type": "websocket.connect"})
    async with open_session() as session:
        routed = Routed(scene.fleet, {"type": "websocket", "subprotocols": []}, [], b"/", b"")
        serving = asyncio.ensure_future(SocketProxy(session, scene.clock).serve(routed, client.receive, client.send))
        await until(lambda: scene.fleet.waiting)
        scene.clock.advance(api.BALANCED_WORKER_WAIT_S + 1)
        async with asyncio.timeout(30):
            await serving
    assert client.received[0]["type"] == "websocket.http.response.start"
    assert client.received[0]["status"] == 503
