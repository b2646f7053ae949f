# SPDX-License-Identifier: Apache-2.0
"""The states of a job and what a platform tells about one. It never talks to a platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["JobResult", "JobStatus"]


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
        """Return the state a platform named.

        Raises:
            ValueError: `text` is no state this version knows.
        """
        return cls.IN_PROGRESS if text == "RUNNING" else cls(str(text))


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
