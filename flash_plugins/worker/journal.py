# SPDX-License-Identifier: Apache-2.0
"""What has come of a batch so far, in a file that outlives the processes that write it. It decides nothing.

    runner ──── results, one append each, before the next call begins ──► file ──► supervisor, whenever it looks
    supervisor ── notes: begin no more, this call took too long, cancelled ──► file ──► runner, after each call

All appends of a file have one order (O_APPEND), and both sides read it: so they agree which call a note is about, and
a call behind a note to begin no more has not begun, also while the runner is deep in code that nothing interrupts.
When the runner dies, or the whole worker and the job is run again on this machine, the file says what was done.
A file is one job's; it is removed once the job's outcome has been sent.

    header   mark, number of calls, when the first began
    entry    kind, place, when (monotonic clock of the machine), size, size of records, checksum; content; records

An entry whose checksum is wrong ends the file for its readers: it was cut as the disk was full or the process killed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..batches import CallResult, pack_results

__all__ = ["Entry", "EntryKind", "Journal", "Notes", "Reader", "clean", "path_of"]

logger = logging.getLogger(__name__)

_MARK = b"FPJ1"
_HEADER = struct.Struct("<4sId")
_ENTRY = struct.Struct("<BIdIII")
#: Bytes read at once.
_READ_BYTES = 1_048_576
#: Seconds after which a journal is nobody's: a job lives for seven days at most.
_MAX_AGE_S = 8 * 86_400.0


class EntryKind(IntEnum):
    """What an entry is."""

    #: A call has ended; written by the runner.
    RESULT = 1
    #: Begin no call but the one that runs; written by the supervisor, like those below.
    STOP = 2
    #: The call at this place has run too long.
    LIMIT = 3
    #: The job was cancelled.
    CANCEL = 4


@dataclass(slots=True)
class Entry:
    """One entry.

    Attributes:
        index: Place of a call in its batch.
        at: When it was written, seconds of the monotonic clock.
        packed: Of a result: as `batches.pack_results` makes it.
        records: Of a result: what the call printed and logged, as a JSON list; empty if nothing.
    """

    kind: EntryKind
    index: int
    at: float
    packed: bytes = field(default=b"", repr=False)
    records: bytes = field(default=b"", repr=False)


def path_of(cache_folder: Path, job_id: str) -> Path:
    """Return where the journal of a job is kept."""
    return _folder(cache_folder) / f"job-{quote(job_id, safe='')}"


def clean(cache_folder: Path) -> None:
    """Remove journals that were left behind by workers which died."""
    oldest = time.time() - _MAX_AGE_S
    try:
        for path in _folder(cache_folder).iterdir():
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
    except OSError as error:  # there is none yet, or another worker cleans at this moment
        logger.debug("old journals were not looked for: %s", error)


def _folder(cache_folder: Path) -> Path:
    return cache_folder / "journal"


class Journal:
    """The runner's end.

    Args:
        count: How many calls the batch has.

    Raises:
        OSError: It cannot be written.
        FileExistsError: There is one of this job already.
    """

    def __init__(self, path: Path, count: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._own_bytes = self._note_bytes = 0
        self._notes: list[Entry] = []
        try:
            self._append(_HEADER.pack(_MARK, count, time.monotonic()))
        except OSError:
            self.close()
            raise

    def add(self, result: CallResult, records: Sequence[Mapping[str, Any]]) -> int:
        """Append what came of a call, and return how many bytes that took. It outlives this process from here on.

        Raises:
            OSError: It cannot be written, and nothing that is added from now on would be read.
        """
        told = json.dumps(records).encode() if records else b""
        content = _pack(EntryKind.RESULT, result.index, pack_results((result,)), told)
        self._append(content)
        return len(content)

    def notes(self) -> list[Entry]:
        """Return what the supervisor has noted so far; costs next to nothing as long as that is nothing new.

        For the thread that adds results.
        """
        note_bytes = os.lseek(self._fd, 0, os.SEEK_END) - self._own_bytes
        if note_bytes != self._note_bytes:
            self._note_bytes, self._notes = note_bytes, self.notes_now()
        return self._notes

    def notes_now(self) -> list[Entry]:
        """Do the same from the beginning: for other threads, and for a signal handler."""
        return [entry for entry in Reader(self._fd).read() if entry.kind is not EntryKind.RESULT]

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def _append(self, content: bytes) -> None:
        _append(self._fd, content)
        self._own_bytes += len(content)


class Reader:
    """Reads a journal from its beginning, on and on while it grows.

    Args:
        fd: The open file; read by position, so that others may use it, too.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0
        self._buffer = b""
        self._is_damaged = False
        self._results = 0
        #: How many calls the batch has and when the first began, None before the header was read.
        self.count: int | None = None
        self.began_at: float | None = None

    def read(self) -> Iterator[Entry]:
        """Yield the whole entries that have come since the last time, in their order.

        The `index` of a note to begin no more is the place of the first call that will not begin. A note about a call
        that had ended by then is left out.
        """
        while not self._is_damaged and (chunk := os.pread(self._fd, _READ_BYTES, self._at)):
            self._at += len(chunk)
            self._buffer += chunk
            yield from self._parsed()

    def _parsed(self) -> Iterator[Entry]:
        buffer, at = self._buffer, 0
        if self.count is None:
            if len(buffer) < _HEADER.size:
                return
            mark, self.count, self.began_at = _HEADER.unpack_from(buffer)
            self._is_damaged = mark != _MARK
            at = _HEADER.size
        while not self._is_damaged and len(buffer) - at >= _ENTRY.size:
            kind, index, when, size, told, checksum = _ENTRY.unpack_from(buffer, at)
            begin, middle = at + _ENTRY.size, at + _ENTRY.size + size
            end = middle + told
            if end > len(buffer):
                break
            if zlib.crc32(memoryview(buffer)[begin:end]) != checksum or kind not in _KINDS:
                self._is_damaged = True
                break
            at = end
            entry = Entry(_KINDS[kind], index, when, buffer[begin:middle], buffer[middle:end])
            if (resolved := self._resolved(entry)) is not None:
                yield resolved
        self._buffer = buffer[at:]

    def _resolved(self, entry: Entry) -> Entry | None:
        if entry.kind is EntryKind.RESULT:
            self._results += 1
        elif entry.kind is EntryKind.STOP:
            entry.index = self._results + 1
        elif entry.kind is EntryKind.LIMIT and entry.index != self._results:
            return None
        return entry


class Notes:
    """The supervisor's end: reads what comes and appends notes.

    Raises:
        OSError: There is no journal, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._reader = Reader(self._fd)

    @property
    def count(self) -> int | None:
        """How many calls the batch has, None until that was read."""
        return self._reader.count

    @property
    def began_at(self) -> float | None:
        """When its first call began, by the monotonic clock; None until that was read."""
        return self._reader.began_at

    def read(self) -> Iterator[Entry]:
        """Yield what is new: see `Reader.read`."""
        return self._reader.read()

    def add(self, kind: EntryKind, index: int = 0) -> None:
        """Append a note.

        Raises:
            OSError: It cannot be written.
        """
        _append(self._fd, _pack(kind, index))

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


_KINDS = {kind.value: kind for kind in EntryKind}


def _pack(kind: EntryKind, index: int, packed: bytes = b"", records: bytes = b"") -> bytes:
    checksum = zlib.crc32(records, zlib.crc32(packed))
    return _ENTRY.pack(kind, index, time.monotonic(), len(packed), len(records), checksum) + packed + records


def _append(fd: int, content: bytes) -> None:
    written = os.write(fd, content)
    if written != len(content):
        raise OSError(errno.ENOSPC, f"{written} of {len(content)} bytes were written")
