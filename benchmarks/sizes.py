# SPDX-License-Identifier: Apache-2.0
"""How much of everything is measured: in full, or quickly to see that the scripts work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FULL", "QUICK", "Sizes"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of repeats and sizes of the work.

    Attributes:
        repeats: Of every row that is not counted otherwise.
        calls: Calls one after another, per repeat.
        mapped: Calls through `map`, per repeat.
        starts: Fresh processes per script.
        imports: Fresh processes per import.
        in_flight: Calls that wait at once.
        hold_s: Seconds for which they are watched; longer than the platform holds a request (8 s).
        noops: Tasks of the joblib row.
        candidates: Parameter sets of the grid search; 5 fits each.
    """

    repeats: int = 5
    calls: int = 1_000
    mapped: int = 2_000
    starts: int = 7
    imports: int = 15
    in_flight: int = 1_000
    hold_s: float = 12.0
    noops: int = 10_000
    candidates: int = 36


FULL: Final = Sizes()
QUICK: Final = Sizes(
    repeats=2, calls=100, mapped=200, starts=2, imports=3, in_flight=300, hold_s=4.0, noops=500, candidates=4
)
