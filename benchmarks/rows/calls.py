# SPDX-License-Identifier: Apache-2.0
"""Warm no-op calls: one after another, and many through `map`."""

from __future__ import annotations

from collections.abc import Iterator

from ..children import ChildFailed, run_json
from ..contestants import DASK, FLASH, LOKY, RAY
from ..environments import EnvironmentUnavailable
from ..figures import Bar, Figure, percentile
from ..sizes import Sizes

__all__ = ["measure"]


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield p50 and p99 of one call, and calls per second of a map, for each contestant."""
    p50 = f"warm no-op call, p50 of {sizes.calls:,}"
    p99 = f"warm no-op call, p99 of {sizes.calls:,}"
    rate = f"{sizes.mapped:,} no-op calls through map, 2 workers"
    yield from _direct(sizes)
    for who in (FLASH, RAY, DASK, LOKY):
        try:
            done = run_json(who.python(), "calls.py", who.key, sizes.repeats, sizes.calls, sizes.mapped)
        except (ChildFailed, EnvironmentUnavailable) as error:
            yield Figure(p50, who.name, "ms", (), note=str(error))
            continue
        single_ms = done["single_ms"]
        is_ours = who is FLASH
        medians = tuple(percentile(taken, 50) for taken in single_ms)
        yield Figure(p50, who.name, "ms", medians, Bar(3) if is_ours else None)
        tails = tuple(percentile(taken, 99) for taken in single_ms)
        yield Figure(p99, who.name, "ms", tails, Bar(10) if is_ours else None)
        rates = tuple(sizes.mapped / seconds for seconds in done["map_s"])
        yield Figure(rate, who.name, "calls/s", rates, Bar(500, is_floor=True) if is_ours else None)


def _direct(sizes: Sizes) -> Iterator[Figure]:
    """Yield the same for functions on a load-balanced endpoint."""
    title = "warm no-op call, load-balanced"
    try:
        done = run_json(FLASH.python(), "calls.py", "flash-direct", sizes.repeats, sizes.calls, sizes.mapped)
    except ChildFailed as error:
        yield Figure(f"{title}: p50", FLASH.name, "ms", (), note=str(error))
        return
    for percent, bar in ((50, Bar(1.5)), (99, None)):
        taken = tuple(percentile(one, percent) for one in done["single_ms"])
        yield Figure(f"{title}: p{percent}", FLASH.name, "ms", taken, bar)
    rates = tuple(sizes.mapped / seconds for seconds in done["map_s"])
    yield Figure(f"{title}: {sizes.mapped:,} through map", FLASH.name, "calls/s", rates)
