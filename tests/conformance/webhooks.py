# SPDX-License-Identifier: Apache-2.0
"""A little HTTP server on loopback that notes the webhooks a platform posts. It understands none of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook as it came in."""

    path: str
    content_type: str
    body: Any
    at_s: float


@dataclass
class Webhooks:
    """The deliveries so far. A URL under `/refuse/<n>/` answers its first n deliveries with 500."""

    url: str
    deliveries: list[Delivery] = field(default_factory=list)

    def at(self, path: str) -> list[Delivery]:
        """Return the deliveries to `path`, oldest first."""
        return [delivery for delivery in self.deliveries if delivery.path == path]

    def note(self, delivery: Delivery) -> int:
        """Add a delivery and return the HTTP status to answer it with."""
        self.deliveries.append(delivery)
        _, kind, *rest = delivery.path.split("/")
        refused = kind == "refuse" and len(self.at(delivery.path)) <= int(rest[0])
        return 500 if refused else 200


@contextmanager
def listening() -> Iterator[Webhooks]:
    """Serve on a free port of loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            kind = self.headers.get("Content-Type", "")
            status = webhooks.note(Delivery(self.path, kind, json.loads(body), time.monotonic()))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent; the base class prints every request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    webhooks = Webhooks(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield webhooks
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
