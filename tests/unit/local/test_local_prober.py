# SPDX-License-Identifier: Apache-2.0
"""How the local platform asks load-balanced workers for their health."""

from __future__ import annotations

import asyncio

import pytest

from flash_plugins.platforms.local.upstream import HealthProber


@pytest.mark.asyncio
async def test_each_health_check_has_a_connection_of_its_own() -> None:
    """One that is kept would wait at a worker whose event loop is blocked."""
    connections = 0
    ended: asyncio.Queue[None] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /ping"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):  # the prober has closed it
            ended.put_nowait(None)
        finally:
            writer.close()

    prober = HealthProber()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/ping"
    loop = asyncio.get_running_loop()
    for number in (1, 2, 3):
        found: asyncio.Future[int | str] = loop.create_future()
        prober(url, found.set_result)
        assert await asyncio.wait_for(found, 30) == 200
        assert connections == number
    await prober.close()
    for _ in range(3):
        await asyncio.wait_for(ended.get(), 30)
    server.close()
    await server.wait_closed()
