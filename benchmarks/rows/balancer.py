# SPDX-License-Identifier: Apache-2.0
"""Small JSON requests to a warm load-balanced worker: through the local balancer, and straight to its uvicorn."""

from __future__ import annotations

from collections.abc import Iterator

from ..children import ChildFailed, run_json
from ..contestants import FLASH
from ..figures import Bar, Figure, percentile
from ..sizes import Sizes

__all__ = ["measure"]

#: The same worker without anything before it.
DIRECT = "uvicorn direct"


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield p50 and p99 of both ways with 1 and with 32 requests in flight, and what the balancer adds."""
    try:
        taken = run_json(FLASH.python(), "balancer.py", sizes.repeats, sizes.calls)
    except ChildFailed as error:
        yield Figure("small JSON through the balancer", FLASH.name, "ms", (), note=str(error))
        return
    for in_flight in (1, 32):
        what = f"small JSON POST, {in_flight} in flight"
        balancer, direct = taken[f"balancer-{in_flight}"], taken[f"direct-{in_flight}"]
        for percent in (50, 99):
            ours = tuple(percentile(one, percent) for one in balancer)
            theirs = tuple(percentile(one, percent) for one in direct)
            yield Figure(f"{what}: p{percent}", FLASH.name, "ms", ours)
            yield Figure(f"{what}: p{percent}", DIRECT, "ms", theirs)
            added = tuple(one - other for one, other in zip(ours, theirs, strict=True))
            bar = Bar(1.5) if (in_flight, percent) == (1, 50) else None
            yield Figure(f"{what}: p{percent} that the balancer adds", FLASH.name, "ms", added, bar)
