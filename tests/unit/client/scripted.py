# SPDX-License-Identifier: Apache-2.0
"""An HTTP server on loopback whose answers a test lines up beforehand."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["DROP", "KEY", "Answer", "Request", "ScriptedServer"]

#: What must never appear in a message.
KEY = "rpa_S3CRETS3CRETS3CRET"


@dataclass(frozen=True)
class Answer:
    """JSON, or bytes as they are; held back for `after_s` seconds, or until the test ends."""

    content: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0


#: The connection ends without an answer.
DROP = Answer(status=0)


@dataclass(frozen=True)
class Request:
    """One that came in."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ScriptedServer:
    """Gives out the answers of each `METHOD /path` in their order, the last of them again and again."""

    def __init__(self) -> None:
        self.answers: dict[str, deque[Answer]] = defaultdict(deque)
        self.requests: list[Request] = []
        self.is_over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                outer.handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def script(self, operation: str, *answers: Any) -> None:
        """Line up answers of `METHOD /path`; what is no `Answer` becomes the JSON of one."""
        self.answers[operation].extend(a if isinstance(a, Answer) else Answer(a) for a in answers)

    def seen(self, operation: str) -> list[Request]:
        """Requests of `METHOD /path` so far."""
        return [request for request in self.requests if f"{request.method} {request.path}" == operation]

    def wait_for_requests(self, count: int) -> None:
        """Wait until this many came in."""
        deadline = time.monotonic() + 30
        while len(self.requests) < count:
            assert time.monotonic() < deadline, f"only {len(self.requests)} requests came"
            time.sleep(0.005)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        request = Request(handler.command, url.path, parse_qs(url.query), handler.headers, body)
        self.requests.append(request)
        answers = self.answers[f"{request.method} {request.path}"]
        answer = answers[0] if answers else Answer({"error": f"{request.path} is not scripted"}, status=404)
        if len(answers) > 1:
            answers.popleft()
        if answer.after_s:
            self.is_over.wait(answer.after_s)
        if answer is DROP:
            handler.close_connection = True
            return
        content = answer.content if isinstance(answer.content, bytes) else json.dumps(answer.content).encode()
        try:
            handler.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
        except ConnectionError:  # the client has given up
            handler.close_connection = True
