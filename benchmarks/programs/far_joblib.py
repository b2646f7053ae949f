# SPDX-License-Identifier: Apache-2.0
"""As `far_map.py`, through joblib: `far_joblib.py WORKERS`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import flash_joblib  # noqa: F401  registers the backend
import joblib
from joblib import Parallel, delayed

WORKERS = int(sys.argv[1]) if len(sys.argv) > 1 else 2
#: Seconds until all workers must have run something: their processes start at once, on however few cores.
WARM_WITHIN_S = 240.0


def noop(x: int) -> int:
    return x


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def process_id(_: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def run(function: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
    """Return the results of a `Parallel` call, in order."""
    return Parallel()(delayed(function)(value) for value in values)  # type: ignore[no-any-return]


def warm_up() -> None:
    ends_at = time.monotonic() + WARM_WITHIN_S
    seen: set[int] = set()
    while len(seen) < WORKERS:
        assert time.monotonic() < ends_at, f"only {len(seen)} of {WORKERS} workers within {WARM_WITHIN_S:g} s"
        seen.update(run(process_id, range(4 * WORKERS)))
    run(noop, range(4 * WORKERS))


def main() -> None:
    with joblib.parallel_config(backend="flash", n_jobs=WORKERS, workers=(WORKERS, WORKERS)):
        warm_up()
        print("warm", flush=True)
        for line in sys.stdin:
            lengths = json.loads(line)
            began = time.perf_counter()
            if None in lengths:
                assert run(noop, range(len(lengths))) == list(range(len(lengths)))
            else:
                assert run(nap, lengths) == lengths
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
