# SPDX-License-Identifier: Apache-2.0
"""Frames between a worker's job loop and its runner: four bytes of length, then a pickle.

Both ends are processes of the same worker on a socket that nobody else holds, so pickle is safe here.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import select
import socket
import struct
from threading import Lock
from typing import Any

__all__ = [
    "CALL",
    "CANCEL",
    "CHUNK",
    "CREDIT",
    "DONE",
    "NEWS",
    "PLAIN",
    "STREAMS",
    "BlockingLink",
    "Frame",
    "pack",
    "read_frame",
]

#: Frame kinds towards the runner: run this, stop that, one more chunk was taken.
CALL, CANCEL, CREDIT = "call", "cancel", "credit"
#: Frame kinds back: a yielded value, the end of a call; and that there is something to look at, as a call whose time is
#: limited begins or a slow one of a batch has ended.
CHUNK, DONE, NEWS = "chunk", "done", "news"
#: Key, at the end of a job in plain JSON, of what it returned; a failure has `error`.
PLAIN = "plain"
#: Key, beside a binary envelope: whether the caller takes what is yielded.
STREAMS = "streams"

#: A frame: kind, job id, content. The content of a call is the input of a job, or a binary envelope as bytes.
Frame = tuple[str, str, Any]

_LENGTH = struct.Struct(">I")
#: Bytes asked of the socket at once.
_RECEIVE_BYTES = 262_144


def pack(frame: Frame) -> bytes:
    """Return the bytes of one frame."""
    content = pickle.dumps(frame, protocol=5)
    return _LENGTH.pack(len(content)) + content


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """Return the next frame, None when the other end is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        frame: Frame = pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return frame


class BlockingLink:
    """The runner's end: reads in one thread, writes from any. A forked child lets go of it at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._lock = Lock()
        sock.set_inheritable(False)
        # A child that user code forks would keep the line open after this process has died.
        os.register_at_fork(after_in_child=self._let_go)

    def receive(self) -> Frame | None:
        """Return the next frame, None when the other end is gone."""
        while (frame := self._parsed()) is None:
            if not self._fill():
                return None
        return frame

    def receive_within(self, seconds: float) -> Frame | None:
        """Return the next frame if one comes in time, else None.

        Raises:
            EOFError: The other end is gone.
        """
        frame = self._parsed()
        if frame is None and select.select([self._sock], [], [], seconds)[0]:
            if not self._fill():
                raise EOFError("the job loop is gone")
            frame = self._parsed()
        return frame

    def send(self, frame: Frame) -> None:
        """Send one frame."""
        content = pack(frame)
        with self._lock:
            self._sock.sendall(content)

    def _fill(self) -> bool:
        content = self._sock.recv(_RECEIVE_BYTES)
        self._buffer += content
        return bool(content)

    def _parsed(self) -> Frame | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            frame: Frame = pickle.loads(view[_LENGTH.size : end])
        del self._buffer[:end]
        return frame

    def _let_go(self) -> None:
        os.close(self._sock.detach())
