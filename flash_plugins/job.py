# SPDX-License-Identifier: Apache-2.0
"""The states of a job and what a platform tells about one. It never talks to a platform."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["JobResult", "JobStatus"]

logger = logging.getLogger(__name__)


class JobStatus(StrEnum):
    """State of a job; the only list of them.

    Source: Runpod's job API documentation (2026-08); `RUNNING` appears there as another word for
    `IN_PROGRESS` and is read as that.
    """

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def is_terminal(self) -> bool:
        """True once the job can no longer change."""
        return self not in (JobStatus.IN_QUEUE, JobStatus.IN_PROGRESS)

    @classmethod
    def parse(cls, text: object) -> JobStatus:
        """Return the state a platform named; one that this version does not know counts as live.

        Raises:
            ValueError: `text` names no state at all.
        """
        if text == "RUNNING":
            return cls.IN_PROGRESS
        if not isinstance(text, str) or not text:
            raise ValueError(f"{text!r} is not a state of a job")
        try:
            return cls(text)
        except ValueError:
            _tell_unknown(text)
            return cls.IN_PROGRESS


@functools.cache
def _tell_unknown(text: str) -> None:
    """Log a state that nobody described; once, however many jobs are in it."""
    logger.warning("the platform names a state of a job that is not known here: %r; it is taken for a live one", text)


@dataclass(frozen=True, slots=True)
class JobResult:
    """One answer of a platform about one job.

    Times are milliseconds as Runpod reports them: `delay_ms` in the queue, `execution_ms` on the worker.
    """

    id: str
    status: JobStatus
    output: Any = None  # whatever JSON the worker returned
    error: str | None = None
    worker_id: str | None = None
    delay_ms: float | None = None
    execution_ms: float | None = None

    @classmethod
    def from_json(cls, answer: Mapping[str, Any]) -> JobResult:
        """Read a job answer of `/run`, `/runsync`, `/status`, `/cancel` or `/retry`."""
        error = answer.get("error")
        return cls(
            id=str(answer.get("id", "")),
            status=JobStatus.parse(answer.get("status")),
            output=answer.get("output"),
            error=None if error is None else str(error),
            worker_id=answer.get("workerId"),
            delay_ms=answer.get("delayTime"),
            execution_ms=answer.get("executionTime"),
        )
