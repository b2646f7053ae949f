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
        large_runs: Fresh processes of the grid search over a large array, and of the closure over one.
        large_samples: Rows of that array; 2,000 bytes each.
        large_candidates: Parameter sets of that search; 5 fits each.
        megabytes: Of the array that is an argument and a result.
        short: Tasks of 5 ms.
        many: Tasks of the generator that has no end.
        interrupts: Programs that get Ctrl-C.
        contents: Contents of 1 MB that go into a bucket.
        far_workers: Workers on the simulated Runpod.
        far_noops: Tasks there that do nothing.
        far_peer_noops: The same for peers, whose workers do one a second.
        far_runs: Repeats of those tasks.
        far_tasks: Tasks there of log-normal length.
        far_balances: Their medians, seconds, and how many times with other lengths; peers once.
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
    large_runs: int = 3
    large_samples: int = 50_000
    large_candidates: int = 40
    megabytes: int = 100
    short: int = 200
    many: int = 1_000_000
    interrupts: int = 3
    contents: int = 100
    far_workers: int = 10
    far_noops: int = 10_000
    far_peer_noops: int = 100
    far_runs: int = 3
    far_tasks: int = 200
    far_balances: tuple[tuple[float, int], ...] = ((0.3, 5), (3.0, 1))


FULL: Final = Sizes()
QUICK: Final = Sizes(
    repeats=2, calls=100, mapped=200, starts=2, imports=3, in_flight=300, hold_s=4.0, noops=500, candidates=4,
    large_runs=1, large_samples=5_000, large_candidates=4, megabytes=8, short=40, many=5_000, interrupts=1, contents=10,
    far_workers=2, far_noops=500, far_peer_noops=10, far_runs=1, far_tasks=10, far_balances=((0.1, 1), (0.3, 1)),
)  # fmt: skip
