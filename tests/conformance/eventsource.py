# SPDX-License-Identifier: Apache-2.0
"""`EventSource` as browsers have it, by the text of the HTML standard (section 9.2, 2026-08), on top of httpx.

What it does not do: CORS, and browsers cannot send an `Authorization` header with it, which this one does.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import httpx

__all__ = ["Event", "EventSource", "parse"]

#: Pause before a reconnect until the server names another one, seconds; the standard leaves it to the browser.
_RETRY_S = 3.0


@dataclass(frozen=True, slots=True)
class Event:
    """A dispatched event; `last_id` is what a reconnect would send."""

    kind: str
    data: str
    last_id: str


class _Parser:
    """Takes bytes in any pieces and yields events when they are complete."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_s: float | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._is_first = True
        self._id = last_id
        self._data: list[str] = []
        self._kind = ""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        self._text += self._decoder.decode(chunk)
        if self._is_first and self._text:
            self._text = self._text.removeprefix("\ufeff")
            self._is_first = False
        while (line := self._next_line()) is not None:
            event = self._line(line)
            if event is not None:
                yield event

    def _next_line(self) -> str | None:
        ends = [index for index in (self._text.find("\n"), self._text.find("\r")) if index >= 0]
        if not ends:
            return None
        end = min(ends)
        if self._text[end] == "\r" and end + 1 == len(self._text):
            return None  # a line feed that belongs to it may follow
        skipped = 2 if self._text[end : end + 2] == "\r\n" else 1
        line, self._text = self._text[:end], self._text[end + skipped :]
        return line

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_s = int(value) / 1000
        return None

    def _dispatch(self) -> Event | None:
        self.last_id = self._id
        data, kind = self._data, self._kind
        self._data, self._kind = [], ""
        return Event(kind or "message", "\n".join(data), self.last_id) if data else None


def parse(chunks: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events of one stream; one that is incomplete at its end is discarded."""
    parser = _Parser()
    for chunk in chunks:
        yield from parser.feed(chunk)


class EventSource:
    """Connects, and connects again when the stream ends, as long as the server answers as it should.

    Attributes:
        connections: Status and headers of each answer so far.
        failed: Why it gave up for good, None while it has not.
    """

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url
        self.connections: list[tuple[int, httpx.Headers]] = []
        self.failed: str | None = None

    def __iter__(self) -> Iterator[Event]:
        last_id, retry_s = "", _RETRY_S
        while self.failed is None:
            headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
            if last_id:
                headers["Last-Event-ID"] = last_id
            parser = _Parser(last_id)
            try:
                with self._client.stream("GET", self._url, headers=headers) as answer:
                    self.connections.append((answer.status_code, answer.headers))
                    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
                    if answer.status_code != 200 or kind != "text/event-stream":
                        self.failed = f"status {answer.status_code}, {kind or 'no content type'}"
                        return
                    for chunk in answer.iter_bytes():
                        yield from parser.feed(chunk)
            except httpx.TransportError:
                pass  # a broken connection is one that is made again
            last_id = parser.last_id
            retry_s = retry_s if parser.retry_s is None else parser.retry_s
            time.sleep(retry_s)
