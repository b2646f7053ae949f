# SPDX-License-Identifier: Apache-2.0
"""Many calls in flight, seen from outside the client process: its memory, threads, sockets and requests.

client ──(counts requests)── proxy ── local platform ── 2 workers that sleep
   └── psutil: resident memory every 50 ms, threads and sockets
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import psutil

from ..children import ChildFailed, command, expect, go_on, said_line, started
from ..contestants import FLASH
from ..figures import Bar, Figure
from ..hand_platform import hand_platform
from ..request_counter import RequestCounter
from ..sizes import Sizes

__all__ = ["measure"]

#: Seconds that each call sleeps.
NAP_S: Final = 3.0
#: Seconds after the submission when all are on their way and requests begin to count.
SETTLE_S: Final = 2.0
_SAMPLE_S: Final = 0.05
_MB: Final = 1e6


@dataclass(slots=True)
class Watched:
    """One run, seen from outside."""

    growth_mb: float
    threads: int
    sockets: int
    requests_per_s: float
    looks_per_s: float


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield figures of the client, over some runs in fresh processes."""
    calls = f"{sizes.in_flight:,} calls in flight"
    runs: list[Watched] = []
    try:
        for _ in range(sizes.repeats):
            runs.append(_watch(sizes))
    except (ChildFailed, psutil.Error, OSError) as error:  # the client ended while it was watched
        yield Figure(f"{calls}: more client memory", FLASH.name, "MB", (), note=str(error))
        return

    def figure(what: str, unit: str, values: Iterator[float], bar: Bar | None = None) -> Figure:
        return Figure(f"{calls}: {what}", FLASH.name, unit, tuple(values), bar)

    yield figure("more client memory", "MB", (run.growth_mb for run in runs), Bar(60))
    yield figure("polls beyond held requests", "requests/s", (run.looks_per_s for run in runs), Bar(1))
    yield figure("all requests", "requests/s", (run.requests_per_s for run in runs))
    yield figure("client threads", "", (run.threads for run in runs))
    yield figure("client sockets", "", (run.sockets for run in runs))


def _watch(sizes: Sizes) -> Watched:
    with hand_platform() as platform, platform.counted() as (counter, env):
        program = command(FLASH.python(), "in_flight.py", sizes.in_flight, NAP_S)
        with started(program, env=env) as client:
            return _watch_client(client, counter, sizes.hold_s)


def _watch_client(client: subprocess.Popen[str], counter: RequestCounter, hold_s: float) -> Watched:
    process = psutil.Process(client.pid)
    expect(client, "warm")
    base = peak = process.memory_info().rss
    threads = sockets = 0
    go_on(client)
    began = time.monotonic()
    settled_at, before = began, counter.counts()
    is_settled = False
    while (now := time.monotonic()) < began + SETTLE_S + hold_s:
        peak = max(peak, process.memory_info().rss)
        threads = max(threads, process.num_threads())
        sockets = max(sockets, len(process.net_connections("tcp")))
        if not is_settled and now >= began + SETTLE_S:
            settled_at, before, is_settled = now, counter.counts(), True
        time.sleep(_SAMPLE_S)
    seconds = time.monotonic() - settled_at
    asked = counter.counts() - before
    expect(client, "submitted")
    go_on(client)
    said_line(client)
    # A call that is done costs one look at its status, after the held request that told; the rest is polling.
    # Every call that is done makes room for the submission of the next one.
    looks = max(0, asked["status"] - asked["runsync"])
    return Watched((peak - base) / _MB, threads, sockets, sum(asked.values()) / seconds, looks / seconds)
