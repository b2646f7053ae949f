# SPDX-License-Identifier: Apache-2.0
"""Requests: kept connections, and everything that a server may do to one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from flash_plugins import Connection
from flash_plugins.platforms import carrier as carrier_module
from flash_plugins.platforms.failures import RequestTimeout, StatusError, TransportFailure
from flash_plugins.platforms.http import HttpClient
from tests.unit.dispatcher.fake import DEADLINE_S, KEY

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[tuple[HttpClient, str]]:
    """Serve each connection with a function; return a client and the server's URL."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = HttpClient(Connection(api_base=url, key=KEY), max_connections=4)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield client, url
    finally:
        await client.aclose()
        server.close()


async def head_of(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n\r\n")).decode()


class Server:
    """Answers so many requests on each connection, and then closes it.

    Attributes:
        connections: How many there were.
        heads: Of the requests.
    """

    def __init__(self, answers: int = 1_000, answer: bytes = OK) -> None:
        self.answers, self.answer = answers, answer
        self.connections = 0
        self.heads: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        for _ in range(self.answers):
            self.heads.append(await head_of(reader))
            writer.write(self.answer)


def run(work: Awaitable[None]) -> None:
    async def main() -> None:
        await work

    asyncio.run(main(), debug=True)


def test_a_connection_is_kept() -> None:
    async def work() -> None:
        server = Server()
        async with served(server) as (client, url):
            for _ in range(5):
                assert (await client.answer("POST", url, b"")).json() == {}
        assert server.connections == 1
        assert f"Authorization: Bearer {KEY}" in server.heads[0]

    run(work())


def test_a_connection_that_the_server_closed_meanwhile_is_not_used() -> None:
    async def work() -> None:
        server = Server(answers=1)
        async with served(server) as (client, url):
            for _ in range(3):
                assert (await client.answer("POST", url)).status_code == 200
                await asyncio.sleep(0.05)
        assert server.connections == 3

    run(work())


def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier_module, "_KEEPALIVE_S", 0.05)

    async def work() -> None:
        closed = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            writer.write(OK)
            assert await reader.read() == b""
            closed.set()

        async with served(serve) as (client, url):
            await client.answer("GET", url)
            await closed.wait()

    run(work())


@pytest.mark.parametrize(("method", "tries"), [("GET", 2), ("DELETE", 2), ("POST", 1), ("PATCH", 1)])
def test_what_does_nothing_twice_is_sent_once_more(method: str, tries: int) -> None:
    async def work() -> None:
        seen = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await head_of(reader))

        async with served(serve) as (client, url):
            with pytest.raises(TransportFailure) as caught:
                await client.answer(method, url)
        assert len(seen) == tries
        assert caught.value.was_sent
        assert KEY not in str(caught.value)
        assert caught.value.request.headers["Authorization"] == "[key]"

    run(work())


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_silence_is_a_timeout(answer: bytes) -> None:
    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            writer.write(answer)
            await reader.read()

        async with served(serve) as (client, url):
            with pytest.raises(RequestTimeout) as caught:
                await client.answer("GET", url, read_timeout_s=0.1)
        assert caught.value.was_sent
        assert isinstance(caught.value, TimeoutError)

    run(work())


def test_a_slow_answer_is_not_silence() -> None:
    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
            for _ in range(8):
                await asyncio.sleep(0.2)
                writer.write(b"x")

        async with served(serve) as (client, url):
            assert (await client.answer("GET", url, read_timeout_s=1.2)).text == "x" * 8

    run(work())


@pytest.mark.parametrize(
    "answer",
    [
        b"SMTP ready\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{",
    ],
)
def test_half_an_answer_is_none(answer: bytes) -> None:
    async def work() -> None:
        async with served(Server(1, answer)) as (client, url):
            with pytest.raises(TransportFailure) as caught:
                await client.answer("POST", url)
        assert caught.value.was_sent

    run(work())


def test_what_nobody_listens_to_was_not_sent() -> None:
    async def work() -> None:
        async with served(Server()) as (_, url):
            pass
        client = HttpClient(Connection(api_base=url, key=KEY))
        with pytest.raises(TransportFailure) as caught:
            await client.answer("POST", url)
        assert not caught.value.was_sent
        await client.aclose()

    run(work())


def test_large_bodies_travel_both_ways() -> None:
    content = bytes(range(256)) * 20_000

    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert f"Content-Length: {len(content)}" in await head_of(reader)
            got = await reader.readexactly(len(content))
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(got), 100_000):
                part = got[start : start + 100_000]
                writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")

        async with served(serve) as (client, url):
            assert (await client.answer("POST", url, content)).content == content

    run(work())


def test_a_body_is_not_sent_on_once_it_is_refused() -> None:
    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            await asyncio.sleep(DEADLINE_S)

        async with served(serve) as (client, url):
            assert (await client.answer("POST", url, bytes(50_000_000))).status_code == 413

    run(work())


def test_a_request_that_is_cancelled_ends_its_connection() -> None:
    async def work() -> None:
        asked, closed = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            asked.set()
            assert await reader.read() == b""
            closed.set()

        async with served(serve) as (client, url):
            task = asyncio.create_task(client.answer("POST", url))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await closed.wait()

    run(work())


def test_no_more_requests_are_open_than_allowed() -> None:
    async def work() -> None:
        now, most = 0, 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal now, most
            while True:
                await head_of(reader)
                now += 1
                most = max(now, most)
                await asyncio.sleep(0.02)
                now -= 1
                writer.write(OK)

        async with served(serve) as (client, url):
            await asyncio.gather(*(client.answer("GET", url) for _ in range(20)))
        assert most <= 4

    run(work())


def test_the_end_of_the_client_ends_what_is_open() -> None:
    async def work() -> None:
        asked = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            asked.set()
            await reader.read()

        async with served(serve) as (client, url):
            task = asyncio.create_task(client.answer("POST", url))
            await asked.wait()
            await client.aclose()
            with pytest.raises(TransportFailure):
                await task
            with pytest.raises(TransportFailure, match="the connection is closed") as caught:
                await client.answer("POST", url)
            assert not caught.value.was_sent

    run(work())


def test_lines_come_as_they_are_sent() -> None:
    async def work() -> None:
        went_on = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head_of(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\none\r\n\xc3")
            await went_on.wait()
            writer.write(b"\xbc\n\nlast")

        async with served(serve) as (client, url), client.lines(url, {}) as lines:
            assert await anext(lines) == "one"
            went_on.set()
            assert [line async for line in lines] == ["ü", "", "last"]

    run(work())


def test_a_stream_that_nobody_reads_does_not_pile_up() -> None:
    async def work() -> None:
        line, count = b"x" * 1023 + b"\n", 20_000
        written = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await head_of(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            for _ in range(count):
                writer.write(line)
                await writer.drain()
                written += 1

        async with served(serve) as (client, url), client.lines(url, {}) as lines:
            await anext(lines)
            await asyncio.sleep(0.3)
            assert written < count
            assert len([line async for line in lines]) == count - 1

    run(work())


def test_lines_that_break_off_are_an_error() -> None:
    async def work() -> None:
        server = Server(1, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\na\nb")
        async with served(server) as (client, url), client.lines(url, {}) as lines:
            assert await anext(lines) == "a"
            with pytest.raises(TransportFailure):
                await anext(lines)

    run(work())


def test_lines_that_are_refused_are_an_error() -> None:
    async def work() -> None:
        async with served(Server(1, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")) as (client, url):
            with pytest.raises(StatusError, match="404"):
                async with client.lines(url, {}):
                    pass

    run(work())


ERRORS = """
import pickle
import sys
from flash_plugins.platforms.answer import Answer, Sent
from flash_plugins.platforms.http import RequestTimeout, StatusError

def errors():
    answer = Answer(Sent("GET", "http://127.0.0.1/x"), 500, content=b"{}")
    return RequestTimeout("late", was_sent=True), StatusError("no", answer=answer)

errors()
assert "httpx" not in sys.modules
import httpx
timeout, status = errors()
assert isinstance(timeout, httpx.TimeoutException) and isinstance(timeout, TimeoutError)
assert isinstance(status, httpx.HTTPStatusError) and status.response.json() == {}
again = pickle.loads(pickle.dumps(status.response))
assert (again.status_code, again.content) == (500, b"{}")
assert status.request.url.path == "/x"
"""


def test_errors_are_those_of_httpx_where_somebody_has_it() -> None:
    done = subprocess.run([sys.executable, "-c", ERRORS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
