# SPDX-License-Identifier: Apache-2.0
"""A function that closes over an array of megabytes: `closure.py CONTESTANT CALLS MEGABYTES`. Its parent watches it.

Prints `ready` when two workers are warm and nothing of the array was sent. A line on stdin begins the calls, which
are answered with their seconds. The end of stdin is the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from pools import pool  # type: ignore[import-not-found]


def picker(megabytes: int) -> Callable[[int], float]:
    """Return a function with an array in its closure."""
    array = np.random.default_rng(11).random(megabytes * 125_000)

    def picked(index: int) -> float:
        return float(array[index])

    return picked


def main() -> None:
    calls, megabytes = map(int, sys.argv[2:])
    pick = picker(megabytes)
    with pool(sys.argv[1]) as workers:
        print("ready", flush=True)
        while sys.stdin.readline():
            began = time.perf_counter()
            values = workers.many(pick)(range(calls))
            print(time.perf_counter() - began, flush=True)
            assert values == [pick(index) for index in range(calls)]


if __name__ == "__main__":
    main()
