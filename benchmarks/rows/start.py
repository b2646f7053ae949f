# SPDX-License-Identifier: Apache-2.0
"""A whole script, nothing warm: from starting its process to its first result, and to its end."""

from __future__ import annotations

from collections.abc import Iterator

from ..children import ChildFailed, time_to_first_line
from ..contestants import DASK, FLASH, LOKY, RAY, Contestant
from ..environments import EnvironmentUnavailable
from ..figures import Bar, Figure
from ..sizes import Sizes

__all__ = ["measure"]

FIRST = "script start to first result, nothing warm"
END = "script start to its end"


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield both for each contestant. They take turns, so that a slow minute of the machine hits all."""
    firsts: dict[Contestant, list[float]] = {who: [] for who in (FLASH, RAY, DASK, LOKY)}
    ends: dict[Contestant, list[float]] = {who: [] for who in firsts}
    broken: dict[Contestant, str] = {}
    for turn in range(sizes.starts + 1):
        for who in firsts:
            if who in broken:
                continue
            try:
                first_s, end_s = time_to_first_line(who.python(), f"first_{who.key}.py")
            except (ChildFailed, EnvironmentUnavailable) as error:
                broken[who] = str(error)
                continue
            if turn:  # the first one reads files from disk and compiles
                firsts[who].append(first_s)
                ends[who].append(end_s)
    for who in firsts:
        note = broken.get(who, "")
        values = () if note else tuple(firsts[who])
        yield Figure(FIRST, who.name, "s", values, Bar(2.5) if who is FLASH else None, note)
        if not note:
            yield Figure(END, who.name, "s", tuple(ends[who]))
