# SPDX-License-Identifier: Apache-2.0
"""WebSockets of load-balanced endpoints of the local platform."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flash_plugins.platforms.local.launch import RunningPlatform, launch
from tests.integration.local_support import Balanced, wait_for

pytestmark = pytest.mark.asyncio

MB = 1_000_000
WORKER_ID = "x-runpod-worker-id"


@pytest.fixture(scope="module")
def platform() -> Iterator[RunningPlatform]:
    running = launch()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker writes what happened to it."""
    return tmp_path_factory.mktemp("notes") / "notes"


@pytest.fixture(scope="module")
def web(platform: RunningPlatform, notes: Path) -> Balanced:
    client = Balanced(platform.url, platform.key)
    opened = client.open(workers={"max": 1, "idleTimeout": 600}, env={"NOTE": str(notes)})
    assert opened.get("/")[0] == 200
    return opened


def noted(notes: Path, text: str) -> None:
    """Wait until the worker has noted `text`."""
    wait_for(lambda: notes.exists() and text in notes.read_text().splitlines())


@asynccontextmanager
async def session(web: Balanced) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {web.key}"}
    async with aiohttp.ClientSession(f"{web.place.geturl()}/lb/{web.id}/", headers=headers) as opened:
        yield opened


async def test_a_websocket_carries_text_and_bytes_of_any_size(web: Balanced) -> None:
    async with session(web) as client, client.ws_connect("socket", max_msg_size=0) as ws:
        await ws.send_str("hé")
        assert await ws.receive_str() == "text hé"
        large = bytes(40 * MB)
        await ws.send_bytes(large)
        assert await ws.receive_bytes() == b"bytes " + large


async def test_a_websocket_agrees_on_a_subprotocol_and_the_handshake_keeps_its_headers(web: Balanced) -> None:
    async with session(web) as client, client.ws_connect("socket", protocols=("a", "b")) as ws:
        assert ws.protocol == "b"
        headers: Any = ws._response.headers
        assert (headers["x-hello"], headers["set-cookie"]) == ("1", "s=1")
        assert headers[WORKER_ID] == web.workers(web.id)[0]["id"]
    async with session(web) as client, client.ws_connect("socket") as ws:
        assert ws.protocol is None


async def test_the_workers_close_reaches_the_client(web: Balanced) -> None:
    async with session(web) as client, client.ws_connect("socket") as ws:
        await ws.send_str("close")
        message = await ws.receive()
        assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 4001, "as you wish")


async def test_the_clients_close_reaches_the_worker(web: Balanced, notes: Path) -> None:
    async with session(web) as client, client.ws_connect("socket") as ws:
        await ws.close(code=4321, message=b"enough")
    await asyncio.to_thread(noted, notes, "closed 4321 enough")
    await asyncio.to_thread(wait_for, lambda: web.ok("GET", f"/v2/{web.id}/health")["workers"]["idle"] == 1)


async def test_a_client_that_is_cut_off_ends_the_workers_side(web: Balanced, notes: Path) -> None:
    async with session(web) as client:
        ws = await client.ws_connect("socket")
        await ws.send_str("hello")
        await ws.receive_str()
        transport: Any = ws.get_extra_info("socket")
        transport.shutdown(2)
    await asyncio.to_thread(wait_for, lambda: web.ok("GET", f"/v2/{web.id}/health")["workers"]["idle"] == 1)
    await asyncio.to_thread(noted, notes, "closed 1000 ")


async def test_a_handshake_that_the_worker_rejects_is_rejected_with_its_status(web: Balanced) -> None:
    async with session(web) as client:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await client.ws_connect("no-socket")
        assert caught.value.status == 403
        assert caught.value.headers is not None
        assert caught.value.headers["x-why"] == "because"


@pytest.mark.parametrize(("path", "key", "status"), [("socket", "wrong", 401), ("../nosuch/x", None, 404)])
async def test_a_websocket_needs_the_key_and_an_endpoint(
    web: Balanced, path: str, key: str | None, status: int
) -> None:
    base = f"{web.place.geturl()}/lb/"
    url = f"{base}nosuch/x" if key is None else f"{base}{web.id}/{path}"
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await client.ws_connect(url, headers={"Authorization": f"Bearer {key or web.key}"})
        assert caught.value.status == status


async def test_a_worker_that_dies_closes_the_websocket_with_the_reason(web: Balanced) -> None:
    async with session(web) as client, client.ws_connect("socket") as ws:
        await ws.send_str("die")
        message = await ws.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1011)
        assert message.extra is not None
        assert message.extra.startswith("worker lost: ")
    assert (await asyncio.to_thread(web.get, "/"))[0] == 200
