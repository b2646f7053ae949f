# SPDX-License-Identifier: Apache-2.0
"""No-op calls with two warm workers: `calls.py CONTESTANT REPEATS CALLS MAPPED`. Prints JSON.

Runs in the contestant's own environment, so it imports nothing of the benchmarks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from pools import pool  # type: ignore[import-not-found]

#: Calls before the first measurement.
WARM_UP = 200


def noop(x: int) -> int:
    return x


def timed_calls(one: Callable[[int], int], calls: int) -> list[float]:
    """Return the milliseconds of each of `calls` calls, one after another."""
    taken = []
    for x in range(calls):
        began = time.perf_counter()
        assert one(x) == x
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


def timed_map(many: Callable[[Any], list[int]], calls: int) -> float:
    """Return the seconds that `calls` calls take together."""
    began = time.perf_counter()
    results = many(range(calls))
    seconds = time.perf_counter() - began
    assert results == list(range(calls))
    return seconds


def main() -> None:
    repeats, calls, mapped = map(int, sys.argv[2:])
    with pool(sys.argv[1]) as workers:
        one, many = workers.one(noop), workers.many(noop)
        many(range(WARM_UP))
        timed_calls(one, WARM_UP)
        single_ms = [timed_calls(one, calls) for _ in range(repeats)]
        many(range(WARM_UP))
        map_s = [timed_map(many, mapped) for _ in range(repeats)]
    print(json.dumps({"single_ms": single_ms, "map_s": map_s}))


if __name__ == "__main__":
    main()
