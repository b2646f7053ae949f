# SPDX-License-Identifier: Apache-2.0
"""Which worker a load-balanced request asks for, and what it gets while there is none. It decides nothing.

Forms and texts: Runpod's load balancing documentation (2026-08).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .. import api
from .clock import Timer
from .workers import BalancedWorker

__all__ = ["Affinity", "Refusal", "Waiting", "parse_affinity"]

_AFFINITY = re.compile(r"(?:(strict|strict-resume) +)?([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True)
class Affinity:
    """Which worker a request asks for; with `is_strict` no other will do, with `is_resuming` it may be woken up."""

    worker_id: str
    is_strict: bool = False
    is_resuming: bool = False


def parse_affinity(text: str) -> Affinity:
    """Return what a request's `X-Runpod-Worker-Id` asks for.

    Raises:
        ValueError: It is neither `ID`, `strict ID` nor `strict-resume ID`.
    """
    match = _AFFINITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{api.WORKER_ID_HEADER} must be a worker id, 'strict ID' or 'strict-resume ID', not {text!r}",
        )
    return Affinity(match[2], match[1] is not None, match[1] == "strict-resume")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request gets no worker: an HTTP status, Runpod's word for it, and a sentence of ours."""

    status: int
    error: str
    detail: str | None = None


@dataclass(eq=False, slots=True)
class Waiting:
    """A request that waits for a worker; `deliver` is called once, unless it is withdrawn before."""

    affinity: Affinity | None
    deliver: Callable[[BalancedWorker | Refusal], None]
    timer: Timer | None = None

    @property
    def is_bound(self) -> bool:
        """True if only one certain worker will do."""
        return self.affinity is not None and self.affinity.is_strict
