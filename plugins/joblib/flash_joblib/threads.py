# SPDX-License-Identifier: Apache-2.0
"""How many threads numeric libraries may use: said by the caller, put in force on the worker. It never starts one.

Two ways, since each misses half: the environment is read by libraries loaded later, threadpoolctl (if it is
installed) reaches those already loaded.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["ThreadLimits", "limit_threads", "thread_limits"]

#: Value of each variable that numeric libraries read.
ThreadLimits = Mapping[str, str]

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


#: Libraries that are loaded already, as threadpoolctl names them, and the variable that counts for each.
_LOADED = {
    "openmp": "OMP_NUM_THREADS",
    "blas": "OPENBLAS_NUM_THREADS",
    "mkl_rt": "MKL_NUM_THREADS",
    "libblis": "BLIS_NUM_THREADS",
}


def thread_limits(asked: int | None, *, share: int, given: Mapping[str, str]) -> ThreadLimits:
    """Return what counts for workers of this machine, by the rule that joblib has for loky.

    Args:
        asked: `inner_max_num_threads`: counts for every variable.
        share: Threads for each worker, where the user said nothing.
        given: Variables that the user gave the workers. They win over the share, as do those of this process.
    """
    if asked is not None:
        return dict.fromkeys(_VARIABLES, str(asked))
    return {name: given.get(name) or os.environ.get(name) or str(share) for name in _VARIABLES}


class _LimitInForce:
    """The limits in force in this process, and what was there before them."""

    def __init__(self) -> None:
        self._limits: ThreadLimits | None = None
        self._modules_seen = 0
        self._saved: dict[str, str | None] = {}
        self._pools: Any = None  # threadpoolctl has no types

    def apply(self, limits: ThreadLimits | None) -> None:
        """Put `limits` in force; None returns to what was there before. Cheap when nothing changed."""
        if limits == self._limits and (limits is None or len(sys.modules) == self._modules_seen):
            return
        if limits != self._limits:
            self._restore()
        self._limits = limits
        if limits is None:
            return
        for name, value in limits.items():
            self._saved.setdefault(name, os.environ.get(name))
            os.environ[name] = value
        self._limit_loaded(limits)
        self._modules_seen = len(sys.modules)

    def _limit_loaded(self, limits: ThreadLimits) -> None:
        try:
            from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
        except ImportError:
            return
        counts: dict[str, int] = {}
        for library, name in _LOADED.items():
            with contextlib.suppress(ValueError):  # the user's own words, which the library itself may understand
                counts[library] = int(limits[name].partition(",")[0])  # OpenMP takes a number for each level
        pools = threadpool_limits(counts)
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


_in_force = _LimitInForce()


def limit_threads(limits: ThreadLimits | None) -> None:
    """Let numeric libraries of this process use as many threads as `limits` says; None lifts our limits."""
    _in_force.apply(limits)
