# SPDX-License-Identifier: Apache-2.0
"""A platform that answers as a test scripts it: a real HTTP server on loopback, in a thread of its own.

Without a script it behaves: endpoints are kept, a job's arguments come back as its result, and its one worker
asks for the blobs that it lacks. Its request URLs are deliberately not those that Runpod has.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import re
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flash_plugins import Connection
from flash_plugins.batches import CallResult
from flash_plugins.code import dumps
from flash_plugins.objects.digest import digest_of
from flash_plugins.payload import CallEnvelope, Outcome
from flash_plugins.platforms import api

__all__ = [
    "DEADLINE_S",
    "KEY",
    "RESET",
    "Answer",
    "FakePlatform",
    "FakeRunpod",
    "Gate",
    "Request",
    "Step",
    "envelope_of",
    "problem",
    "workers_answer",
]

#: Generous: the box may be busy.
DEADLINE_S = 30.0
#: What must never appear anywhere.
KEY = "rpa_S3CRETS3CRETS3CRET"

#: Where the operations of an endpoint are: nothing that a client could guess.
PATHS = {
    "run": "/odd/{id}/begin",
    "runSync": "/odd/{id}/begin-and-wait",
    "status": "/odd/{id}/ask/{job_id}/about",
    "stream": "/odd/{id}/follow/{job_id}",
    "cancel": "/odd/{id}/stop/{job_id}/now",
    "retry": "/odd/{id}/again/{job_id}",
    "purgeQueue": "/odd/{id}/empty",
    "health": "/odd/{id}/well",
}


@dataclass(frozen=True)
class Request:
    """One request that came in."""

    operation: str
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def blobs(self) -> set[str]:
        """Digests that a submitted call carries."""
        return set(self.json["input"]["blobs"])

    @property
    def job_id(self) -> str:
        return next(part for part in self.path.split("/") if part.startswith("job-"))


@dataclass(frozen=True)
class Answer:
    """One answer: JSON, or text where `content` is bytes."""

    status: int = 200
    content: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


#: Instead of an answer: the connection is torn down.
RESET = Answer(status=0)

Step = Answer | Callable[[Request], Answer | Awaitable[Answer]]


@dataclass
class Job:
    """One job on the fake platform."""

    id: str
    envelope: CallEnvelope
    status: str = "IN_QUEUE"
    output: Any = None
    error: str | None = None
    chunks: deque[Any] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.output is not None:
            answer["output"] = self.output
        if self.error is not None:
            answer["error"] = self.error
        if self.status not in ("IN_QUEUE", "IN_PROGRESS"):
            answer |= {"workerId": "w1", "delayTime": 1, "executionTime": 2}
        return answer


class FakeRunpod:
    """The server. Attributes may be set by a test at any time; requests are answered one after another.

    Attributes:
        is_slow: Whether jobs stay queued until a test finishes them.
        call_s: What the worker says that each call took, seconds: from half a second on they travel alone.
        hold_s: How long `/stream` is held.
        scripts: Steps by operation, each used once, before the normal behaviour.
        requests: Everything that came in.
        endpoints: By id, as they are listed.
        volumes: By id, as they are listed.
        has: Digests of the blobs that the worker has.
        url_base: Scheme and host of the request URLs, when not the server's own.
        keeps_alive: Whether connections are kept.
    """

    def __init__(self) -> None:
        self.is_slow = False
        self.call_s = 0.5
        self.hold_s = 60.0
        self.scripts: dict[str, deque[Step]] = defaultdict(deque)
        self.requests: list[Request] = []
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, Job] = {}
        self.has: set[str] = set()
        self.url_base: str | None = None
        self.keeps_alive = True
        self._changed = threading.Condition()
        self._job_numbers = itertools.count(1)
        self._endpoint_numbers = itertools.count(1)
        self.loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._thread = threading.Thread(target=self.loop.run_forever, name="fake-runpod", daemon=True)
        self._thread.start()
        self.listen()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def script(self, operation: str, *steps: Step) -> None:
        """Answer the next requests for an operation with these."""
        self.scripts[operation].extend(steps)

    def seen(self, operation: str) -> list[Request]:
        """Requests for an operation so far."""
        return [request for request in list(self.requests) if request.operation == operation]

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until requests or tests have made `condition` true."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}; requests: {self._summary()}"
            with self._changed:
                self._changed.wait(0.02)  # a request tells; for anything else it is asked again

    def wait_for(self, operation: str, count: int = 1) -> list[Request]:
        """Wait until an operation was asked for `count` times."""
        self.wait_until(lambda: len(self.seen(operation)) >= count, f"not asked for {count} times: {operation}")
        return self.seen(operation)

    def finish(self, job_id: str, status: str = "COMPLETED", *, output: Any = None, error: str | None = None) -> None:
        """End a job; without output or error it returns what its worker does."""

        def end() -> None:
            job = self.jobs[job_id]
            job.status, job.error = status, error
            job.output = self._work(job.envelope) if status == "COMPLETED" and output is None else output
            job.changed.set()

        self.loop.call_soon_threadsafe(end)

    def yield_chunk(self, job_id: str, chunk: Any) -> None:
        """Give a job one more chunk."""

        def give() -> None:
            job = self.jobs[job_id]
            job.status = "IN_PROGRESS"
            job.chunks.append(chunk)
            job.changed.set()

        self.loop.call_soon_threadsafe(give)

    def listen(self) -> None:
        """Take connections, on the same port as before."""
        asyncio.run_coroutine_threadsafe(self.begin(), self.loop).result(DEADLINE_S)

    async def begin(self) -> None:
        """As `listen`, on the server's own loop."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=1 << 25)
        self._port = self._server.sockets[0].getsockname()[1]

    def deafen(self) -> None:
        """Refuse connections from now on."""

        async def end() -> None:
            assert self._server is not None
            self._server.close()

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(DEADLINE_S)

    def hang_up(self) -> None:
        """Break every connection that is open."""
        self.loop.call_soon_threadsafe(lambda: [connection.cancel() for connection in self._connections])

    def close(self) -> None:
        self.deafen()

        async def end() -> None:
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(DEADLINE_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.loop.close()

    def _summary(self) -> list[str]:
        return [f"{request.operation} {request.path}" for request in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    request = await _read(reader)
                    with self._changed:
                        self.requests.append(request)
                        self._changed.notify_all()
                    answer = await self._answer(request)
                    if answer is RESET:
                        _reset(writer)
                        return
                    writer.write(_encoded(answer, self.keeps_alive))
                    await writer.drain()
                    if not self.keeps_alive:
                        return
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, request: Request) -> Answer:
        if self.scripts[request.operation]:
            step = self.scripts[request.operation].popleft()
            if isinstance(step, Answer):
                return step
            answer = step(request)
            return await answer if inspect.isawaitable(answer) else answer
        return await self.behave(request)

    async def behave(self, request: Request) -> Answer:
        """Answer as a platform does."""
        match request.operation:
            case "list":
                return Answer(content={"endpoints": list(self.endpoints.values())})
            case "create":
                return Answer(201, self.add_endpoint(request.json))
            case "get" if request.path.rsplit("/", 1)[1] in self.endpoints:
                return Answer(content=self.endpoints[request.path.rsplit("/", 1)[1]])
            case "list volumes":
                return Answer(content={"networkVolumes": list(self.volumes.values())})
            case "create volume":
                volume = {"type": "STANDARD", **request.json, "id": f"vol{next(self._endpoint_numbers)}"}
                return Answer(201, self.volumes.setdefault(volume["id"], volume))
            case "get volume" if request.path.rsplit("/", 1)[1] in self.volumes:
                return Answer(content=self.volumes[request.path.rsplit("/", 1)[1]])
            case "delete volume" | "delete":
                kept = self.volumes if "volume" in request.operation else self.endpoints
                known = kept.pop(request.path.rsplit("/", 1)[1], None)
                return Answer(204, b"") if known else Answer(404, {"error": "no such thing"})
            case "patch":
                endpoint = self.endpoints[request.path.rsplit("/", 1)[1]]
                gpu = {**endpoint.get("gpu", {}), **request.json.get("gpu", {})}
                endpoint.update(request.json, **({"gpu": gpu} if gpu else {}))
                return Answer(content=endpoint)
        if request.path.split("/")[2] not in self.endpoints:
            return Answer(404, {"error": "no such endpoint"})
        if request.operation in ("run", "runSync"):
            return self._submit(request)
        if request.operation == "health":
            return Answer(content={"jobs": {"inQueue": 0}, "workers": {"idle": 1}})
        job = self.jobs.get(request.job_id)
        if job is None:
            return Answer(404, {"error": "no such job"})
        if request.operation == "cancel":
            job.status = "CANCELLED"
            job.changed.set()
        if request.operation == "stream":
            return await self._streamed(job)
        return Answer(content=job.answer())

    def add_endpoint(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an endpoint as a POST of `body` does; returns what is listed."""
        endpoint_id = f"ep{next(self._endpoint_numbers)}"
        base = self.url_base or self.base
        urls = {name: base + path.replace("{id}", endpoint_id) for name, path in PATHS.items()}
        self.endpoints[endpoint_id] = {**body, "id": endpoint_id, "requestUrls": urls}
        return self.endpoints[endpoint_id]

    def _submit(self, request: Request) -> Answer:
        job = Job(f"job-{next(self._job_numbers)}", CallEnvelope.decode(request.json["input"]))
        self.jobs[job.id] = job
        endpoint = self.endpoints[request.path.split("/")[2]]
        answer = job.answer()
        if not self.is_slow and api.HANDLER_ENV not in endpoint["env"]:  # those that stream end when a test says so
            job.status, job.output = "COMPLETED", self._work(job.envelope)
        return Answer(content=answer if request.operation == "run" else job.answer())

    def _work(self, envelope: CallEnvelope) -> dict[str, Any]:
        self.has |= set(envelope.blobs)
        if missing := tuple(digest for digest in envelope.needs if digest not in self.has):
            return Outcome(missing=missing, worker="w1").encode()
        if envelope.batch:
            results = [CallResult(place, self.call_s, args) for place, args in enumerate(envelope.batch)]
            return Outcome(results=results, worker="w1", pid=7, seconds=self.call_s * len(results)).encode()
        return Outcome(result=envelope.args, worker="w1", pid=7, seconds=self.call_s).encode()

    async def _streamed(self, job: Job) -> Answer:
        if job.status in ("IN_QUEUE", "IN_PROGRESS") and not job.chunks:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.changed.wait(), self.hold_s)
        job.changed.clear()
        chunks = [{"output": job.chunks.popleft()} for _ in range(len(job.chunks))]
        return Answer(content={"status": job.status, "stream": chunks})


class Gate:
    """A step that answers as the platform does, once a test opens it."""

    def __init__(self, fake: FakeRunpod) -> None:
        self._fake = fake
        self._opened = asyncio.Event()

    async def __call__(self, request: Request) -> Answer:
        await self._opened.wait()
        return await self._fake.behave(request)

    def open(self) -> None:
        self._fake.loop.call_soon_threadsafe(self._opened.set)


class FakePlatform:
    """The seam between a session and the server."""

    name = "fake"
    reason = "a test says so"
    outlives_us = False

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.connects = 0
        self.lost: str | None = None
        self.on_connect: Callable[[], object] = lambda: None

    def connect(self) -> Connection:
        self.connects += 1
        self.on_connect()
        return self.connection

    def lost_reason(self) -> str | None:
        return self.lost

    def close(self) -> None: ...


def problem(status: int, detail: str, **more: Any) -> Answer:
    """An error as REST v2 words it."""
    content = {"title": "Refused", "status": status, "detail": detail, **more}
    return Answer(status, content, {"Content-Type": "application/problem+json"})


def workers_answer(listing: Sequence[tuple[str, str]]) -> Answer:
    """Workers by id and status as REST v2 lists them; `STALE` is a starting one of an older configuration."""
    workers = [
        {
            "id": worker_id,
            "status": "INITIALIZING" if status == "STALE" else status,
            "isStale": status == "STALE",
            "gpuCount": 0,
        }
        for worker_id, status in listing
    ]
    statuses = [worker["status"] for worker in workers]
    names = ("running", "idle", "initializing", "throttled", "unhealthy")
    summary = {name: statuses.count(name.upper()) for name in names} | {"total": len(workers)}
    return Answer(content={"workers": workers, "summary": summary, "endpointVersion": 1})


def envelope_of(value: object, *, code: bytes = b"some code") -> CallEnvelope:
    """A call of the function `code` whose result is `value`."""
    digest = digest_of(code)
    return CallEnvelope(code=digest, args=dumps(value, what="a value").data, python="3.11", blobs={digest: code})


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    url = urlsplit(target)
    return Request(
        operation=_operation(method, url.path),
        method=method,
        path=url.path,
        query=parse_qs(url.query),
        headers=headers,
        body=body,
        at=time.monotonic(),
    )


def _operation(method: str, path: str) -> str:
    if path == api.SERVERLESS_PATH:
        return "list" if method == "GET" else "create"
    if path == api.VOLUMES_PATH:
        return "list volumes" if method == "GET" else "create volume"
    if path.startswith(f"{api.VOLUMES_PATH}/"):
        return f"{method.lower()} volume"
    if path.startswith(f"{api.SERVERLESS_PATH}/"):
        *_, endpoint, last = path.split("/")
        return method.lower() if endpoint == "serverless" else last
    for name, template in PATHS.items():
        pattern = re.escape(template).replace(r"\{id\}", "[^/]+").replace(r"\{job_id\}", "[^/]+")
        if re.fullmatch(pattern, path):
            return name
    return f"unknown {method} {path}"


def _encoded(answer: Answer, keeps_alive: bool) -> bytes:
    content = answer.content if isinstance(answer.content, bytes) else json.dumps(answer.content).encode()
    headers = {"Content-Type": "application/json", "Connection": "keep-alive" if keeps_alive else "close"}
    headers |= {**answer.headers, "Content-Length": str(len(content))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} Status\r\n{lines}\r\n".encode() + content


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
