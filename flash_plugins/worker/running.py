# SPDX-License-Identifier: Apache-2.0
"""One job in the runner, as the job loop sees it. It starts and stops nothing (see `supervisor`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from ..payload import Outcome, is_envelope
from ..platforms import api
from . import calling
from .early import Early
from .link import DONE
from .progress import Progress

__all__ = ["RunningJob", "limit_of", "worker_id"]


class RunningJob:
    """What came back for one call so far, or for a batch.

    Args:
        limit_s: Seconds that a call may run, None for any.
        progress: Of a batch.
    """

    def __init__(self, job_id: str, limit_s: float | None, progress: Progress | None) -> None:
        self.id = job_id
        self.limit_s = limit_s
        self.progress = progress
        self.early: Early | None = None
        self.news = asyncio.Event()
        self.began_at: float | None = None
        self.is_over_limit = False
        self.answers: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.is_cancelled = False
        #: The step in which its process died, if the call says such, and the words for it.
        self.last_step: tuple[int, str] | None = None
        self.occupation: asyncio.Task[None] | None = None

    @property
    def survives(self) -> bool:
        """Whether what has been done is known when the runner dies."""
        if self.progress is not None:
            return self.progress.has_begun
        return self.last_step is not None

    def running_for_s(self) -> float:
        """Return for how many seconds its call has run, 0 if none does."""
        if self.progress is not None:
            return self.progress.running_for_s()
        return 0.0 if self.began_at is None else asyncio.get_running_loop().time() - self.began_at

    def deliver(self, kind: str, content: Any) -> None:
        """Pass on a frame of the runner."""
        if isinstance(content, Outcome):  # of a batch
            content = content.encode() if self.progress is None else self.progress.answer(content)
        if kind == DONE and self.is_over_limit and not content:  # it was stopped, and has nothing to say
            content = {"error": f"{api.RUN_LIMIT_PREFIX}{calling.timeout_of(self.limit_s)}"}
        self.answers.put_nowait((kind, content))
        if kind == DONE:
            self.ended.set()
            self.news.set()

    def die(self, reason: str, crash: str = "") -> None:
        """Pass on that the runner has died.

        Args:
            reason: How it ended.
            crash: What it said of that itself.
        """
        step, words = self.last_step or (None, "")
        if words:
            reason = f"{reason}, in {words}"
        if crash:
            reason = f"{reason}\n{crash}\n"
        if self.progress is not None and self.survives:
            self.deliver(DONE, self.progress.answer_of_dead(reason, worker_id(), step))
        elif step is not None:
            self.deliver(DONE, Outcome(lost=(0, reason), step=step, worker=worker_id()).encode())
        else:
            self.deliver(DONE, {})


def limit_of(content: object) -> float | None:
    """Return the seconds that the calls of a job may run, by its input."""
    limit_s = content.get("limit_s") if isinstance(content, Mapping) and is_envelope(content) else None
    return float(limit_s) if isinstance(limit_s, int | float) else None


def worker_id() -> str | None:
    """Return by what name the platform knows this worker."""
    return os.environ.get("RUNPOD_POD_ID")
