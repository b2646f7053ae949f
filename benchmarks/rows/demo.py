# SPDX-License-Identifier: Apache-2.0
"""The example's grid search in a fresh process: how soon workers begin, and how soon the first batch is back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..children import ChildFailed, run_json
from ..contestants import FLASH, LOKY, Contestant
from ..environments import EnvironmentUnavailable
from ..figures import Bar, Figure
from ..sizes import Sizes

__all__ = ["measure"]

STARTED = "demo: process start to first task started"
DONE = "demo: process start to first batch done"


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield both, for our backend and for loky."""
    for who in (FLASH, LOKY):
        try:
            runs = [_run(who, sizes) for _ in range(sizes.repeats + 1)][1:]  # the first reads from disk and compiles
        except (ChildFailed, EnvironmentUnavailable) as error:
            yield Figure(STARTED, who.name, "s", (), note=str(error))
            continue
        yield Figure(STARTED, who.name, "s", tuple(run[0] for run in runs), Bar(3) if who is FLASH else None)
        yield Figure(DONE, who.name, "s", tuple(run[1] for run in runs))


def _run(who: Contestant, sizes: Sizes) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="bench-") as marks:
        python = who.python()
        began = time.time()  # workers note the time of day: it is the clock that processes share
        run_json(python, "grid_search.py", who.key, 1, sizes.candidates, marks)
        return _first(Path(marks), "started") - began, _first(Path(marks), "done") - began


def _first(marks: Path, what: str) -> float:
    times = [float(path.read_text()) for path in marks.glob(f"{what}-*")]
    if not times:
        raise ChildFailed(f"grid_search.py left no mark of a task {what}")
    return min(times)
