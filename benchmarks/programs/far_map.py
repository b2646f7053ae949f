# SPDX-License-Identifier: Apache-2.0
"""Tasks on a platform that is far away: `far_map.py WORKERS`. The environment says where it is.

Prints `warm` when all workers have run something; for each line on stdin, a JSON list of lengths in seconds, it runs so
many tasks of these lengths (null: a task that does nothing) and prints the seconds that took.
"""

from __future__ import annotations

import json
import os
import sys
import time

from flash_plugins import Endpoint

WORKERS = int(sys.argv[1]) if len(sys.argv) > 1 else 1
#: Seconds until all workers must have run something: their processes start at once, on however few cores.
WARM_WITHIN_S = 240.0

workers = Endpoint(name="far", cpu="cpu5c-4-8", workers=(WORKERS, WORKERS))


@workers
def noop(x: int) -> int:
    return x


@workers
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@workers
def process_id(_: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def warm_up() -> None:
    ends_at = time.monotonic() + WARM_WITHIN_S
    seen: set[int] = set()
    while len(seen) < WORKERS:
        assert time.monotonic() < ends_at, f"only {len(seen)} of {WORKERS} workers within {WARM_WITHIN_S:g} s"
        seen.update(process_id.map(range(4 * WORKERS)))
    list(noop.map(range(4 * WORKERS)))


def main() -> None:
    warm_up()
    print("warm", flush=True)
    for line in sys.stdin:
        lengths = json.loads(line)
        began = time.perf_counter()
        if None in lengths:
            assert list(noop.map(range(len(lengths)))) == list(range(len(lengths)))
        else:
            assert list(nap.map(lengths)) == lengths
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
