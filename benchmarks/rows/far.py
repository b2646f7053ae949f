# SPDX-License-Identifier: Apache-2.0
"""Tasks on a simulated Runpod: 80 ms away, with its limits, and with workers that take as many jobs as they ask for.

contestant's program ── simulated Runpod (counts requests) ── workers: ours, or the official SDK's at its defaults
"""

from __future__ import annotations

import heapq
import json
import math
import random
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from flash_plugins.errors import FlashPluginsError
from flash_plugins.testing import SimulatedRunpod, simulated_runpod

from ..children import PROGRAMS, ChildFailed, command, expect, said_line, started
from ..contestants import FLASH, RUNPOD_1, RUNPOD_2, RUNPOD_FLASH, Contestant
from ..environments import EnvironmentUnavailable
from ..figures import Bar, Figure
from ..sizes import Sizes

__all__ = ["measure"]

#: Spread of the lengths: the standard deviation of their logarithms.
SIGMA: Final = 1.0

#: Seconds until the official workers must be there, and those between two looks.
_WORKERS_WITHIN_S: Final = 240.0
_LOOK_S: Final = 0.5

_BROKEN: Final = (ChildFailed, EnvironmentUnavailable, FlashPluginsError, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Done:
    """One set of tasks that was run: how long it took, and how many requests its client made."""

    seconds: float
    requests: int


class Contender:
    """A contestant with warm workers."""

    def __init__(self, runpod: SimulatedRunpod, program: subprocess.Popen[str]) -> None:
        self._runpod = runpod
        self._program = program

    def run(self, lengths: Sequence[float | None]) -> Done:
        """Run tasks of these lengths, seconds; None is one that does nothing.

        Raises:
            ChildFailed: Its program ended.
        """
        before = _job_requests(self._runpod.requests())
        assert self._program.stdin is not None
        self._program.stdin.write(json.dumps(list(lengths)) + "\n")
        self._program.stdin.flush()
        said = said_line(self._program)
        if not said:
            raise ChildFailed("the program ended in the middle of its tasks")
        return Done(float(said), _job_requests(self._runpod.requests()) - before)


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield throughput, requests and balance, for each contestant."""
    for who, program in (
        (FLASH, "far_map.py"),
        (FLASH, "far_joblib.py"),
        (RUNPOD_1, ""),
        (RUNPOD_2, ""),
        (RUNPOD_FLASH, ""),
    ):
        figures = _Figures(who, sizes, "joblib, " if program == "far_joblib.py" else "")
        try:
            with _contender(who, sizes.far_workers, program) as contender:
                yield from figures.of_noops(contender)
                if who is not RUNPOD_FLASH:  # its client differs from those, its worker does not
                    yield from figures.of_lengths(contender)
        except _BROKEN as error:
            yield from figures.of_failure(str(error))


class _Figures:
    """The figures of one contestant."""

    def __init__(self, who: Contestant, sizes: Sizes, way: str) -> None:
        self._name = who.name
        self._is_ours = who is FLASH
        self._sizes = sizes
        self._where = f"{way}simulated Runpod, {sizes.far_workers} workers"
        self._noops = f"{sizes.far_noops:,} no-op tasks, {self._where}"
        self._left = {self._noops, f"{self._noops}: requests of the client per task"}

    def of_noops(self, contender: Contender) -> Iterator[Figure]:
        tasks, note = self._sizes.far_noops, ""
        if not self._is_ours:
            tasks = self._sizes.far_peer_noops
            note = f"measured over {tasks} tasks"
        done = [contender.run([None] * tasks) for _ in range(self._sizes.far_runs if self._is_ours else 1)]
        yield self._figure(
            self._noops, "tasks/s", (tasks / one.seconds for one in done), Bar(1_000, is_floor=True), note
        )
        what = f"{self._noops}: requests of the client per task"
        yield self._figure(what, "", (one.requests / tasks for one in done), Bar(0.05), note)

    def of_lengths(self, contender: Contender) -> Iterator[Figure]:
        sizes = self._sizes
        for median_s, runs in sizes.far_balances:
            parts = []
            for seed in range(runs if self._is_ours else 1):
                lengths = _lengths(sizes.far_tasks, median_s, seed)
                parts.append(contender.run(lengths).seconds / greedy_s(lengths, sizes.far_workers))
            what = (
                f"{sizes.far_tasks} tasks of log-normal length, median {median_s:g} s, {self._where}: "
                "time over that of greedy list scheduling"
            )
            yield self._figure(what, "", iter(parts), Bar(1.2))

    def of_failure(self, reason: str) -> Iterator[Figure]:
        for what in sorted(self._left):
            yield Figure(what, self._name, "", (), note=reason)

    def _figure(self, what: str, unit: str, values: Iterator[float], bar: Bar, note: str = "") -> Figure:
        self._left.discard(what)
        return Figure(what, self._name, unit, tuple(values), bar if self._is_ours else None, note)


@contextmanager
def _contender(who: Contestant, workers: int, program: str) -> Iterator[Contender]:
    """Run a contestant's program against a simulated Runpod of its own, with workers that are there."""
    with simulated_runpod() as runpod:
        if who is FLASH:
            arguments = command(who.python(), program, workers)
        else:
            endpoint_id = _official_endpoint(runpod, who, workers)
            arguments = command(who.python(), "official_client.py", who.key, endpoint_id)
        env = {**runpod.environment, "RUNPOD_URL_MIXED_OK": "1", "RUNPOD_FLASH_SILENCE_DEPRECATION": "1"}
        with started(arguments, env=env) as client:
            expect(client, "warm")
            yield Contender(runpod, client)


def _official_endpoint(runpod: SimulatedRunpod, who: Contestant, workers: int) -> str:
    """Create an endpoint of official workers, wait until all are there, and return its id."""
    body = {
        "name": "official",
        "type": "QUEUE",
        "image": "python:3.12-slim",
        "args": shlex.join([str(who.python()), str(PROGRAMS / "official_worker.py")]),
        "env": {"RUNPOD_LOG_LEVEL": "ERROR"},
        "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
        "workers": {"min": workers, "max": workers, "idleTimeout": 300},
    }
    endpoint_id = str(_asked(runpod, "/v2/serverless", body)["id"])
    ends_at = time.monotonic() + _WORKERS_WITHIN_S
    while (ready := _asked(runpod, f"/v2/{endpoint_id}/health")["workers"]["ready"]) < workers:
        if time.monotonic() > ends_at:
            raise ChildFailed(f"only {ready} of {workers} official workers were there within {_WORKERS_WITHIN_S:g} s")
        time.sleep(_LOOK_S)
    return endpoint_id


def _asked(runpod: SimulatedRunpod, path: str, body: object = None) -> Any:  # Any: JSON
    headers = {"Authorization": f"Bearer {runpod.key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(runpod.url + path, data, headers), timeout=30) as answer:
        return json.load(answer)


def _job_requests(counts: Mapping[str, int]) -> int:
    """Return how many requests clients have made, those to REST left out."""
    return sum(count for name, count in counts.items() if name.startswith("client ") and name != "client rest")


def _lengths(count: int, median_s: float, seed: int) -> list[float]:
    """Return lengths of tasks, seconds; the same for every contestant."""
    chance = random.Random(seed)
    return [round(chance.lognormvariate(math.log(median_s), SIGMA), 4) for _ in range(count)]


def greedy_s(lengths: Sequence[float], workers: int) -> float:
    """Return the seconds that tasks take where each, in order, begins on the first worker that is free, at no cost."""
    free_at = [0.0] * workers
    for seconds in lengths:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)
