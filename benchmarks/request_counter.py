# SPDX-License-Identifier: Apache-2.0
"""A loopback proxy that counts HTTP requests by operation, and bytes. It passes bytes on and changes none."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

__all__ = ["RequestCounter"]

#: A request line. Clients write one at the start of a chunk: they send no request before the last answer is in.
_REQUEST: Final = re.compile(rb"(?:GET|POST|PUT|PATCH|DELETE) /v2/([^/ ?]+)(?:/([^/ ?]+))?\S* HTTP/1\.1\r\n")

_CHUNK_BYTES: Final = 65_536


class RequestCounter:
    """Listens on a free port of 127.0.0.1 and forwards to `target_url`.

    Attributes:
        url: Base URL to give to the client, without `/v2`.
    """

    def __init__(self, target_url: str) -> None:
        place = urlsplit(target_url)
        self._target = (place.hostname or "127.0.0.1", place.port or 80)
        self._counts: Counter[str] = Counter()
        self._sent_bytes = self._answered_bytes = 0
        self._lock = threading.Lock()
        self.url = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve from a thread until the block ends."""
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        thread = threading.Thread(target=loop.run_forever, name="request-counter", daemon=True)
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(server.close)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0.05))
            loop.close()

    def counts(self) -> Counter[str]:
        """Return the requests so far, by operation: `runsync`, `stream`, `status`, …; REST is `serverless`."""
        with self._lock:
            return Counter(self._counts)

    def wire_bytes(self) -> tuple[int, int]:
        """Return the bytes so far, of requests and of answers, headers included."""
        with self._lock:
            return self._sent_bytes, self._answered_bytes

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection(*self._target)
        await asyncio.gather(
            self._forward(reader, target_writer, is_request=True),
            self._forward(target_reader, writer, is_request=False),
        )

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(_CHUNK_BYTES):
                request = _REQUEST.match(chunk) if is_request else None
                with self._lock:
                    if is_request:
                        self._sent_bytes += len(chunk)
                    else:
                        self._answered_bytes += len(chunk)
                    if request is not None:
                        self._counts[(request[2] or request[1]).decode().lower()] += 1
                writer.write(chunk)
                await writer.drain()
        writer.close()
