# SPDX-License-Identifier: Apache-2.0
"""Tasks that do nothing, and tasks of 5 ms: `short_tasks.py CONTESTANT REPEATS NOOPS SHORT`. Prints JSON.

CONTESTANT is one of `pools`, a task each, or `joblib-` and one of `backends`, tasks as joblib makes them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

#: Calls a function for each value, and returns the results in order.
Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]


def noop(x: int) -> int:
    return x


def asleep(x: int) -> int:
    time.sleep(0.005)
    return x


def busy(x: int) -> int:
    """Compute for 5 ms of the processor's time."""
    ends_at = time.thread_time() + 0.005
    while time.thread_time() < ends_at:
        pass
    return x


@contextmanager
def mapper(contestant: str) -> Iterator[Mapper]:
    """Yield the way of a contestant to run tasks."""
    if contestant.startswith("joblib-"):
        from backends import backend  # type: ignore[import-not-found]
        from joblib import Parallel, delayed

        with backend(contestant.removeprefix("joblib-")):
            yield lambda function, values: Parallel()(delayed(function)(x) for x in values)
        return
    from pools import pool  # type: ignore[import-not-found]

    with pool(contestant) as workers:
        yield lambda function, values: workers.many(function)(values)


def timed(run: Mapper, function: Callable[[int], int], tasks: int) -> float:
    """Return the seconds of so many tasks."""
    began = time.perf_counter()
    results = run(function, range(tasks))
    seconds = time.perf_counter() - began
    assert results == list(range(tasks))
    return seconds


def main() -> None:
    repeats, noops, short = map(int, sys.argv[2:])
    found: dict[str, list[float]] = {"noop": [], "asleep": [], "busy": []}
    with mapper(sys.argv[1]) as run:
        for function, tasks in ((noop, noops), (asleep, short), (busy, short)):
            timed(run, function, min(tasks, 1_000))  # starts the workers, which get the function
            found[function.__name__] = [timed(run, function, tasks) for _ in range(repeats)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
