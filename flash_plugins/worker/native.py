# SPDX-License-Identifier: Apache-2.0
"""What goes to standard output around Python's own stream: C libraries, subprocesses, `os.write(1, …)`.

    C code, children ─▶ descriptor 1 = a file ──▶ copied to the worker's log: once a second, and when a call ends
                                              └─▶ taken by the recorder of the running call

A file, since a full pipe would block who writes, and since nobody has to read for it to be there. Standard error stays
as it is: what a process says as it crashes must reach the log without its help.
"""

from __future__ import annotations

import codecs
import fcntl
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from ..steps import nameless_file

__all__ = ["NativeOutput"]

#: Seconds between two looks of the thread that keeps the log up to date; the shorter one while much comes.
_PAUSE_S = 1.0
_SHORT_PAUSE_S = 0.1
#: Bytes read at once, and those after which the file starts anew.
_CHUNK_BYTES = 1_048_576
_FILE_BYTES = 16_000_000
#: Characters kept for the call that runs; the log has the rest.
_KEPT_CHARACTERS = 600_000


class NativeOutput:
    """Descriptor 1 of this process, redirected. Thread-safe; of no use in a forked child.

    Attributes:
        log: Where it led before, for what Python's own stream writes.
    """

    def __init__(self, stdout: io.TextIOWrapper) -> None:
        stdout.flush()
        self._log_fd = os.dup(1)
        buffering = 0 if stdout.write_through else -1
        binary = os.fdopen(os.dup(self._log_fd), "wb", buffering)
        self.log: TextIO = io.TextIOWrapper(
            binary, encoding=stdout.encoding, errors="backslashreplace", write_through=stdout.write_through
        )
        self._fd = nameless_file()
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) | os.O_APPEND)
        os.dup2(self._fd, 1)
        self._position = 0
        self._lock = threading.RLock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._kept: list[str] = []
        self._kept_characters = 0
        self._flush_c: Callable[[None], object] | None = None
        threading.Thread(target=self._keep_log, name="flash-native-output", daemon=True).start()

    @property
    def has_some(self) -> bool:
        """Whether there may be something to take."""
        return bool(self._kept) or self._size() != self._position

    def take(self) -> str:
        """Return what was written since this was called last, after it is in the log."""
        with self._lock:
            self._copy()
            text, self._kept, self._kept_characters = "".join(self._kept), [], 0
        return text

    def flush(self) -> None:
        """Have C libraries and the original stream write what they hold back."""
        if sys.__stdout__ is not None:
            sys.__stdout__.flush()
        if self._flush_c is None and "ctypes" in sys.modules:  # loaded by whatever calls C; loading it takes 10 ms
            import ctypes

            self._flush_c = ctypes.PyDLL(None).fflush
        if self._flush_c is not None:
            self._flush_c(None)

    def _size(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)  # a sixth of what `fstat` takes; writes are appended in any case

    def _copy(self) -> int:
        copied = 0
        if self._size() < self._position:  # a shell's `> /dev/stdout` cuts what is a file
            self._position = 0
        while chunk := os.pread(self._fd, _CHUNK_BYTES, self._position):
            self._position += len(chunk)
            copied += len(chunk)
            text = self._decoder.decode(chunk)
            if self._kept_characters < _KEPT_CHARACTERS:
                self._kept.append(text)
                self._kept_characters += len(text)
            left = memoryview(chunk)
            while left:
                left = left[os.write(self._log_fd, left) :]
        if self._position > _FILE_BYTES:
            os.ftruncate(self._fd, 0)
            self._position = 0
        return copied

    def _keep_log(self) -> None:
        pause_s = _PAUSE_S
        while True:
            time.sleep(pause_s)
            with self._lock:
                copied = self._copy() if self._size() != self._position else 0
            pause_s = _SHORT_PAUSE_S if copied >= _CHUNK_BYTES else _PAUSE_S
