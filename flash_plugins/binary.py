# SPDX-License-Identifier: Apache-2.0
"""Envelopes as bytes, for ways that carry those: contents lie one behind the other, nothing is base64.

message     b"FPB1", length of the head, head (JSON), then the contents that the head names by place and length
frames      for each: length, then that many bytes

It knows no field of an envelope: whatever is bytes in a dictionary, at any depth, becomes a content.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import EnvelopeError

__all__ = ["frames", "head_of", "pack", "split", "unpack"]

#: How a message begins; the digit is the version of this form.
_MAGIC = b"FPB1"
_LENGTH = struct.Struct(">I")
#: Where the head of a message begins.
_START = len(_MAGIC) + _LENGTH.size
#: Key of the object that stands for a content in the head, none that an envelope has: its place and its length.
_PLACE = "\0place"


def pack(fields: Mapping[str, Any]) -> bytes:
    """Return a dictionary of JSON values and bytes as one message."""
    contents: list[bytes] = []
    size = 0

    def placed(value: object) -> dict[str, list[int]]:
        nonlocal size
        if not isinstance(value, bytes):
            raise TypeError(f"a {type(value).__name__} cannot be part of an envelope")
        contents.append(value)
        size += len(value)
        return {_PLACE: [size - len(value), len(value)]}

    head = json.dumps(dict(fields), default=placed, separators=(",", ":")).encode("ascii")
    return b"".join([_MAGIC, _LENGTH.pack(len(head)), head, *contents])


def unpack(message: bytes | memoryview) -> dict[str, Any]:
    """Return what `pack` was given.

    Raises:
        EnvelopeError: It is no message, or it was cut.
    """
    with memoryview(message) as view:
        base = _end_of_head(view)

        def content(at: int, length: int) -> bytes:
            if base + at + length > len(view):
                raise ValueError(f"a content of {length} bytes is cut")
            return bytes(view[base + at : base + at + length])

        _reading.content = content
        try:
            return _fields(view, base, _whole)
        finally:
            del _reading.content


def head_of(message: bytes | memoryview) -> dict[str, Any]:
    """Return what `pack` was given with something else in place of each content; raises as `unpack` does."""
    with memoryview(message) as view:
        return _fields(view, _end_of_head(view), _head)


def _end_of_head(view: memoryview) -> int:
    if view[: len(_MAGIC)] != _MAGIC or len(view) < _START:
        raise EnvelopeError(
            f"{len(view)} bytes that begin with {bytes(view[:16])!r} are no binary envelope: install the same "
            "version of flash-plugins on both sides"
        )
    end: int = _START + _LENGTH.unpack_from(view, len(_MAGIC))[0]
    return end


def _placed(found: dict[str, Any]) -> Any:
    if len(found) != 1 or _PLACE not in found:
        return found
    at, length = found[_PLACE]
    return _reading.content(at, length)


#: What the message that a thread reads just now has at a place.
_reading = threading.local()
#: Made once: that takes longer than reading a head.
_whole, _head = json.JSONDecoder(object_hook=_placed), json.JSONDecoder()


def _fields(view: memoryview, base: int, decoder: json.JSONDecoder) -> dict[str, Any]:
    try:
        fields = decoder.decode(bytes(view[_START:base]).decode("ascii"))
    except (ValueError, TypeError) as error:
        raise EnvelopeError(f"a binary envelope of {len(view)} bytes was damaged on its way: {error}") from error
    if not isinstance(fields, dict):
        raise EnvelopeError(f"a binary envelope holds a {type(fields).__name__}, not an object")
    return fields


def frames(messages: Iterable[bytes]) -> list[bytes]:
    """Return what several messages are as one body, in parts that follow one another."""
    return [part for message in messages for part in (_LENGTH.pack(len(message)), message)]


def split(body: bytes) -> list[memoryview]:
    """Return the messages of a body.

    Raises:
        EnvelopeError: It was cut.
    """
    found, at, view = [], 0, memoryview(body)
    while at < len(view):
        start = at + _LENGTH.size
        at = start + (_LENGTH.unpack_from(view, at)[0] if start <= len(view) else _LENGTH.size)
        if at > len(view):
            raise EnvelopeError(f"the body of {len(view)} bytes was cut on its way")
        found.append(view[start:at])
    return found
