# SPDX-License-Identifier: Apache-2.0
"""Progress on a terminal: one line that is rewritten, and is out of the way of whatever else is written there.

While there may be a line, `sys.stdout` and `sys.stderr` are stood for by guards, as far as they are that terminal: what
is written clears the line first, and the line comes back below. Nothing else is seen to; a child process, say, writes
over it.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO, cast

from .log import takes_only_ascii
from .tally import Snapshot
from .text import line_of

__all__ = ["TerminalLine", "is_terminal"]

#: Seconds between two updates.
_INTERVAL_S: Final = 0.2
#: Back to the first column, and clear the line.
_CLEAR: Final = "\r\x1b[2K"
#: Columns where nobody knows.
_COLUMNS: Final = 80
#: Modules whose code waits for what the user types at a prompt.
_PROMPTS: Final = ("cmd", "prompt_toolkit", "_pyrepl")


def is_terminal(out: TextIO) -> bool:
    """Return whether a line on it can be rewritten."""
    # One that rich stands for has a display on it already.
    return not out.closed and out.isatty() and not type(out).__module__.startswith("rich.")


class TerminalLine:
    """The line. Any thread."""

    def __init__(self, out: TextIO) -> None:
        given: Any = out
        self._out: TextIO | None = given._stream if isinstance(given, _Guard) else out
        self._lock = threading.RLock()  # a signal handler or a finalizer may write amid a write
        self._is_drawn = False
        self._is_amid_line = False  # somebody else's line is not at its end
        self._guards: list[_Guard] = []
        self._handlers: list[tuple[logging.StreamHandler[Any], TextIO]] = []
        self.shows_rest = False
        self.first_after_s = 0.0

    def show(self, snapshot: Snapshot) -> float:
        """Draw the line, unless the place is taken; returns after how many seconds it is due again."""
        self._guard()
        with self._lock:
            if self._is_amid_line or has_other_bar() or is_at_prompt():
                self._clear()
            elif self._out is not None and not _is_in_background(self._out):
                is_ascii = takes_only_ascii(self._out)
                text = line_of(snapshot, columns=_columns_of(self._out) - 1, is_ascii=is_ascii)
                self._is_drawn = self._write(f"{_CLEAR}{text}")
        return _INTERVAL_S

    def give_way(self) -> None:
        """Clear the line now, unless that takes time: the terminal may be stopped."""
        if self._is_drawn and _takes_more(self._out) and self._lock.acquire(blocking=False):
            try:
                self._clear()
            finally:
                self._lock.release()

    def end(self, snapshot: Snapshot | None) -> None:
        """Leave the last counts as a line of its own, or nothing."""
        with self._lock:
            self._clear()
            if snapshot is not None and self._out is not None and not self._is_amid_line and not is_at_prompt():
                self._write(f"flash-plugins: {line_of(snapshot, is_ascii=takes_only_ascii(self._out))}\n")
        self._unguard()

    def forget(self) -> None:
        """Write nothing more: this is a forked child, and whoever holds the lock does not exist here."""
        self._lock = threading.RLock()
        self._out, self._is_drawn = None, False
        self._unguard()

    @contextmanager
    def cleared(self, text: str = "") -> Iterator[None]:
        """Let somebody else write `text`."""
        with self._lock:
            self._clear()
            yield
            if text:
                self._is_amid_line = not text.endswith("\n")

    def _clear(self) -> None:
        if self._is_drawn:
            self._is_drawn = False
            self._write(_CLEAR)

    def _write(self, text: str) -> bool:
        if self._out is None:
            return False
        try:
            self._out.write(text)
            self._out.flush()
        except (OSError, ValueError):  # closed meanwhile
            self._out = None
        return self._out is not None

    def _guard(self) -> None:
        """Stand before whatever else writes to the terminal by Python's own streams."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, _Guard):
                if stream._line is None:
                    stream._line = self
                    self._guards.append(stream)
                continue
            if stream is None or not is_terminal(stream):
                continue
            guard = _Guard(stream, name, self)
            self._guards.append(guard)
            setattr(sys, name, guard)
            for handler in logging.getLogger().handlers:  # one keeps the stream that there was when it was made
                if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                    handler.setStream(cast(Any, guard))
                    self._handlers.append((handler, stream))

    def _unguard(self) -> None:
        for guard in self._guards:
            guard._line = None  # whoever keeps it writes through it from here on
            if getattr(sys, guard._name) is guard:
                setattr(sys, guard._name, guard._stream)
        for handler, stream in self._handlers:
            if isinstance(handler.stream, _Guard):
                handler.setStream(stream)
        self._guards, self._handlers = [], []


class _Guard:
    """Stands for a stream, and clears the line before anything is written to it."""

    def __init__(self, stream: TextIO, name: str, line: TerminalLine) -> None:
        self._stream = stream
        self._name = name
        self._line: TerminalLine | None = line

    def write(self, text: str) -> int:
        line = self._line
        if line is None:
            return self._stream.write(text)
        with line.cleared(text):
            return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for text in lines:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer" and self._line is not None:  # whoever asks for it will write there
            with self._line.cleared():
                pass
        return getattr(self._stream, name)

    def __reduce__(self) -> Any:
        return getattr, (sys, self._name)

    def __repr__(self) -> str:
        return repr(self._stream)


def has_other_bar() -> bool:
    """Return whether the user has a bar of tqdm's, which is rewritten in the same place."""
    bar_class = getattr(sys.modules.get("tqdm"), "tqdm", None)
    try:
        return any(not getattr(bar, "disable", True) for bar in list(getattr(bar_class, "_instances", ())))
    except RuntimeError:  # one is made or ends just now
        return True


def is_at_prompt() -> bool:
    """Return whether this is an interactive session whose user may be typing."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:  # the main thread waits in C, as it does at the prompt
        return hasattr(sys, "ps1")
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _PROMPTS:
            return True
        frame = frame.f_back
    return False


def _is_in_background(out: TextIO) -> bool:
    """Return whether the terminal is another program's now, as of one that was started with `&`."""
    try:
        return os.tcgetpgrp(out.fileno()) != os.getpgrp()
    except (AttributeError, OSError, ValueError):  # Windows; no terminal that controls this process
        return False


def _columns_of(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


def _takes_more(out: TextIO | None) -> bool:
    """Return whether writing to a terminal does not wait, as it does after Ctrl-S."""
    if out is None:
        return False
    try:
        return bool(select.select([], [out.fileno()], [], 0)[1])
    except (OSError, ValueError):  # it has no number, or is none that can be asked
        return True
