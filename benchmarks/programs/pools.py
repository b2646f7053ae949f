# SPDX-License-Identifier: Apache-2.0
"""Two warm workers of each contestant, under one face, for the programs here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

#: Any function of one argument.
Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Pool:
    """What a contestant does with a function.

    Attributes:
        one: Returns what calls it on a worker and waits for the value.
        many: Returns what calls it for each value of an iterable, a task each, and returns the values in order.
    """

    one: Callable[[Function], Function]
    many: Callable[[Function], Callable[[Iterable[Any]], list[Any]]]


def pool(contestant: str) -> AbstractContextManager[Pool]:
    """Return the pool of a contestant, by its key."""
    pools: dict[str, Callable[[], AbstractContextManager[Pool]]]
    pools = {"flash": _flash, "flash-direct": _flash_direct, "ray": _ray, "dask": _dask, "loky": _loky}
    return pools[contestant]()


def _nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@contextmanager
def _flash(**options: Any) -> Iterator[Pool]:
    from flash_plugins import Endpoint

    endpoint = Endpoint(name="bench", cpu="cpu5c-4-8", workers=(2, 2), **options)
    nap, processes = endpoint(_nap), set[int]()
    while len(processes) < 2:  # both workers have started
        processes |= {call.result() for call in [nap(0.05) for _ in range(8)]}

    def one(function: Function) -> Function:
        remote = endpoint(function)
        return lambda x: remote(x).result()

    def many(function: Function) -> Callable[[Iterable[Any]], list[Any]]:
        remote = endpoint(function)
        return lambda values: list(remote.map(values))

    yield Pool(one, many)


def _flash_direct() -> AbstractContextManager[Pool]:
    return _flash(transport="load_balanced")


@contextmanager
def _ray() -> Iterator[Pool]:
    import ray  # type: ignore[import-not-found, unused-ignore]

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.get([ray.remote(_nap).remote(0.05) for _ in range(8)])

    def one(function: Function) -> Function:
        remote = ray.remote(function)
        return lambda x: ray.get(remote.remote(x))

    def many(function: Function) -> Callable[[Iterable[Any]], list[Any]]:
        remote = ray.remote(function)
        return lambda values: ray.get([remote.remote(x) for x in values])  # type: ignore[no-any-return, unused-ignore]

    yield Pool(one, many)
    ray.shutdown()


@contextmanager
def _dask() -> Iterator[Pool]:
    from dask.distributed import Client, LocalCluster  # type: ignore[import-not-found, unused-ignore]

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        # pure=False: Dask would otherwise answer a repeated call from memory.
        yield Pool(
            lambda function: lambda x: client.submit(function, x, pure=False).result(),
            lambda function: lambda values: client.gather(client.map(function, list(values), pure=False)),
        )


@contextmanager
def _loky() -> Iterator[Pool]:
    from loky import get_reusable_executor  # type: ignore[import-not-found, unused-ignore]

    executor = get_reusable_executor(max_workers=2, timeout=600)
    list(executor.map(_nap, [0.05] * 8, chunksize=1))
    yield Pool(
        lambda function: lambda x: executor.submit(function, x).result(),
        lambda function: lambda values: list(executor.map(function, values, chunksize=1)),
    )
    executor.shutdown()
