# SPDX-License-Identifier: Apache-2.0
"""A load-balanced worker that pushes: Server-Sent Events in every form a browser takes, and a WebSocket."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

app = FastAPI()
GATES = Path(os.environ["GATES"])
LAST_EVENT = 6


@app.get("/ping")
async def ping() -> dict[str, str]:
    return {"status": "healthy"}


def events(chunks: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def gate(name: str) -> None:
    """Wait for a file that the test makes."""
    while not (GATES / name).exists():  # noqa: ASYNC110 - nothing but asking tells
        await asyncio.sleep(0.01)


@app.get("/stepwise")
async def stepwise() -> Response:
    """Each event waits until the test has seen the one before."""

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(3):
            yield f"data: {number}\n\n".encode()
            await gate(f"seen-{number}")

    return events(chunks())


@app.get("/all-forms")
async def all_forms() -> Response:
    """Everything that the specification allows, in pieces that respect no line and no character."""
    text = (
        "\ufeff: a comment\n"
        "data: plain\n\n"
        "event: named\r\ndata: with CRLF\r\n\r\n"
        "event: named\rdata: with CR\r\r"
        "data: two\ndata: lines\ndata\nid: 7\n\n"
        "data:no space\nid\n\n"
        "data:  two spaces\nunknown: field\n\n"
        "event: nothing to say\n\n"
        "data: grüße 💥\nid: ünï\n\n"
        "id: bad\0id\ndata: the id before stays\n\n"
        "retry: 12x\ndata: no such pause\n\n"
        "data: never dispatched"
    ).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(text), 3):
            yield text[start : start + 3]
            await asyncio.sleep(0)

    return events(chunks())


@app.get("/resumable")
async def resumable(request: Request) -> Response:
    """Two events a connection, from where the client was; 204, which tells a browser to stay away, at the end."""
    last = int(request.headers.get("last-event-id", "0"))
    if last == LAST_EVENT:
        return Response(status_code=204)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"retry: 20\n\n"
        for number in (last + 1, last + 2):
            yield f"id: {number}\nevent: count\ndata: {number}\n\n".encode()

    return events(chunks())


@app.get("/mortal")
async def mortal(request: Request) -> Response:
    """The worker ends between the first event and the second."""
    last = request.headers.get("last-event-id")

    async def chunks() -> AsyncIterator[bytes]:
        yield f"retry: 20\nid: first\ndata: {os.getpid()}\n\n".encode()
        if last is None:
            await gate("die")
            os._exit(1)
        yield f"id: second\ndata: after {last}\n\n".encode()

    return events(chunks())


@app.websocket("/chat")
async def chat(socket: WebSocket) -> None:
    """Answers `PROTOCOL: text` to text and the reverse to bytes, and closes as it is told."""
    offered = socket.scope["subprotocols"]
    chosen = next((name for name in ("v2.chat", "v1.chat") if name in offered), None)
    await socket.accept(subprotocol=chosen)
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))
            if message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"][::-1])
            elif message["text"].startswith("close "):
                _, code, reason = message["text"].split(" ", 2)
                await socket.close(int(code), reason)
                return
            else:
                await socket.send_text(f"{chosen}: {message['text']}")
    except WebSocketDisconnect as error:
        (GATES / f"closed-{error.code}-{error.reason}").touch()


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", ws_max_size=20_000_000)
