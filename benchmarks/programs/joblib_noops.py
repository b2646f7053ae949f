# SPDX-License-Identifier: Apache-2.0
"""joblib with tasks that do nothing: `joblib_noops.py BACKEND REPEATS TASKS`. Prints the seconds of each as JSON."""

from __future__ import annotations

import json
import sys
import time

from backends import backend  # type: ignore[import-not-found]
from joblib import Parallel, delayed


def noop(x: int) -> int:
    return x


def run(tasks: int) -> float:
    """Return the seconds that `tasks` tasks take."""
    began = time.perf_counter()
    results = Parallel()(delayed(noop)(x) for x in range(tasks))
    seconds = time.perf_counter() - began
    assert results == list(range(tasks))
    return seconds


def main() -> None:
    name, repeats, tasks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with backend(name):
        run(min(tasks, 1_000))  # starts the workers
        seconds = [run(tasks) for _ in range(repeats)]
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
