# SPDX-License-Identifier: Apache-2.0
"""Errors of calls that did not end well: from what the platform says about a job to one of ours. It asks nothing."""

from __future__ import annotations

from ..errors import (
    DependencyError,
    FlashPluginsError,
    JobCancelled,
    JobFailed,
    JobTimeout,
    SubmissionUnknown,
    WorkerLost,
    WorkerStartFailed,
)
from ..job import JobResult, JobStatus
from ..platforms import api

__all__ = ["ending_of", "internal", "unknown"]


def ending_of(call: object, job: JobResult) -> FlashPluginsError:
    """Return the error of a job that is over and has no result; `call` is its call, or whatever stands for several."""
    error = job.error or "the platform gave no reason"
    match job.status:
        case JobStatus.CANCELLED:
            return JobCancelled(f"{call!r} was cancelled on the platform", job_id=job.id)
        case JobStatus.TIMED_OUT:
            return JobTimeout(
                f"{call!r} passed a time limit: {error}; the limit is execution_timeout_ms of the endpoint",
                job_id=job.id,
            )
    if error.startswith(api.RUN_LIMIT_PREFIX):
        return JobTimeout(f"{call!r}: {error.removeprefix(api.RUN_LIMIT_PREFIX)}", job_id=job.id, limit="run_timeout")
    if error.startswith(api.WORKER_START_FAILED_PREFIX):
        return WorkerStartFailed(f"{call!r}: {error}", job_id=job.id)
    if error.startswith(api.WORKER_LOST_PREFIX):
        return WorkerLost(f"{call!r}: {error}", job_id=job.id, reason=error.removeprefix(api.WORKER_LOST_PREFIX))
    if error.startswith(api.DEPENDENCIES_FAILED_PREFIX):
        return DependencyError(f"{call!r}: {error}", job_id=job.id)
    return JobFailed(f"{call!r} failed on the worker: {error}", job_id=job.id)


def unknown(call: object, error: FlashPluginsError) -> SubmissionUnknown:
    """Return the error of a call, or several, that the platform may or may not have taken."""
    return SubmissionUnknown(
        f"{call!r}: {error}; the platform may or may not run it, so it is not sent again: check what it did before "
        "you repeat it"
    )


def internal(error: Exception) -> FlashPluginsError:
    """Return the error for what should not have happened here."""
    wrapped = FlashPluginsError(f"flash_plugins failed internally: {type(error).__name__}: {error}; please report it")
    wrapped.__cause__ = error
    return wrapped
