# SPDX-License-Identifier: Apache-2.0
"""What pages do with a load-balanced endpoint: Server-Sent Events and WebSockets, by clients made like browsers."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support import require

from .account import WORKERS, Account, until
from .eventsource import Event, EventSource, parse

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

require("websockets", "14.0")

from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402 - the skip must come first
from websockets.sync.client import connect  # noqa: E402


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files by which test and worker wait for one another."""
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="module")
def live(account: Account, gates: Path) -> dict[str, Any]:
    """An endpoint whose worker pushes, as REST v2 shows it."""
    body = {
        "name": "live",
        "type": "LOAD_BALANCER",
        "image": "python:3.12-slim",
        "args": shlex.join([sys.executable, str(WORKERS / "live.py")]),
        "env": {"GATES": str(gates)},
        "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
        "scaling": {"type": "REQUEST_COUNT", "requestCount": 100},
        "workers": {"min": 0, "max": 1, "idleTimeout": 300},
    }
    answer = account.http.post("/v2/serverless", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


@pytest.fixture(params=["by path", "by host name"])
def base(request: pytest.FixtureRequest, live: dict[str, Any], account: Account) -> str:
    """Where the endpoint is."""
    if request.param == "by path":
        return str(live["requestUrls"]["base"])
    return f"http://{live['id']}.localhost:{urlsplit(account.url).port}"


@pytest.fixture
def client(account: Account, base: str) -> Iterator[httpx.Client]:
    """Sends the key, and finds any name below `localhost` here."""
    place = urlsplit(base)
    headers = {"Authorization": f"Bearer {account.key}", "Host": place.netloc}
    with httpx.Client(base_url=f"http://127.0.0.1:{place.port}{place.path}", headers=headers, trust_env=False) as http:
        http.timeout = httpx.Timeout(60.0)
        yield http


class TestEventSource:
    def test_an_event_arrives_before_the_next_is_made(self, client: httpx.Client, gates: Path) -> None:
        for seen in gates.glob("seen-*"):
            seen.unlink()
        with client.stream("GET", "/stepwise") as answer:
            numbers = []
            for event in parse(answer.iter_bytes()):
                numbers.append(event.data)
                (gates / f"seen-{event.data}").touch()
        assert numbers == ["0", "1", "2"]

    def test_a_stream_arrives_as_it_was_written(self, client: httpx.Client) -> None:
        with client.stream("GET", "/all-forms") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-cache"
            assert not answer.headers.keys() & {"content-length", "content-encoding"}
            found = list(parse(answer.iter_bytes()))
        assert found == [
            Event("message", "plain", ""),
            Event("named", "with CRLF", ""),
            Event("named", "with CR", ""),
            Event("message", "two\nlines\n", "7"),
            Event("message", "no space", ""),
            Event("message", " two spaces", ""),
            Event("message", "grüße 💥", "ünï"),
            Event("message", "the id before stays", "ünï"),
            Event("message", "no such pause", "ünï"),
        ]

    def test_a_reconnect_goes_on_from_the_last_event(self, client: httpx.Client) -> None:
        source = EventSource(client, "/resumable")
        assert [(event.kind, event.data) for event in source] == [("count", str(number)) for number in range(1, 7)]
        assert [status for status, _ in source.connections] == [200, 200, 200, 204]
        assert (source.failed or "").startswith("status 204")
        workers = {headers["x-runpod-worker-id"] for _, headers in source.connections}
        assert len(workers) == 1

    def test_a_reconnect_survives_the_loss_of_the_worker(self, client: httpx.Client, gates: Path) -> None:
        (gates / "die").unlink(missing_ok=True)
        source = EventSource(client, "/mortal")
        events = iter(source)
        first = next(events)
        (gates / "die").touch()
        again, second = next(events), next(events)
        assert (again.last_id, second.data) == ("first", "after first")
        assert again.data != first.data  # another process
        assert [status for status, _ in source.connections] == [200, 200]

    def test_without_the_key_a_browser_gives_up(self, client: httpx.Client) -> None:
        client.headers["Authorization"] = "Bearer wrong"
        source = EventSource(client, "/resumable")
        assert list(source) == []
        assert (source.failed or "").startswith("status 401")


class TestWebSocket:
    @pytest.fixture
    def open_socket(self, account: Account, base: str, client: httpx.Client) -> Any:
        """Opens a WebSocket with the subprotocols that a page would offer."""
        assert client.get("/ping").status_code == 200

        def open_socket(path: str = "/chat", *protocols: str, key: str = account.key) -> Any:
            options: dict[str, Any] = {"origin": "http://localhost:3000", "subprotocols": list(protocols) or None}
            return connect(
                f"ws{base.removeprefix('http')}{path}",
                sock=socket.create_connection(("127.0.0.1", urlsplit(base).port)),
                additional_headers={"Authorization": f"Bearer {key}", "Cookie": "a=b"},
                open_timeout=60,
                max_size=None,
                **options,
            )

        return open_socket

    @pytest.mark.parametrize(
        ("offered", "chosen"),
        [
            (("v1.chat", "v2.chat"), "v2.chat"),
            (("json", "v1.chat"), "v1.chat"),
            (("json",), None),
            ((), None),
        ],
    )
    def test_the_worker_chooses_the_subprotocol(
        self, open_socket: Any, offered: tuple[str, ...], chosen: str | None
    ) -> None:
        with open_socket("/chat", *offered) as chat:
            assert chat.subprotocol == chosen
            chat.send("hello")
            assert chat.recv(timeout=30) == f"{chosen}: hello"

    def test_text_and_bytes_stay_what_they_are(self, open_socket: Any) -> None:
        with open_socket() as chat:
            for text in ("", "grüße 💥", "x" * 3_000_000):
                chat.send(text)
                assert chat.recv(timeout=30) == f"None: {text}"
            for data in (b"", bytes(range(256)), b"ab" * 2_000_000):
                chat.send(data)
                assert chat.recv(timeout=30) == data[::-1]
            chat.send(["in ", "several ", "frames"])
            assert chat.recv(timeout=30) == "None: in several frames"

    def test_messages_keep_their_order(self, open_socket: Any) -> None:
        with open_socket() as chat:
            for number in range(500):
                chat.send(str(number))
            assert [chat.recv(timeout=30) for _ in range(500)] == [f"None: {number}" for number in range(500)]

    def test_a_ping_is_answered(self, open_socket: Any) -> None:
        with open_socket() as chat:
            assert chat.ping().wait(30)

    @pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1001, "away"), (3000, ""), (4999, "grüße")])
    def test_the_workers_close_code_reaches_the_page(self, open_socket: Any, code: int, reason: str) -> None:
        with open_socket() as chat:
            chat.send(f"close {code} {reason}")
            with pytest.raises(ConnectionClosed) as caught:
                chat.recv(timeout=30)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)

    @pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (4001, "page closed")])
    def test_the_pages_close_code_reaches_the_worker(
        self, open_socket: Any, gates: Path, code: int, reason: str
    ) -> None:
        note = gates / f"closed-{code}-{reason}"
        note.unlink(missing_ok=True)
        with open_socket() as chat:
            chat.send("hello")
            chat.recv(timeout=30)
            chat.close(code, reason)
        until(note.exists, bool)
        assert chat.close_code == code

    @pytest.mark.parametrize(("path", "key", "status"), [("/chat", "wrong", 401), ("/nosuch", None, 403)])
    def test_a_refused_handshake_has_a_status(
        self, open_socket: Any, account: Account, path: str, key: str | None, status: int
    ) -> None:
        with pytest.raises(InvalidStatus) as caught, open_socket(path, key=key or account.key):
            pass
        assert caught.value.response.status_code == status
