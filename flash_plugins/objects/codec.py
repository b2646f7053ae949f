# SPDX-License-Identifier: Apache-2.0
"""Packed pickles: bytes whose large parts are elsewhere, named by `Ref`. It stores and fetches nothing itself.

    pickler ──write──────► frames (small ones stay, large ones in groups) ─┐
            ──write──────► large bytes and texts ──────────────────────────┼─► sink.store ─► Ref
            ──take_buffer─► large buffers ─────────────────────────────────┘
    head │ an entry for each part of the stream, each buffer, each further object │ the parts that stayed

A pickle of which nothing is large stays what it is, and begins with 0x80; a packed one begins with 0xF7. An entry is
digest and length; a part that stayed has a digest of zeros. The groups of frames have 1, 2, 4, 8, then 16 frames of
64 kB each: what differs at the beginning of two pickles leaves most of the other groups the same.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..errors import EnvelopeError
from .digest import digest_of_view
from .store import Ref

__all__ = [
    "DEFAULT_THRESHOLD_BYTES",
    "PACKED",
    "CompareSink",
    "Fetch",
    "Packer",
    "Sink",
    "is_packed",
    "keeper_of",
    "refs_of",
    "unpack",
]

_MAGIC = b"\xf7fpo"
#: How a packed pickle begins, and no other.
PACKED = _MAGIC[:1]
#: Magic, name of who keeps the objects until they were taken (0: nobody), counts of parts, buffers and further objects.
_HEAD = struct.Struct("<4sQIII")
_ENTRY = struct.Struct("<16sQ")
_STAYS = bytes(16)

#: How long a part of a pickle must be to become an object, bytes, where nothing else was set.
DEFAULT_THRESHOLD_BYTES = 65_536
#: Most frames in a group.
_GROUP_MAX = 16
#: Longer writes of a pickler are no frames: it ends one at 64 kB, and what would make it longer than twice that is
#: written apart.
_FRAME_MAX_BYTES = 200_000
_FRAME = 0x95
_FRAME_HEAD_BYTES = 9

#: Returns the content of an object.
Fetch = Callable[[Ref], memoryview]


class Sink(Protocol):
    """Where the large parts of a pickle go."""

    @property
    def threshold_bytes(self) -> int:
        """How long a part must be to go there."""

    @property
    def keeper(self) -> int:
        """Name of who keeps what is stored until its receiver does; 0 if that is the sender itself."""

    @property
    def resolves(self) -> bool:
        """Whether handles arrive as the values that they stand for."""

    def store(self, content: memoryview) -> Ref:
        """Store a content as it is now and return its name."""

    def again(self, ref: Ref, fetch: Fetch | None) -> None:
        """Take note that an object which is stored already is used once more; `fetch` returns it if it is elsewhere."""


class CompareSink:
    """Names the large parts and stores nothing: to see whether a pickle would be the same."""

    keeper = 0
    resolves = True

    def __init__(self, threshold_bytes: int) -> None:
        self.threshold_bytes = threshold_bytes

    def store(self, content: memoryview) -> Ref:
        """As `Sink.store`."""
        return Ref(digest_of_view(content), content.nbytes)

    def again(self, ref: Ref, fetch: Fetch | None) -> None:
        """As `Sink.again`."""


class Packer:
    """A file for one pickler, whose large parts go to `sink`."""

    def __init__(self, sink: Sink) -> None:
        self.resolves = sink.resolves
        self.has_handles = False
        self._sink = sink
        self._threshold = sink.threshold_bytes
        self._parts: list[bytes | Ref] = []
        self._buffers: list[Ref] = []
        self._further: list[Ref] = []
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._group = 1

    def write(self, chunk: bytes | bytearray | pickle.PickleBuffer) -> None:
        """Take what the pickler writes: frames, or a large content that it does not copy."""
        if type(chunk) is bytes and (len(chunk) < self._threshold or _is_frame(chunk)):
            self._frames.append(chunk)
            self._frames_bytes += len(chunk)
            if self._frames_bytes >= self._threshold and len(self._frames) >= self._group:
                self._end_group()
                self._group = min(2 * self._group, _GROUP_MAX)
            return
        view = chunk.raw() if isinstance(chunk, pickle.PickleBuffer) else memoryview(chunk)
        if view.nbytes < self._threshold:
            self._frames.append(bytes(view))
            self._frames_bytes += view.nbytes
            return
        self._end_group()
        self._parts.append(self._sink.store(view))

    def take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of the stream; True, as pickle wants it, for one that stays."""
        view = buffer.raw()
        if view.nbytes < self._threshold:
            return True
        self._buffers.append(self._sink.store(view))
        return False

    def refer(self, refs: Sequence[Ref], fetch: Fetch | None) -> None:
        """Take note of objects that a handle names, which is written."""
        self.has_handles = True
        for ref in refs:
            self._sink.again(ref, fetch)
        self._further.extend(refs)

    def finish(self) -> bytes:
        """Return what was written, packed if anything of it is elsewhere."""
        if not self._parts and not self._buffers and not self._further and self._frames_bytes < self._threshold:
            return self._frames[0] if len(self._frames) == 1 else b"".join(self._frames)
        self._end_group()
        head = _HEAD.pack(_MAGIC, self._sink.keeper, len(self._parts), len(self._buffers), len(self._further))
        entries = [
            _ENTRY.pack(_STAYS, len(part)) if isinstance(part, bytes) else _entry_of(part)
            for part in [*self._parts, *self._buffers, *self._further]
        ]
        return b"".join([head, *entries, *(part for part in self._parts if isinstance(part, bytes))])

    def _end_group(self) -> None:
        if not self._frames:
            return
        joined = self._frames[0] if len(self._frames) == 1 else b"".join(self._frames)
        is_large = len(joined) >= self._threshold
        self._parts.append(self._sink.store(memoryview(joined)) if is_large else joined)
        self._frames.clear()
        self._frames_bytes = 0


def _entry_of(ref: Ref) -> bytes:
    return _ENTRY.pack(bytes.fromhex(ref.digest), ref.size)


def _is_frame(chunk: bytes) -> bool:
    """Whether a write is a frame, perhaps with the head of the large content that comes next."""
    if len(chunk) > _FRAME_MAX_BYTES:
        return False
    at = 2 if chunk[0] == 0x80 else 0
    if chunk[at] != _FRAME:
        return False
    beyond = len(chunk) - at - _FRAME_HEAD_BYTES - int.from_bytes(chunk[at + 1 : at + _FRAME_HEAD_BYTES], "little")
    return 0 <= beyond <= _FRAME_HEAD_BYTES


def is_packed(data: bytes) -> bool:
    """Return whether some of a pickle is elsewhere."""
    return data.startswith(PACKED)


def refs_of(data: bytes) -> tuple[Ref, ...]:
    """Return the objects that a pickle, packed or not, needs; each once.

    Raises:
        EnvelopeError: It was cut or changed.
    """
    if not is_packed(data):
        return ()
    parts, buffers, further = _entries_of(data)[:3]
    return tuple(dict.fromkeys(entry for entry in [*parts, *buffers, *further] if isinstance(entry, Ref)))


def keeper_of(data: bytes) -> int:
    """Return who keeps the objects of a packed pickle until they were taken, 0 if nobody does."""
    return int(_HEAD.unpack_from(data)[1]) if is_packed(data) else 0


def unpack(data: bytes, fetch: Fetch) -> Any:  # Any: the user's object
    """Return the object of a packed pickle.

    Raises:
        EnvelopeError: It was cut or changed.
        Exception: Whatever `fetch` or unpickling raises.
    """
    parts, buffers, _, at = _entries_of(data)
    contents: list[bytes | memoryview] = []
    for part in parts:
        if isinstance(part, Ref):
            contents.append(fetch(part))
        else:
            contents.append(memoryview(data)[at : at + part])
            at += part
    out_of_band = [fetch(ref) for ref in buffers if isinstance(ref, Ref)]
    if len(contents) == 1:
        return pickle.loads(contents[0], buffers=out_of_band)
    return pickle.Unpickler(_Stream(contents), buffers=out_of_band).load()


def _entries_of(data: bytes) -> tuple[list[Ref | int], list[Ref | int], list[Ref | int], int]:
    """Return parts, buffers and further objects, an inline part by its length, and where the inline parts begin."""
    try:
        magic, _, *counts = _HEAD.unpack_from(data)
        at = _HEAD.size + _ENTRY.size * sum(counts)
        found: list[Ref | int] = [
            size if digest == _STAYS else Ref(digest.hex(), size)
            for digest, size in _ENTRY.iter_unpack(memoryview(data)[_HEAD.size : at])
        ]
    except struct.error as error:
        raise EnvelopeError(f"a packed pickle is damaged: {error}") from error
    inline = sum(entry for entry in found if isinstance(entry, int))
    if magic != _MAGIC or len(found) != sum(counts) or at + inline != len(data):
        raise EnvelopeError(f"a packed pickle is damaged: it has {len(data)} bytes instead of {at + inline}")
    parts, buffers = counts[0], counts[0] + counts[1]
    return found[:parts], found[parts:buffers], found[buffers:], at


class _Stream:
    """The parts of a stream as one file, for an unpickler."""

    def __init__(self, contents: Sequence[bytes | memoryview]) -> None:
        self._contents = [memoryview(content) for content in reversed(contents)]

    def read(self, size: int) -> bytes:
        taken = bytearray(size)
        return bytes(memoryview(taken)[: self.readinto(taken)])

    def readinto(self, target: bytearray | memoryview) -> int:
        view, done = memoryview(target), 0
        while done < len(view) and self._contents:
            content = self._contents[-1]
            taken = min(len(content), len(view) - done)
            view[done : done + taken] = content[:taken]
            done += taken
            if taken == len(content):
                self._contents.pop()
            else:
                self._contents[-1] = content[taken:]
        return done

    def readline(self) -> bytes:  # of opcodes of old protocols, which are short
        line = bytearray()
        while (byte := self.read(1)) and not line.endswith(b"\n"):
            line += byte
        return bytes(line)
