# SPDX-License-Identifier: Apache-2.0
"""joblib's backends, 2 workers each: how soon the first result is there, and the grid search of the example."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from ..children import ChildFailed, run_json, time_to_first_line
from ..contestants import DASK, FLASH, LOKY, RAY, Contestant
from ..environments import EnvironmentUnavailable
from ..figures import Bar, Figure
from ..sizes import Sizes

__all__ = ["measure"]

_BROKEN: Final = (ChildFailed, EnvironmentUnavailable)

#: Name in the report, backend, environment.
BACKENDS: Final[tuple[tuple[str, str, Contestant], ...]] = (
    (FLASH.name, "flash", FLASH),
    ("loky", "loky", LOKY),
    ("threading", "threading", LOKY),
    ("Dask", "dask", DASK),
    ("Ray", "ray", RAY),
)


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield the times of each backend. Tasks that do nothing are in `tasks`, large arrays in `objects`."""
    yield from _first_results(sizes)
    yield from _first_items(sizes)
    yield from _searches(sizes)


def _first_results(sizes: Sizes) -> Iterator[Figure]:
    """Yield the time of a whole script. They take turns, so that a slow minute of the machine hits all."""
    found: dict[str, list[float]] = {name: [] for name, _, _ in BACKENDS}
    broken: dict[str, str] = {}
    for turn in range(sizes.starts + 1):
        for name, backend, who in BACKENDS:
            if name in broken:
                continue
            try:
                first_s, _ = time_to_first_line(who.python(), "first_joblib.py", backend)
            except _BROKEN as error:
                broken[name] = str(error)
                continue
            if turn:  # the first one reads files from disk and compiles
                found[name].append(first_s)
    for name, seconds in found.items():
        note = broken.get(name, "")
        yield _figure("joblib, script start to first results, nothing warm", name, () if note else seconds, 1.5, note)


def _first_items(sizes: Sizes) -> Iterator[Figure]:
    for name, backend, who in BACKENDS:
        seconds, error = _run(who, "first_item.py", backend, sizes.repeats)
        yield _figure("joblib, first item of a generator over 100 tasks of 10 ms", name, seconds or (), 0.2, error)


def _searches(sizes: Sizes) -> Iterator[Figure]:
    what = f"joblib, grid search of {5 * sizes.candidates} fits"
    scores: dict[str, str] = {}
    for name, backend, who in BACKENDS:
        done, error = _run(who, "grid_search.py", backend, sizes.repeats, sizes.candidates)
        if done:
            scores[name] = done["best_score"]
            if scores[name] != next(iter(scores.values())):
                error = f"its best score {scores[name]} differs"
        yield _figure(what, name, done["seconds"] if done else (), None, error)


def _figure(what: str, name: str, seconds: Iterable[float], limit_s: float | None, note: str) -> Figure:
    bar = Bar(limit_s) if limit_s is not None and name == FLASH.name else None
    return Figure(what, name, "s", tuple(seconds), bar, note)


def _run(who: Contestant, program: str, *args: object) -> tuple[Any, str]:  # Any: JSON
    try:
        return run_json(who.python(), program, *args), ""
    except _BROKEN as error:
        return None, str(error)
