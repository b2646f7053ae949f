# SPDX-License-Identifier: Apache-2.0
"""Every error this package raises, as one tree. It never formats remote tracebacks (see `failure`).

    FlashPluginsError
    ├── ConfigError (ValueError)            a parameter, setting or file is wrong
    │   └── UnknownParameterError (TypeError)
    ├── PlatformError                       the platform, not the call, is the problem
    │   ├── PlatformUnavailable (ConnectionError)   cannot be started or reached, or it ended
    │   ├── AuthenticationError             the key is missing, wrong or may not do this
    │   ├── ApiError                        the platform refused a request (status, detail)
    │   │   └── NotFoundError (LookupError)
    │   ├── NoWorkers                       a load-balanced endpoint has no worker, and why
    │   ├── StoreError                      the store of large objects cannot be used
    │   └── MissingDependencyError (ImportError)    an optional package is not installed
    ├── PayloadError                        what should travel cannot
    │   ├── UnpicklableError (TypeError, pickle.PicklingError)
    │   ├── PayloadTooLarge (ValueError)
    │   └── EnvelopeError (ValueError)      not our envelope, or another version of it
    ├── JobError                            one job did not end well; has .job_id
    │   ├── JobFailed                       the worker reported an error of its own
    │   │   └── DependencyError             what the endpoint depends on could not be installed
    │   ├── JobTimeout (TimeoutError)       a time limit of the call or of the endpoint passed
    │   ├── JobCancelled (CancelledError)   somebody cancelled it
    │   ├── JobExpired                      its result is no longer kept
    │   ├── ResultLost                      what its worker sent did not all arrive
    │   ├── WorkerLost                      its workers died, more often than it is tried
    │   │   └── WorkerStartFailed           its workers end, again and again, before they take a first job
    │   └── SubmissionUnknown               the connection broke before the platform answered
    ├── StreamConsumed (RuntimeError)       the values of a stream were asked for twice
    ├── WaitTimeout (TimeoutError)          the caller stopped waiting; the job goes on
    ├── RemoteError                         an exception whose own class is missing here
    └── HookError                           a plugin's gate hook failed; names the plugin

A message says what failed with its value, the likely reason, and the next step.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from pickle import PicklingError

__all__ = [
    "ApiError",
    "AuthenticationError",
    "ConfigError",
    "DependencyError",
    "EnvelopeError",
    "FlashPluginsError",
    "HookError",
    "JobCancelled",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobTimeout",
    "MissingDependencyError",
    "NoWorkers",
    "NotFoundError",
    "PayloadError",
    "PayloadTooLarge",
    "PlatformError",
    "PlatformUnavailable",
    "RemoteError",
    "ResultLost",
    "StoreError",
    "StreamConsumed",
    "SubmissionUnknown",
    "UnknownParameterError",
    "UnpicklableError",
    "WaitTimeout",
    "WorkerLost",
    "WorkerStartFailed",
]


class FlashPluginsError(Exception):
    """Root of every error of this package."""


class ConfigError(FlashPluginsError, ValueError):
    """A parameter, setting or configuration file has a value that cannot be used."""


class UnknownParameterError(ConfigError, TypeError):
    """A keyword that no parameter has; the message suggests the closest one."""


class PlatformError(FlashPluginsError):
    """The platform, rather than the call, is the problem."""


class PlatformUnavailable(PlatformError, ConnectionError):
    """The platform could not be started or reached, or it ended while calls were running."""


class AuthenticationError(PlatformError):
    """The key is missing, wrong, or not allowed to do this. Keys are never shown."""


class ApiError(PlatformError):
    """The platform refused a request.

    Attributes:
        status: HTTP status code.
        detail: The platform's own words, None if it gave none.
        errors: Its words about single fields, such as `$.workers.max: must be at least 0`.
    """

    def __init__(self, message: str, *, status: int, detail: str | None = None, errors: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail
        self.errors = errors


class NotFoundError(ApiError, LookupError):
    """The endpoint, job or worker is not known to the platform (404)."""


class NoWorkers(PlatformError):
    """A load-balanced endpoint has no worker that takes requests; the message says why, with the log of one."""


class StoreError(PlatformError):
    """The store of large objects cannot be read or written: it is full, gone, or refuses the key."""


class MissingDependencyError(PlatformError, ImportError):
    """An optional package is needed here and not installed; the message has the install command."""


class PayloadError(FlashPluginsError):
    """Something that should travel to or from a worker cannot."""


class UnpicklableError(PayloadError, TypeError, PicklingError):
    """An argument, function or result cannot be pickled; the message has the path to the culprit.

    Attributes:
        path: The way to the culprit, step by step, such as `("[0]", ".lock")`; empty if it is the whole, or not known.
        problem: What the culprit is, why that cannot be pickled, and the remedy; empty if nothing is known.
    """

    def __init__(self, message: str, *, path: tuple[str, ...] = (), problem: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.problem = problem

    @staticmethod
    def joined(path: tuple[str, ...]) -> str:
        """Return a path, or the rest of one, in one piece, as messages have it."""
        text = ""
        for label in path:
            text += f" ->{label}" if text and label.startswith(" ") else label
        return text.lstrip()


class PayloadTooLarge(PayloadError, ValueError):
    """A call or a result is over the platform's size limit.

    Attributes:
        size_bytes: Encoded size.
        limit_bytes: The limit it is over.
    """

    def __init__(self, message: str, *, size_bytes: int = 0, limit_bytes: int = 0) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class EnvelopeError(PayloadError, ValueError):
    """What arrived is not an envelope of this package, or one of another version."""


class JobError(FlashPluginsError):
    """One job did not end well.

    Attributes:
        job_id: The platform's id of the job, None if it never got one.
    """

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobFailed(JobError):
    """The worker reported an error that is not an exception of the called function."""


class DependencyError(JobFailed):
    """Workers could not install the endpoint's `dependencies`; the message ends with the installer's own words."""


class JobTimeout(JobError, TimeoutError):
    """A time limit passed: one of the call's options, or one of the platform (execution timeout, time to live).

    Attributes:
        limit: The option that was it: `queue_timeout`, `run_timeout` or `timeout`; None for a limit of the platform.
    """

    def __init__(self, message: str, *, job_id: str | None = None, limit: str | None = None) -> None:
        super().__init__(message, job_id=job_id)
        self.limit = limit


class JobCancelled(JobError, CancelledError):
    """The job was cancelled, here or by somebody else."""


class JobExpired(JobError):
    """The platform no longer has the job: its result was kept for a limited time only."""


class ResultLost(JobError):
    """The job ended well, or still runs, but some of what its worker sent was lost on the way: repeat the call."""


class WorkerLost(JobError):
    """The workers that ran the job died, more often than it is tried again.

    Attributes:
        reason: How they died: the message without the name of the call.
        step: The step in which the call was, if it said such (`flash_plugins.note_step`).
    """

    def __init__(self, message: str, *, job_id: str | None = None, reason: str = "", step: int | None = None) -> None:
        super().__init__(message, job_id=job_id)
        self.reason = reason
        self.step = step


class SubmissionUnknown(JobError):
    """The connection broke before the platform answered: the job may or may not run."""


class WorkerStartFailed(WorkerLost):
    """The endpoint's workers end, again and again, before they take a first job; the message has their last words."""


class StreamConsumed(FlashPluginsError, RuntimeError):
    """The values of a stream were asked for again after they were iterated: each is given out once."""


class WaitTimeout(FlashPluginsError, TimeoutError):
    """The caller's own time limit passed; the job itself goes on."""


class RemoteError(FlashPluginsError):
    """An exception raised on the worker whose own class cannot be made here.

    Attributes:
        type_name: Qualified name of the class on the worker.
    """

    def __init__(self, message: str, *, type_name: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name


class HookError(FlashPluginsError):
    """A plugin's gate hook failed; the plugin's own exception is the cause."""
