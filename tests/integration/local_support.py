# SPDX-License-Identifier: Apache-2.0
"""A client as small as can be for tests of the local platform, and ways to wait without guessing."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil

from flash_plugins.platforms.local.launch import RunningPlatform

WORKERS = Path(__file__).with_name("local_workers")

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found | None], *, timeout_s: float = 60.0) -> Found:
    """Return the first true answer of `look`; generous, because machines are busy."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"nothing came of {look} within {timeout_s:g} s"
        time.sleep(0.02)


def wait_until_gone(pids: list[int], *, timeout_s: float = 30.0) -> None:
    """Wait until none of the processes runs; a zombie has ended."""

    def all_gone() -> bool:
        return not any(is_running(pid) for pid in pids)

    wait_for(all_gone, timeout_s=timeout_s)


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def process_tree(pid: int) -> list[int]:
    """Return a process and everything below it."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


class Client:
    """Speaks to one platform, one request at a time."""

    def __init__(self, url: str, key: str) -> None:
        self.place = urlsplit(url)
        self.key = key

    @classmethod
    def of(cls, platform: RunningPlatform) -> Client:
        return cls(platform.url, platform.key)

    def endpoint_named(self, name: str) -> dict[str, Any]:
        """Return the endpoint of that name, of which there must be one."""
        (found,) = [one for one in self.ok("GET", "/v2/serverless")["endpoints"] if one["name"] == name]
        return dict(found)

    def request(
        self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, parsed body (None if empty) and headers of one request."""
        connection = http.client.HTTPConnection(self.place.hostname or "", self.place.port, timeout=60)
        sent = {"Authorization": f"Bearer {self.key}"} if headers is None else headers
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text else None, {k.lower(): v for k, v in answer.getheaders()}

    def ok(self, method: str, path: str, body: object = None) -> Any:
        status, answer, _ = self.request(method, path, body)
        assert 200 <= status < 300, (status, answer)
        return answer

    def create(self, args: str, **fields: object) -> str:
        """Create an endpoint and return its id."""
        body = {
            "name": "test",
            "type": "QUEUE",
            "image": "python:3.12-slim",
            "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
            "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
            "args": args,
            **fields,
        }
        return str(self.ok("POST", "/v2/serverless", body)["id"])

    def finished(self, endpoint: str, job_id: str, *, timeout_s: float = 60.0) -> Any:
        """Wait until a job has ended and return it."""

        def look() -> Any:
            job = self.ok("GET", f"/v2/{endpoint}/status/{job_id}")
            return job if job["status"] not in ("IN_QUEUE", "IN_PROGRESS") else None

        return wait_for(look, timeout_s=timeout_s)

    def workers(self, endpoint: str) -> list[dict[str, Any]]:
        return list(self.ok("GET", f"/v2/serverless/{endpoint}/workers")["workers"])

    def stream(self, endpoint: str, job_id: str) -> Iterator[Any]:
        while True:
            answer = self.ok("GET", f"/v2/{endpoint}/stream/{job_id}")
            yield from (chunk["output"] for chunk in answer["stream"])
            if answer["status"] not in ("IN_QUEUE", "IN_PROGRESS") and not answer["stream"]:
                return


#: Status, body and headers with names in lower case.
Answer = tuple[int, bytes, dict[str, str]]


class Balanced(Client):
    """A client of one load-balanced endpoint."""

    id = ""

    def open(self, args: str = f"python {WORKERS / 'web.py'}", **fields: object) -> Balanced:
        """Create an endpoint and return a client of it."""
        scaling = fields.pop("scaling", {"type": "REQUEST_COUNT", "requestCount": 100})
        opened = Balanced(self.place.geturl(), self.key)
        opened.id = self.create(args, type="LOAD_BALANCER", scaling=scaling, **fields)
        return opened

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, None, **headers)

    def post(self, path: str, body: bytes | Iterable[bytes] = b"", **headers: str) -> Answer:
        return self.send("POST", path, body, **headers)

    def send(self, method: str, path: str, body: bytes | Iterable[bytes] | None, **headers: str) -> Answer:
        """Return status, body and headers; underscores in names of headers become hyphens."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(self.connection()) as connection:
            connection.request(method, f"/lb/{self.id}{path}", body, {"Authorization": f"Bearer {self.key}", **sent})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.place.hostname or "", self.place.port, timeout=60)

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are and return everything until the connection closes."""
        with closing(socket.create_connection((self.place.hostname, self.place.port), timeout=60)) as connection:
            connection.sendall(request)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
            return received
