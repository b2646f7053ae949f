# SPDX-License-Identifier: Apache-2.0
"""How far a call is that does several things one after another, for the case that its process dies.

caller                      worker: job loop                       worker: process that runs calls
suspect step ─(envelope)──────────────────────────────────────────▶ `suspected_step()`: do that one first
                             reads the board of a dead process ◀─── `note_step(n)`: 0.2 µs, shared memory
again, or WorkerLost ◀─(outcome: the step)──┘
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

__all__ = ["Board", "begin_call", "nameless_file", "note_step", "open_board", "suspected_step"]

#: Step, and bytes of the words that follow.
_HEAD = struct.Struct("<qH")
_WORDS_BYTES = 400
_NO_STEP = -1


class Board:
    """A few bytes that two processes share: one writes how far it is, the other reads that once it is dead.

    Args:
        fd: That of another process's board, None to make one.
    """

    def __init__(self, fd: int | None = None) -> None:
        size = _HEAD.size + _WORDS_BYTES
        if fd is None:
            fd = nameless_file()
            os.ftruncate(fd, size)
        self.fd = fd
        self._memory = mmap.mmap(fd, size)
        self.clear()

    def clear(self) -> None:
        """Say that no step has begun."""
        _HEAD.pack_into(self._memory, 0, _NO_STEP, 0)

    def write(self, step: int, words: str = "") -> None:
        """Say that a step begins."""
        if not words:
            _HEAD.pack_into(self._memory, 0, step, 0)
            return
        text = words.encode("utf-8", "backslashreplace")[:_WORDS_BYTES]
        self._memory[_HEAD.size : _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._memory, 0, step, len(text))

    def read(self) -> tuple[int, str] | None:
        """Return the step that has begun last and the words for it, None if there was none."""
        step, size = _HEAD.unpack_from(self._memory)
        if step < 0:
            return None
        return step, self._memory[_HEAD.size : _HEAD.size + size].decode("utf-8", "replace")


class _Running:
    """The call that runs in this process, as far as its steps go: one at a time."""

    board: Board | None = None  # None outside workers, and where one runs several calls at once
    suspect: int | None = None


_running = _Running()


def nameless_file() -> int:
    """Return the descriptor of a new file that is gone once no process has it open."""
    fd, path = tempfile.mkstemp(prefix="flash-")
    os.unlink(path)
    return fd


def open_board(fd: int) -> None:
    """Let the calls of this process say how far they are, on the board of its parent."""
    _running.board = Board(fd)


def begin_call(suspect: int | None = None) -> None:
    """Note that another call begins, of which `suspect` is the step in which its process died before."""
    if _running.board is not None:
        _running.suspect = suspect
        _running.board.clear()


def note_step(number: int, words: str = "") -> None:
    """Say, inside a call that runs on a worker, that its step `number` begins; for calls that do several things.

    If its process dies from here on (it is killed, crashes, or runs out of memory), the call is made again, in another
    process and twice at most, where `suspected_step` tells the step. A call that loses a process for the third time is
    `WorkerLost`, with `step` and `words`. Does nothing elsewhere, and where a worker runs several calls at once.

    Args:
        number: From 0.
        words: What the step does, for the message; 400 bytes at most.
    """
    if _running.board is not None:
        _running.board.write(number, words)


def suspected_step() -> int | None:
    """Return the step in which an earlier process of this call died, None if none did.

    Whoever can had better do it first: if it is to blame, what else the call does is not done over and over.
    """
    return _running.suspect
