# SPDX-License-Identifier: Apache-2.0
"""The rows of the report, one module each: `measure(sizes)` yields figures. `ROWS` has them in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ..figures import Figure
from ..sizes import Sizes
from . import balancer, calls, demo, far, imports, joblib_work, memory, objects, s3, start, tasks

__all__ = ["ROWS"]

#: By the name for `--only`.
ROWS: Final[dict[str, Callable[[Sizes], Iterator[Figure]]]] = {
    "calls": calls.measure,
    "start": start.measure,
    "imports": imports.measure,
    "memory": memory.measure,
    "joblib": joblib_work.measure,
    "demo": demo.measure,
    "balancer": balancer.measure,
    "tasks": tasks.measure,
    "objects": objects.measure,
    "s3": s3.measure,
    "far": far.measure,
}
