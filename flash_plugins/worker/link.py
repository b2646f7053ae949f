# SPDX-License-Identifier: Apache-2.0
"""Frames between a worker's job loop and its runner: four bytes of length, then a pickle.

Both ends are processes of the same worker on a socket that nobody else holds, so pickle is safe here.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from threading import Lock
from typing import Any, BinaryIO, cast

__all__ = ["BlockingLink", "pack", "read_frame"]

_LENGTH = struct.Struct(">I")

#: A frame: kind, job id, content.
Frame = tuple[str, str, Any]


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
    """The runner's end: blocking reads in one thread, writes from any."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._input = cast(BinaryIO, sock.makefile("rb", buffering=1 << 18))
        self._lock = Lock()

    def receive(self) -> Frame | None:
        """Return the next frame, None when the other end is gone."""
        head = self._input.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        content = self._input.read(length)
        if len(content) < length:
            return None
        frame: Frame = pickle.loads(content)
        return frame

    def send(self, frame: Frame) -> None:
        """Send one frame."""
        content = pack(frame)
        with self._lock:
            self._sock.sendall(content)
