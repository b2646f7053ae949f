# SPDX-License-Identifier: Apache-2.0
"""Progress in a log: a line now and then, less often the longer it takes."""

from __future__ import annotations

from typing import Final, TextIO

from .tally import Snapshot
from .text import line_of

__all__ = ["LogLines", "takes_only_ascii"]

#: Seconds until the first line and the second; each further pause is twice as long, up to the last.
_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 60.0


class LogLines:
    """Writes lines to a stream that keeps them."""

    def __init__(self, out: TextIO) -> None:
        self._out: TextIO | None = out
        self._pause_s = _FIRST_PAUSE_S
        self.shows_rest = False
        self.first_after_s = _FIRST_PAUSE_S

    def show(self, snapshot: Snapshot) -> float:
        """Write a line; returns after how many seconds the next is due."""
        self._write(snapshot)
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return pause_s

    def give_way(self) -> None:
        """Nothing is in the way of anybody."""

    def end(self, snapshot: Snapshot | None) -> None:
        """Write the last line, if there is one."""
        if snapshot is not None:
            self._write(snapshot)

    def forget(self) -> None:
        """Write nothing more: this is a forked child."""
        self._out = None

    def _write(self, snapshot: Snapshot) -> None:
        if self._out is None:
            return
        try:
            self._out.write(f"flash-plugins: {line_of(snapshot, is_ascii=takes_only_ascii(self._out))}\n")
            self._out.flush()
        except (OSError, ValueError):  # closed: nobody reads it
            self._out = None


def takes_only_ascii(out: TextIO) -> bool:
    """Return whether a stream has no letters for what is beyond ASCII in a line."""
    try:
        " · …".encode(out.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return True
    return False
