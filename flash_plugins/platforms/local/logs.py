# SPDX-License-Identifier: Apache-2.0
"""A worker's log as Server-Sent Events: what is there, then what comes. It never changes the file.

Shape: Runpod's REST v2 description (2026-08). Lines carry the time at which they were seen, to the second: the file
has none (see `logbook`). An event's id ends in the position behind its line, which is where a reconnect goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from .clock import Clock
from .logbook import LogBook
from .registry import timestamp
from .wire import dump

__all__ = ["LOG_TAIL_DEFAULT", "LOG_TAIL_MAX", "follow_log"]

#: Lines shown of what is there already: default and most.
LOG_TAIL_DEFAULT = 100
LOG_TAIL_MAX = 5_000
#: How often the file is looked at, and how often an idle reader gets a comment line, seconds.
_LOOK_S = 0.25
_HEARTBEAT_S = 15.0
_READ_MAX_BYTES = 1_000_000


async def follow_log(
    book: LogBook,
    worker_id: str,
    *,
    tail: int,
    since: float | None,
    position: int | None,
    clock: Clock,
    is_running: Callable[[], bool],
) -> AsyncIterator[bytes]:
    """Yield events until the worker has ended and its log is read.

    Args:
        book: Knows the log.
        worker_id: The worker.
        tail: Lines to start with.
        since: Leave out those that were there before this time, seconds since 1970.
        position: Go on from here instead, as an earlier event's id said.
    """
    path = book.path_of(worker_id)
    if position is None:
        newest = _position_of_tail(path, tail)
        position = newest if since is None else max(newest, book.position_at(worker_id, since))
    quiet_since = clock.monotonic()
    while True:
        is_last_look = not is_running()
        lines, position = _read_lines(path, position, is_last_look)
        now = clock.wall()
        for line, end in lines:
            seen_at = timestamp(book.time_of(worker_id, end) or now)
            event = dump({"source": "container", "line": line, "ts": seen_at})
            yield b"id: %b/%012d\ndata: %b\n\n" % (seen_at.encode(), end, event)
        if is_last_look and not lines:
            return
        if lines:
            quiet_since = clock.monotonic()
            continue
        if clock.monotonic() - quiet_since >= _HEARTBEAT_S:
            quiet_since = clock.monotonic()
            yield b": heartbeat\n\n"
        await asyncio.sleep(_LOOK_S)


def _read_lines(path: Path, position: int, is_last: bool) -> tuple[list[tuple[str, int]], int]:
    """Return complete lines behind `position`, each with where it ends, and where to go on."""
    try:
        with open(path, "rb") as log:
            if position > os.fstat(log.fileno()).st_size:  # it was cut: see the guardian
                position = 0
            log.seek(position)
            read = log.read(_READ_MAX_BYTES)
    except FileNotFoundError:
        return [], position
    lines = []
    for raw in read.splitlines(keepends=True):
        if not raw.endswith(b"\n") and not is_last and len(raw) < _READ_MAX_BYTES:
            break
        position += len(raw)
        lines.append((raw.decode("utf-8", "replace").rstrip("\r\n"), position))
    return lines, position


def _position_of_tail(path: Path, lines: int) -> int:
    try:
        read = path.read_bytes()  # at most what the guardian lets a log grow to
    except FileNotFoundError:
        return 0
    position = len(read)
    if lines == 0:
        return position
    if read.endswith(b"\n"):
        position -= 1
    for _ in range(lines):
        position = read.rfind(b"\n", 0, position)
        if position < 0:
            return 0
    return position + 1
