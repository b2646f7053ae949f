# SPDX-License-Identifier: Apache-2.0
"""A load-balanced worker: an application whose paths say what they do. `web.py [BEHAVIOUR]`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

STARTED = time.monotonic()
BEHAVIOUR = sys.argv[1] if len(sys.argv) > 1 else ""


def note(text: str) -> None:
    """Tell the test what happened here."""
    if "NOTE" in os.environ:
        with Path(os.environ["NOTE"]).open("a") as file:
            file.write(text + "\n")


async def ping(request: Request) -> Response:
    if BEHAVIOUR == "slow" and time.monotonic() - STARTED < 0.6:
        return Response(status_code=204)
    if os.path.exists(os.environ.get("SICK", "")):  # noqa: ASYNC240
        return Response(status_code=503)
    return PlainTextResponse("fine")


async def echo(request: Request) -> Response:
    """What arrived here, to the letter."""
    return JSONResponse(
        {
            "method": request.method,
            "path": request.scope["raw_path"].decode("latin-1"),
            "query": request.scope["query_string"].decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.scope["headers"]],
            "body": (await request.body()).decode("latin-1"),
            "worker": os.environ["RUNPOD_POD_ID"],
            "pid": os.getpid(),
            "environment": {
                name: value for name, value in os.environ.items() if name.startswith(("PORT", "HEALTH", "RUNPOD"))
            },
        }
    )


async def headers(request: Request) -> Response:
    answer = PlainTextResponse("ok", 207)
    answer.raw_headers += [
        (b"set-cookie", b"a=1; Path=/"),
        (b"set-cookie", b"b=2, with a comma"),
        (b"x-odd", "ü".encode("latin-1")),
        (b"keep-alive", b"timeout=5"),
        (b"x-runpod-worker-id", b"forged"),
    ]
    return answer


async def size(request: Request) -> Response:
    """Count the body's bytes as they come."""
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
    return JSONResponse(total)


class Duplex:
    """Send each chunk back before the next one is there: raw, because Starlette's answers read ahead."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            message = await receive()
            body = b"got " + message["body"] if message["body"] else b""
            await send({"type": "http.response.body", "body": body, "more_body": message["more_body"]})
            if not message["more_body"]:
                return


async def many(request: Request) -> Response:
    """So many bytes, with a length or in chunks."""
    count = int(request.query_params["bytes"])
    if "chunked" not in request.query_params:
        return Response(bytes(count))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, count, 1_000_000):
            yield bytes(min(1_000_000, count - start))

    return StreamingResponse(chunks())


async def events(request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        number = 0
        try:
            while True:
                yield f"data: {number}\n\n".encode()
                number += 1
                await asyncio.sleep(0.05)
        finally:
            note("events ended")

    return StreamingResponse(chunks(), media_type="text/event-stream")


async def sleep(request: Request) -> Response:
    note("sleeping")
    watch = asyncio.ensure_future(request.receive()) if not await request.body() else None
    assert watch is not None
    done, _ = await asyncio.wait({watch}, timeout=float(request.query_params["s"]))
    if done:
        note("client gone")
    watch.cancel()
    return PlainTextResponse(os.environ["RUNPOD_POD_ID"])


async def die(request: Request) -> Response:
    """End without a word, before or in the middle of an answer."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"half of it"
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)

    if "late" in request.query_params:
        return StreamingResponse(chunks())
    sys.stderr.write("going down\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    return Response()


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.query_params["to"])


async def socket(socket: WebSocket) -> None:
    offered = socket.scope["subprotocols"]
    await socket.accept(offered[-1] if offered else None, headers=[(b"x-hello", b"1"), (b"set-cookie", b"s=1")])
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                note(f"closed {message['code']} {message.get('reason')}")
                return
            if message.get("text") == "close":
                await socket.close(4001, "as you wish")
                return
            if message.get("text") == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if message.get("text") is not None:
                await socket.send_text("text " + message["text"])
            else:
                await socket.send_bytes(b"bytes " + message["bytes"])
    except WebSocketDisconnect as error:
        note(f"closed {error.code}")


async def no_socket(socket: WebSocket) -> None:
    await socket.send_denial_response(PlainTextResponse("no", 403, headers={"x-why": "because"}))


ROUTES = [
    Route(os.environ.get("HEALTH_CHECK_PATH", "/ping"), ping),
    Route("/headers", headers),
    Route("/size", size, methods=["POST"]),
    Route("/duplex", Duplex()),
    Route("/many", many),
    Route("/events", events),
    Route("/sleep", sleep),
    Route("/die", die),
    Route("/redirect", redirect),
    WebSocketRoute("/socket", socket),
    WebSocketRoute("/no-socket", no_socket),
    Route("/{rest:path}", echo, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]),
]

if __name__ == "__main__":
    if BEHAVIOUR == "crash":
        raise SystemExit("no such model")
    port = int(os.environ["PORT"])
    uvicorn.run(
        Starlette(routes=ROUTES),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=2**31,
        timeout_graceful_shutdown=1,
    )
