# SPDX-License-Identifier: Apache-2.0
"""The application of a load-balanced worker that runs calls: raw ASGI, paths and bodies as in `exchange`.

It opens no port, and nothing of the user's runs in its process.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from .. import binary
from ..errors import EnvelopeError
from ..exchange import CALLS_PATH, KEY_HEADER, MOST_HOLD_S, CallAnswer, CallState, proof_of
from .calls import Calls, Kept
from .link import STREAMS

__all__ = ["CallApplication"]

logger = logging.getLogger(__name__)

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Scope]]
_Send = Callable[[_Scope], Awaitable[None]]

_KEY_HEADER = KEY_HEADER.lower().encode()
_HEALTHY = b'{"status":"healthy"}'
#: A request that is held for longer is watched for its caller's end, seconds; a short one need not pay for that.
_WATCH_AFTER_S = 0.05
#: Bodies below this size are sent in one piece.
_WHOLE_BYTES = 262_144


class CallApplication:
    """Answers health itself, and what concerns calls; an ASGI application.

    Args:
        calls: The calls of this worker.
        health_path: Where health is asked.
        worker_id: Named in every answer, for balancers that do not name it.
        key: The platform's key, of which callers must show that they know it; None where nobody else reaches this port.
    """

    def __init__(self, calls: Calls, *, health_path: str, worker_id: str | None, key: str | None) -> None:
        self._calls = calls
        self._health_path = health_path
        self._worker_id = worker_id
        self._proof = None if key is None else proof_of(key).encode()

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000, "reason": "this worker takes calls, no WebSockets"})
            return
        method, path = scope["method"], scope["path"]
        if path == self._health_path and method in ("GET", "HEAD"):
            await _send(send, 200, [_HEALTHY], b"application/json")
        elif path != CALLS_PATH and not path.startswith(f"{CALLS_PATH}/"):
            await _refuse(send, 404, f"no route {path}: this worker runs calls that flash_plugins makes")
        elif not self._is_known(scope):
            await _refuse(
                send, 403, f"calls need the header {KEY_HEADER}, by which the caller knows the platform's key"
            )
        elif method == "POST" and path == CALLS_PATH:
            await self._begin(receive, send)
        elif method in ("GET", "DELETE") and path != CALLS_PATH:
            await self._look(scope, path.removeprefix(f"{CALLS_PATH}/"), receive, send)
        else:
            await _refuse(send, 405, f"{method} {path} is nothing that this worker does")

    def _is_known(self, scope: _Scope) -> bool:
        if self._proof is None:
            return True
        given = next((value for name, value in scope["headers"] if name == _KEY_HEADER), b"")
        return hmac.compare_digest(given, self._proof)

    async def _begin(self, receive: _Receive, send: _Send) -> None:
        content = await _body(receive)
        if content is None:
            return
        try:
            head = binary.head_of(content)
            call_id, hold_s = str(head["id"]), min(float(head["hold_s"]), MOST_HOLD_S)
            limit_s = head.get("limit_s")
        except (EnvelopeError, KeyError, TypeError, ValueError) as error:
            await _refuse(send, 400, f"this is no call of flash_plugins: {error!r}")
            return
        limit_s = None if limit_s is None else float(limit_s)
        kept = self._calls.begin(call_id, content, streams=bool(head.get(STREAMS)), limit_s=limit_s)
        del content  # the runner lets go of it once it has it
        if not await self._held(kept, 0, hold_s, receive):
            if not kept.askers and kept.sent_at is None:
                logger.warning("call %s is stopped: its caller went away before it was told that it runs", call_id)
                self._calls.cancel(kept)
        elif not kept.has_news(0) and self._calls.give_back(kept):
            await self._send(send, CallAnswer(CallState.BUSY))
        else:
            await self._tell(kept, send)

    async def _look(self, scope: _Scope, call_id: str, receive: _Receive, send: _Send) -> None:
        kept = self._calls.find(call_id)
        if kept is None:
            await self._send(send, CallAnswer(CallState.UNKNOWN))
            return
        if scope["method"] == "DELETE":
            self._calls.cancel(kept)
        else:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            try:
                after = int(query.get("after", ["0"])[0])
                hold_s = min(float(query.get("hold", ["0"])[0]), MOST_HOLD_S)
            except ValueError as error:
                await _refuse(send, 400, f"a number is wrong: {error}")
                return
            kept.forget_before(after)
            if not await self._held(kept, after, hold_s, receive):
                return
        await self._tell(kept, send)

    async def _tell(self, kept: Kept, send: _Send) -> None:
        answer = kept.answer()
        await self._send(send, answer)
        if answer.state is not CallState.ACCEPTED:
            self._calls.note_sent(kept)

    async def _held(self, kept: Kept, after: int, hold_s: float, receive: _Receive) -> bool:
        """Wait for news of a call; False where the caller has gone."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + hold_s
        watch: asyncio.Task[None] | None = None
        kept.askers += 1
        try:
            while not kept.has_news(after) and (left_s := ends_at - loop.time()) > 0:
                await kept.changed(left_s if watch is not None else min(left_s, _WATCH_AFTER_S))
                if watch is None:
                    watch = loop.create_task(_until_gone(receive))
                    watch.add_done_callback(lambda _: kept.notify())
                elif watch.done():
                    return False
            return True
        finally:
            kept.askers -= 1
            kept.asked_at = loop.time()
            if watch is not None:
                watch.cancel()

    async def _send(self, send: _Send, answer: CallAnswer) -> None:
        await _send(send, 200, answer.body(self._worker_id), b"application/octet-stream")


async def _body(receive: _Receive) -> bytes | None:
    """Return the body of a request, None if its caller goes away meanwhile."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _until_gone(receive: _Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _refuse(send: _Send, status: int, error: str) -> None:
    await _send(send, status, [json.dumps({"error": error}).encode()], b"application/json")


async def _send(send: _Send, status: int, parts: list[bytes], kind: bytes) -> None:
    length = sum(map(len, parts))
    headers = [(b"content-type", kind), (b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if length < _WHOLE_BYTES:
        parts = [b"".join(parts)]
    for number, part in enumerate(parts, start=1):
        await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})
