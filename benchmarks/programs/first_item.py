# SPDX-License-Identifier: Apache-2.0
"""The first item of a generator, workers being warm: `first_item.py BACKEND REPEATS`. Prints JSON: seconds of each."""

from __future__ import annotations

import json
import sys
import time

from backends import backend  # type: ignore[import-not-found]
from joblib import Parallel, delayed


def nap(x: int) -> int:
    time.sleep(0.01)
    return x


def first_item_s(tasks: int = 100) -> float:
    """Return the seconds from the call to its first item; the others are waited for, but do not count."""
    began = time.perf_counter()
    items = Parallel(return_as="generator")(delayed(nap)(x) for x in range(tasks))
    next(items)
    seconds = time.perf_counter() - began
    assert len(list(items)) == tasks - 1
    return seconds


def main() -> None:
    repeats = int(sys.argv[2])
    with backend(sys.argv[1]):
        Parallel()(delayed(nap)(x) for x in range(20))  # starts the workers
        print(json.dumps([first_item_s() for _ in range(repeats)]))


if __name__ == "__main__":
    main()
