# SPDX-License-Identifier: Apache-2.0
"""What an import costs: wall time of `python -c "import x"` beyond `python -c pass` in the same environment."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..children import ChildFailed, wall_s
from ..contestants import DASK, FLASH, LOKY, RAY, RUNPOD_FLASH, Contestant
from ..environments import EnvironmentUnavailable
from ..figures import Bar, Figure
from ..sizes import Sizes

__all__ = ["measure"]

BARE: Final = "pass"

PACKAGE: Final = "import of the package alone"
READY: Final = "import of what a program needs to begin"

#: Line of the table, whose environment, statement, bar in ms. `runpod_flash` loads nothing before the first use of
#: a name, as ours does, so both statements are measured for both.
STATEMENTS: Final[tuple[tuple[str, Contestant, str, float | None], ...]] = (
    (PACKAGE, FLASH, "import flash_plugins", 30),
    (PACKAGE, RUNPOD_FLASH, "import runpod_flash", None),
    (READY, FLASH, "from flash_plugins import Endpoint", 250),
    (READY, RUNPOD_FLASH, "from runpod_flash import Endpoint", None),
    (READY, RAY, "import ray", None),
    (READY, DASK, "import dask.distributed", None),
    (READY, LOKY, "import joblib", None),
)


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield the milliseconds of each import, bytecode compiled, files in the page cache."""
    for what, who, statement, bar_ms in STATEMENTS:
        bar = Bar(bar_ms) if bar_ms else None
        try:
            values = _beyond_bare(who.python(), statement, sizes.imports)
        except (ChildFailed, EnvironmentUnavailable) as error:
            yield Figure(what, who.name, "ms", (), note=str(error))
        else:
            yield Figure(what, who.name, "ms", values, bar, f"`{statement}`")


def _beyond_bare(python: Path, statement: str, rounds: int) -> tuple[float, ...]:
    bare_s, full_s = [], []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for turn in range(rounds + 1):
            bare = wall_s([str(python), "-c", BARE], Path(folder))
            full = wall_s([str(python), "-c", statement], Path(folder))
            if turn:  # the first one reads files from disk and compiles
                bare_s.append(bare)
                full_s.append(full)
    base_s = statistics.median(bare_s)
    return tuple((seconds - base_s) * 1e3 for seconds in full_s)
