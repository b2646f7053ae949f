# SPDX-License-Identifier: Apache-2.0
"""Where the logs of workers are, and when they had which length: the files themselves hold no times."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection
from pathlib import Path

__all__ = ["LogBook"]

#: Lengths that are kept for one log; beyond that every second one is dropped, and times become coarser.
_MARKS_MAX = 2_000


class LogBook:
    """The lengths of growing logs over time, as often as `note` is called. Belongs to one event loop.

    Args:
        path_of: Returns where the log of a worker is.
    """

    def __init__(self, path_of: Callable[[str], Path]) -> None:
        self.path_of = path_of
        self._marks: dict[str, list[tuple[float, int]]] = {}

    def note(self, worker_ids: Collection[str], wall_s: float) -> None:
        """Note how long the logs of these workers are at this time; those of all others are forgotten."""
        self._marks = {worker_id: marks for worker_id, marks in self._marks.items() if worker_id in worker_ids}
        for worker_id in worker_ids:
            try:
                length = self.path_of(worker_id).stat().st_size
            except OSError:  # not there yet
                continue
            marks = self._marks.setdefault(worker_id, [])
            if marks and length < marks[-1][1]:  # it was cut: see the guardian
                marks.clear()
            if length > (marks[-1][1] if marks else 0):
                marks.append((wall_s, length))
            if len(marks) > _MARKS_MAX:
                del marks[1::2]

    def position_at(self, worker_id: str, wall_s: float) -> int:
        """Return how long the log was at a time: what is behind that is newer."""
        marks = self._marks.get(worker_id, [])
        place = bisect.bisect_right(marks, wall_s, key=lambda mark: mark[0])
        return marks[place - 1][1] if place else 0

    def time_of(self, worker_id: str, position: int) -> float | None:
        """Return when the log was first seen to reach a position, seconds since 1970; None if it was not yet."""
        marks = self._marks.get(worker_id, [])
        place = bisect.bisect_left(marks, position, key=lambda mark: mark[1])
        return marks[place][0] if place < len(marks) else None
