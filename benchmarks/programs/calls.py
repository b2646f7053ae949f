# SPDX-License-Identifier: Apache-2.0
"""No-op calls with two warm workers: `calls.py CONTESTANT REPEATS CALLS MAPPED`. Prints JSON.

Runs in the contestant's own environment, so it imports nothing of the benchmarks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

#: One call and its result; many calls and their results.
Ways = tuple[Callable[[int], int], Callable[[int], list[int]]]

#: Calls before the first measurement.
WARM_UP = 200


def noop(x: int) -> int:
    return x


@contextmanager
def flash() -> Iterator[Ways]:
    from flash_plugins import Endpoint

    remote = Endpoint(name="noop", cpu="cpu5c-4-8", workers=(2, 2))(noop)
    processes: set[int | None] = set()
    while len(processes) < 2:  # both workers have started
        calls = [remote(x) for x in range(20)]
        processes |= {call.worker_pid for call in calls if call.result() >= 0}
    yield lambda x: remote(x).result(), lambda n: list(remote.map(range(n)))


@contextmanager
def ray() -> Iterator[Ways]:
    import ray  # type: ignore[import-not-found, unused-ignore]

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    remote = ray.remote(noop)
    yield lambda x: ray.get(remote.remote(x)), lambda n: ray.get([remote.remote(x) for x in range(n)])
    ray.shutdown()


@contextmanager
def dask() -> Iterator[Ways]:
    from dask.distributed import Client, LocalCluster  # type: ignore[import-not-found, unused-ignore]

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        # pure=False: Dask would otherwise answer a repeated call from memory.
        yield (
            lambda x: client.submit(noop, x, pure=False).result(),
            lambda n: client.gather(client.map(noop, range(n), pure=False)),
        )


@contextmanager
def loky() -> Iterator[Ways]:
    from loky import get_reusable_executor  # type: ignore[import-not-found, unused-ignore]

    executor = get_reusable_executor(max_workers=2, timeout=600)
    yield lambda x: executor.submit(noop, x).result(), lambda n: list(executor.map(noop, range(n), chunksize=1))
    executor.shutdown()


def timed_calls(one: Callable[[int], int], calls: int) -> list[float]:
    """Return the milliseconds of each of `calls` calls, one after another."""
    taken = []
    for x in range(calls):
        began = time.perf_counter()
        assert one(x) == x
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


def timed_map(many: Callable[[int], list[int]], calls: int) -> float:
    """Return the seconds that `calls` calls take together."""
    began = time.perf_counter()
    results = many(calls)
    seconds = time.perf_counter() - began
    assert results == list(range(calls))
    return seconds


def main() -> None:
    contestants: dict[str, Callable[[], AbstractContextManager[Ways]]]
    contestants = {"flash": flash, "ray": ray, "dask": dask, "loky": loky}
    repeats, calls, mapped = map(int, sys.argv[2:])
    with contestants[sys.argv[1]]() as (one, many):
        many(WARM_UP)
        timed_calls(one, WARM_UP)
        single_ms = [timed_calls(one, calls) for _ in range(repeats)]
        many(WARM_UP)
        map_s = [timed_map(many, mapped) for _ in range(repeats)]
    print(json.dumps({"single_ms": single_ms, "map_s": map_s}))


if __name__ == "__main__":
    main()
