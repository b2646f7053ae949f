# SPDX-License-Identifier: Apache-2.0
"""joblib's backends, 2 workers each and warm: the grid search of the example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ..children import ChildFailed, run_json
from ..contestants import DASK, FLASH, LOKY, Contestant
from ..environments import EnvironmentUnavailable
from ..figures import Figure
from ..sizes import Sizes

__all__ = ["measure"]

#: Name in the report, backend, environment.
BACKENDS: Final[tuple[tuple[str, str, Contestant], ...]] = (
    (FLASH.name, "flash", FLASH),
    ("loky", "loky", LOKY),
    ("threading", "threading", LOKY),
    ("Dask", "dask", DASK),
)


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield the wall time for each backend. Tasks that do nothing are in `tasks`."""
    what = f"joblib, grid search of {5 * sizes.candidates} fits"
    scores: dict[str, str] = {}
    for name, backend, who in BACKENDS:
        done, error = _run(who, "grid_search.py", backend, sizes.repeats, sizes.candidates)
        if done:
            scores[name] = done["best_score"]
            if scores[name] != next(iter(scores.values())):
                error = f"its best score {scores[name]} differs"
        yield Figure(what, name, "s", tuple(done["seconds"] if done else ()), note=error)


def _run(who: Contestant, program: str, *args: object) -> tuple[Any, str]:  # Any: JSON
    try:
        return run_json(who.python(), program, *args), ""
    except (ChildFailed, EnvironmentUnavailable) as error:
        return None, str(error)
