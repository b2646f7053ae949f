# SPDX-License-Identifier: Apache-2.0
"""An array of megabytes as argument and as result: `arrays.py CONTESTANT REPEATS MEGABYTES`. Prints JSON.

No two arrays are equal, every page of each is read where it arrives, and what a worker returns was there before.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from pools import pool  # type: ignore[import-not-found]

#: A number of 8 bytes out of each page.
PAGES = slice(None, None, 512)


def taken(array: Any) -> float:
    """Read an array that was sent: every page of it."""
    return float(array[PAGES].sum())


def given(change: tuple[int, float]) -> Any:
    """Return an array of so many numbers, the first as asked; made once in a process."""
    size, first = change
    array = getattr(np, "_benchmark_array", None)
    if array is None or len(array) != size:
        array = np.random.default_rng(3).random(size)
        np._benchmark_array = array  # type: ignore[attr-defined]
    array[0] = first
    return array


def main() -> None:
    repeats, megabytes = map(int, sys.argv[2:])
    size = megabytes * 125_000
    array = np.random.default_rng(5).random(size)
    argument_s, result_s = [], []
    with pool(sys.argv[1]) as workers:
        take, give = workers.one(taken), workers.one(given)
        for turn in range(-4, repeats):  # both workers have an array of their own before it counts
            array[0] = float(turn)
            began = time.perf_counter()
            total = take(array)
            between = time.perf_counter()
            result = give((size, float(turn)))
            taken(result)
            ended = time.perf_counter()
            assert total == taken(array)
            assert (len(result), result[0]) == (size, turn)
            del result
            if turn >= 0:
                argument_s.append(between - began)
                result_s.append(ended - between)
    print(json.dumps({"argument_s": argument_s, "result_s": result_s}))


if __name__ == "__main__":
    main()
