# SPDX-License-Identifier: Apache-2.0
"""Limit the threads of numeric libraries in this process. It never starts one.

Two ways, since each misses half: the environment is read by libraries loaded later, threadpoolctl (if it is
installed) reaches those already loaded.
"""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["limit_threads"]

#: What OpenMP, the BLAS libraries, numba and numexpr read when they are loaded.
_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class _ThreadLimit:
    """The limit in force in this process, and what was there before it."""

    def __init__(self) -> None:
        self._limit: int | None = None
        self._modules_seen = 0
        self._saved: dict[str, str | None] = {}
        self._pools: Any = None  # threadpoolctl has no types

    def apply(self, limit: int | None) -> None:
        """Put `limit` in force; None returns to what was there before. Cheap when nothing changed."""
        if limit == self._limit and (limit is None or len(sys.modules) == self._modules_seen):
            return
        if limit != self._limit:
            self._restore()
        self._limit = limit
        if limit is None:
            return
        for name in _VARIABLES:
            self._saved.setdefault(name, os.environ.get(name))
            os.environ[name] = str(limit)
        self._limit_loaded(limit)
        self._modules_seen = len(sys.modules)

    def _limit_loaded(self, limit: int) -> None:
        try:
            from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
        except ImportError:
            return
        pools = threadpool_limits(limit)
        if self._pools is None:
            self._pools = pools  # the first one knows the original numbers

    def _restore(self) -> None:
        for name, value in self._saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._saved = {}
        if self._pools is not None:
            self._pools.restore_original_limits()
            self._pools = None


_in_force = _ThreadLimit()


def limit_threads(limit: int | None) -> None:
    """Let numeric libraries of this process use at most `limit` threads each; None lifts our limit."""
    _in_force.apply(limit)
