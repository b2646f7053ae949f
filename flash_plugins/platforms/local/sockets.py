# SPDX-License-Identifier: Apache-2.0
"""A WebSocket to a load-balanced endpoint, passed on to a worker. Which worker: see `balanced`.

Subprotocols, headers of the handshake, text and binary messages of any size, close codes and reasons go through,
both ways; a handshake that the worker rejects is rejected with its status. Compression is not offered to
the worker: this is loopback. A worker that is lost closes with 1011 and the reason.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiohttp

from .. import api
from .affinity import Affinity, Refusal
from .asgi import Message, Receive, Send
from .clock import Clock
from .relay import (
    CLIENT_GONE,
    WORKER_ID,
    Interruptible,
    Routed,
    read_affinity,
    send_refusal,
    unreachable,
    wait_for_worker,
    why_lost,
)
from .upstream import Broken, RawHeaders, Socket, answer_headers, request_headers, target_url
from .workers import BalancedWorker

__all__ = ["SocketProxy"]

#: Close codes that stand for the absence of a close frame, or of a code in it, and what is sent in their place.
_NO_CODE = {0: 1000, 1005: 1000, 1006: 1001, 1015: 1001}
#: WebSocket close: the server met an unexpected condition.
_INTERNAL_ERROR = 1011
#: Longest reason of a close frame, bytes.
_REASON_MAX_BYTES = 123
#: Seconds a worker gets to answer a close frame.
_CLOSE_TIMEOUT_S = 5.0


class SocketProxy:
    """Passes WebSockets on. One for all endpoints of a platform."""

    def __init__(self, session: aiohttp.ClientSession, clock: Clock) -> None:
        self._session = session
        self._clock = clock

    async def serve(self, routed: Routed, receive: Receive, send: Send) -> None:
        """Serve one WebSocket to its end."""
        await receive()  # websocket.connect
        try:
            affinity = read_affinity(routed.headers)
        except ValueError as error:
            await reject(send, Refusal(400, str(error)))
            return
        life = Interruptible(self._clock)
        watch = asyncio.ensure_future(self._watch(life, receive))
        relay = _Relay(self._session, routed, receive, send)
        try:
            async with life:
                life.limit_to(api.BALANCED_WORKER_WAIT_S + api.BALANCED_REQUEST_TIMEOUT_S)
                upstream = await relay.open(affinity)
            # From here on `receive` belongs to the relay; the watch has found nothing.
            watch.cancel()
            if life.cut_because is CLIENT_GONE:
                return
            if life.cut_because is not None:
                await reject(send, life.cut_because)
            elif upstream is not None:
                await relay.run(upstream)
        finally:
            watch.cancel()
            await relay.close()

    async def _watch(self, life: Interruptible, receive: Receive) -> None:
        """Before the handshake is answered, a client can only go."""
        await receive()
        life.cut(CLIENT_GONE)


class _Relay:
    def __init__(self, session: aiohttp.ClientSession, routed: Routed, receive: Receive, send: Send) -> None:
        self._session = session
        self._routed = routed
        self._receive = receive
        self._send = send
        self._worker: BalancedWorker | None = None
        self._upstream: Socket | None = None

    async def open(self, affinity: Affinity | None) -> Socket | None:
        """Open the worker's end, or reject the client's handshake and return None."""
        fleet = self._routed.fleet
        found = fleet.claim(affinity) or await wait_for_worker(fleet, affinity)
        if isinstance(found, Refusal):
            await reject(self._send, found)
            return None
        self._worker = found
        scope = self._routed.scope
        try:
            upstream = await self._session.ws_connect(
                target_url(found.port, self._routed.target, scope["query_string"]),
                protocols=scope["subprotocols"],
                headers=request_headers(self._routed.headers, dropped=b"sec-websocket-"),
                max_msg_size=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
            )
        except aiohttp.WSServerHandshakeError as error:
            await self._reject_as_worker_did(error)
        except aiohttp.ClientConnectorError as error:
            await reject(self._send, unreachable(found, error), found)
        except (aiohttp.ClientError, Broken, OSError) as error:
            await reject(self._send, await why_lost(found, error), found)
        else:
            assert isinstance(upstream, Socket)
            self._upstream = upstream
            fleet.note_answer(found)
            return upstream
        return None

    async def _reject_as_worker_did(self, error: aiohttp.WSServerHandshakeError) -> None:
        assert self._worker is not None
        if error.status == 101 or error.headers is None:
            refusal = Refusal(502, f"worker {self._worker.id} broke the WebSocket handshake: {error.message}")
            await reject(self._send, refusal, self._worker)
            return
        # aiohttp does not keep the body.
        raw = [
            (name.encode("latin-1"), value.encode("utf-8", "surrogateescape")) for name, value in error.headers.items()
        ]
        headers = [(name, value) for name, value in self._answer_headers(raw) if name.lower() != b"content-length"]
        await _send_rejection(self._send, error.status, headers, b"")

    async def run(self, upstream: Socket) -> None:
        """Accept the client's handshake and carry messages until either side closes."""
        skipped = b"sec-websocket-"
        headers = self._answer_headers(upstream.handshake_headers)
        await self._send(
            {
                "type": "websocket.accept",
                "subprotocol": upstream.protocol,
                "headers": [(name, value) for name, value in headers if not name.lower().startswith(skipped)],
            }
        )
        ways = {asyncio.ensure_future(self._to_worker(upstream)), asyncio.ensure_future(self._to_client(upstream))}
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                with suppress(OSError):  # the client has gone while something was sent to it
                    way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def close(self) -> None:
        """Free the worker."""
        if self._upstream is not None and not self._upstream.closed:
            await self._upstream.close(code=_NO_CODE[1006])
        if self._worker is not None:
            self._routed.fleet.release(self._worker)

    def _answer_headers(self, raw: RawHeaders) -> list[tuple[bytes, bytes]]:
        assert self._worker is not None
        return [*answer_headers(raw, dropped=WORKER_ID), (WORKER_ID, self._worker.id.encode())]

    async def _to_worker(self, upstream: Socket) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                code = message.get("code") or 1005
                reason = (message.get("reason") or "").encode()
                await upstream.close(code=_NO_CODE.get(code, code), message=reason)
                return
            try:
                if message.get("text") is not None:
                    await upstream.send_str(message["text"])
                else:
                    await upstream.send_bytes(message["bytes"])
            except (aiohttp.ClientError, OSError):
                await asyncio.Event().wait()  # the other way sees the end as well, and knows why

    async def _to_client(self, upstream: Socket) -> None:
        while True:
            message = await upstream.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                await self._send({"type": "websocket.send", "text": message.data})
            elif message.type is aiohttp.WSMsgType.BINARY:
                await self._send({"type": "websocket.send", "bytes": bytes(message.data)})
            elif message.type is aiohttp.WSMsgType.CLOSE:
                await self._close_client(_NO_CODE.get(message.data, message.data), message.extra or "")
                return
            else:
                assert self._worker is not None
                error = upstream.exception() or ConnectionError("without a close frame")
                lost = await why_lost(self._worker, error if isinstance(error, Exception) else ConnectionError(error))
                await self._close_client(_INTERNAL_ERROR, lost.error)
                return

    async def _close_client(self, code: int, reason: str) -> None:
        short = reason.encode()[:_REASON_MAX_BYTES].decode("utf-8", "ignore")
        await self._send({"type": "websocket.close", "code": code, "reason": short})


async def reject(send: Send, refusal: Refusal, worker: BalancedWorker | None = None) -> None:
    """Answer a handshake with an error of the balancer's own."""

    async def as_handshake(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await send_refusal(as_handshake, refusal, worker)


async def _send_rejection(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
