# SPDX-License-Identifier: Apache-2.0
"""A request to a load-balanced endpoint, passed on to a worker and its answer back. Which worker: see `balanced`.

    client ══ receive ══> Exchange ══ upload ══> worker        both directions at once, nothing buffered,
           <══ send ═════          <══ answer ══              nothing repeated

Raw ASGI: bytes of path, query, headers and bodies pass unchanged, except for what concerns one connection only, the
platform's key (which the service checks at its edge; a worker must not get it), and, below a path base,
`Location` headers, which get the base that the worker does not know.

Errors of ours are JSON, `{"error": …}` and mostly `detail`: 413 body too large, 502 the worker does not start, cannot
be reached, ends, or its answer is too large, 503 no worker, 504 over the time limit, 400 and 404 for affinity.
Runpod documents the texts but few of the statuses (2026-08). Once an answer has begun, an error cuts the
connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import aiohttp

from .. import api
from .affinity import Affinity, Refusal
from .asgi import Receive, Send
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
from .upstream import Broken, answer_headers, request_headers, target_url
from .workers import BalancedWorker

__all__ = ["Proxy"]

_LOG = logging.getLogger(__name__)
#: A request that takes longer is watched for its client's end, seconds; a short one need not pay for that.
_WATCH_AFTER_S = 0.05
#: Chunks of an upload that are read ahead of the worker.
_UPLOAD_CHUNKS = 8


class Proxy:
    """Passes requests on. One for all endpoints of a platform."""

    def __init__(self, session: aiohttp.ClientSession, clock: Clock) -> None:
        self._session = session
        self._clock = clock

    async def serve(self, routed: Routed, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        length = _content_length(routed.headers)
        if length is not None and length > api.BALANCED_BODY_MAX_BYTES:
            await send_refusal(send, _too_large(f"the body has {length:,} bytes"))
            return
        try:
            affinity = read_affinity(routed.headers)
        except ValueError as error:
            await send_refusal(send, Refusal(400, str(error)))
            return
        await _Exchange(self._session, self._clock, routed, receive, send).run(affinity)


class _Exchange:
    """One request and its answer."""

    def __init__(
        self, session: aiohttp.ClientSession, clock: Clock, routed: Routed, receive: Receive, send: Send
    ) -> None:
        self._session = session
        self._routed = routed
        self._receive = receive
        self._send = send
        self._life = Interruptible(clock)
        self._is_started = False
        self._worker: BalancedWorker | None = None
        self._listener: asyncio.Task[None] | None = None
        self._upload: asyncio.Queue[bytes | None] | None = None
        self._is_uploaded = True
        self._received_bytes = 0

    async def run(self, affinity: Affinity | None) -> None:
        """Answer the request, or cut its connection."""
        watch = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._watch)
        try:
            async with self._life:
                await self._answer(affinity)
        finally:
            watch.cancel()
            if self._listener is not None:
                self._listener.cancel()
        reason = self._life.cut_because
        if reason is None or reason is CLIENT_GONE:
            return
        if not self._is_started:
            await self._refuse(reason)
        else:
            self._note_abort(f"{reason.error}: {reason.detail}")

    async def _answer(self, affinity: Affinity | None) -> None:
        first = await self._receive()
        if first["type"] == "http.disconnect":
            return
        body: bytes = first.get("body", b"")
        if first.get("more_body"):
            self._is_uploaded = False
            self._upload = asyncio.Queue(_UPLOAD_CHUNKS)
            self._upload.put_nowait(body)
            self._received_bytes = len(body)
            self._watch()
        fleet = self._routed.fleet
        found = fleet.claim(affinity) or await wait_for_worker(fleet, affinity)
        if isinstance(found, Refusal):
            await self._refuse(found)
            return
        self._worker = found
        try:
            self._life.limit_to(api.BALANCED_REQUEST_TIMEOUT_S)
            await self._relay(found, body)
        finally:
            fleet.release(found)

    async def _relay(self, worker: BalancedWorker, body: bytes) -> None:
        scope = self._routed.scope
        try:
            answer = await self._session.request(
                scope["method"],
                target_url(worker.port, self._routed.target, scope["query_string"]),
                headers=request_headers(self._routed.headers),
                data=(body or None) if self._upload is None else self._chunks(self._upload),
                allow_redirects=False,
            )
        except aiohttp.ClientConnectorError as error:
            await self._refuse(unreachable(worker, error))
            return
        except (aiohttp.ClientError, Broken, OSError) as error:
            await self._refuse(await why_lost(worker, error))
            return
        is_complete = False
        try:
            self._routed.fleet.note_answer(worker)
            is_complete = await self._pass_on(worker, answer)
        except (aiohttp.ClientError, OSError) as error:
            self._note_abort((await why_lost(worker, error)).error)
        finally:
            if not (is_complete and self._is_uploaded):
                answer.close()  # which the worker sees as its client's end

    async def _pass_on(self, worker: BalancedWorker, answer: aiohttp.ClientResponse) -> bool:
        """Send the worker's answer to the client; return whether all of it was sent."""
        length = _content_length(answer.raw_headers)
        if length is not None and length > api.BALANCED_BODY_MAX_BYTES and self._routed.scope["method"] != "HEAD":
            refusal = _too_large(f"the worker's answer has {length:,} bytes")
            await self._refuse(Refusal(502, refusal.error, refusal.detail))
            return False
        headers = answer_headers(answer.raw_headers, dropped=WORKER_ID)
        if self._routed.prefix:
            headers = [self._relocated(*header) for header in headers]
        headers.append((WORKER_ID, worker.id.encode()))
        self._is_started = True
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        content = answer.content
        sent_bytes = 0
        while True:
            chunk = await content.readany()
            is_end = not chunk or content.at_eof()
            sent_bytes += len(chunk)
            if sent_bytes > api.BALANCED_BODY_MAX_BYTES:
                self._note_abort(f"the worker's answer is over {api.BALANCED_BODY_MAX_BYTES:,} bytes")
                return False
            await self._send({"type": "http.response.body", "body": chunk, "more_body": not is_end})
            if is_end:
                return True

    def _relocated(self, name: bytes, value: bytes) -> tuple[bytes, bytes]:
        """Put the path base into a redirect to the worker itself."""
        if name.lower() != b"location":
            return name, value
        if value.startswith(b"/") and not value.startswith(b"//"):
            return name, self._routed.prefix + value
        origin = b"http://" + next((value for key, value in self._routed.headers if key == b"host"), b"")
        if value == origin or value.startswith(origin + b"/"):
            return name, origin + self._routed.prefix + value[len(origin) :]
        return name, value

    # -- the client's side --------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._listener is None and not self._life.is_over:
            self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        """Take in what the client sends, until it has gone."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._life.cut(CLIENT_GONE)
                return
            if self._upload is None:
                continue
            chunk: bytes = message.get("body", b"")
            self._received_bytes += len(chunk)
            if self._received_bytes > api.BALANCED_BODY_MAX_BYTES:
                self._life.cut(_too_large("the body has more bytes"))
                return
            if chunk:
                await self._upload.put(chunk)
            if not message.get("more_body"):
                await self._upload.put(None)

    async def _chunks(self, upload: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        while (chunk := await upload.get()) is not None:
            if chunk:
                yield chunk
        self._is_uploaded = True

    async def _refuse(self, refusal: Refusal) -> None:
        self._is_started = True
        await send_refusal(self._send, refusal, self._worker)

    def _note_abort(self, why: str) -> None:
        # What is never completed makes the server close the connection.
        _LOG.warning("an answer of endpoint %s was cut: %s", self._routed.fleet.spec.id, why)


def _too_large(what: str) -> Refusal:
    return Refusal(413, "body too large", f"{what}, and the limit is {api.BALANCED_BODY_MAX_BYTES:,}")


def _content_length(headers: object) -> int | None:
    for name, value in headers:  # type: ignore[attr-defined]
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return None
