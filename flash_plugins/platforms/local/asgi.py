# SPDX-License-Identifier: Apache-2.0
"""The few ASGI motions that every job makes, without a framework's cost. It knows no routes.

Measured with a no-op job, of which each is three requests: a framework's request and response objects
cost more than the queue itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .clock import Clock
from .wire import dump

__all__ = [
    "BodyTooLarge",
    "Call",
    "break_off",
    "is_connection_gone",
    "read_body",
    "send_empty",
    "send_error",
    "send_json",
    "wait_held",
]

Message = MutableMapping[str, Any]  # Any: ASGI's own untyped messages
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: A held request looks whether its client is still there once it has waited this long, seconds: short waits,
#: which are the many, need not pay for the look.
_WATCH_AFTER_S = 1.0


@dataclass(slots=True)
class Call:
    """One HTTP request on its way: `parts` are the segments of its path behind the operation's name."""

    method: str
    parts: list[str]
    query_string: bytes
    receive: Receive
    send: Send

    def query(self) -> dict[str, str]:
        """Return the query parameters; nothing in them needs unquoting here."""
        pairs = (pair.partition("=") for pair in self.query_string.decode("latin-1").split("&") if pair)
        return {name: value for name, _, value in pairs}


class BodyTooLarge(Exception):
    """A request body is over its limit.

    Attributes:
        size_bytes: Size of the whole body.
        limit_bytes: What was allowed.
    """

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the body has {size_bytes:,} bytes and the limit is {limit_bytes:,}: send less, or a reference"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


async def read_body(receive: Receive, limit_bytes: int) -> bytes:
    """Return the body of a request.

    Raises:
        BodyTooLarge: It is over the limit; it has been read to its end, so that the client sees the answer.
    """
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body") and len(body) <= limit_bytes:
        return body
    chunks = [body]
    size = len(body)
    while message.get("more_body"):
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= limit_bytes:
            chunks.append(chunk)
        else:
            chunks.clear()
    if size > limit_bytes:
        raise BodyTooLarge(size, limit_bytes)
    return b"".join(chunks)


async def send_json(send: Send, status: int, body: bytes) -> None:
    """Answer with a JSON text."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def send_empty(send: Send, status: int = 204) -> None:
    """Answer without a body."""
    headers = [] if status == 204 else [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def break_off(send: Send) -> None:
    """Have the server close the connection, by an answer that is never completed."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})


async def send_error(send: Send, status: int, message: str) -> None:
    """Answer with an error; Runpod does not say what its job API puts in the body."""
    await send_json(send, status, dump({"error": message}))


def is_connection_gone(receive: Receive) -> bool:
    """Return, without waiting, whether the client has closed its connection.

    `receive` is advanced by hand: it either returns what it has, a disconnect among it, or starts to wait,
    and is dropped then. That asks the server at the very moment of a hand-over and costs no task.
    """
    while True:
        step = receive().__await__()
        try:
            next(step)
        except StopIteration as end:
            if end.value["type"] == "http.disconnect":
                return True
        else:
            step.close()
            return False


async def wait_held(future: asyncio.Future[None], seconds: float, *, clock: Clock, receive: Receive) -> bool:
    """Wait for the future, at most `seconds`; return False if the client has gone meanwhile."""

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    if not await _done_within(future, min(seconds, _WATCH_AFTER_S), clock) and seconds > _WATCH_AFTER_S:
        timer = clock.call_later(seconds - _WATCH_AFTER_S, wake)
        watch = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({future, watch}, return_when=asyncio.FIRST_COMPLETED)
            return future.done()
        finally:
            timer.cancel()
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
    return True


async def _done_within(future: asyncio.Future[None], seconds: float, clock: Clock) -> bool:
    """Wait without touching the future when time is up: somebody may still complete it."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not first.done():
            first.set_result(None)

    timer = clock.call_later(seconds, wake)
    future.add_done_callback(wake)
    try:
        await first
    finally:
        timer.cancel()
        future.remove_done_callback(wake)
    return future.done()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
