# SPDX-License-Identifier: Apache-2.0
"""How one call is made: how often it is tried, and how long it may take. Plain values; it decides nothing itself.

Options belong to the caller. They change nothing of what travels as the function's code, so calls with different
options share it on the workers.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias, TypedDict

from .errors import ConfigError, UnknownParameterError
from .platforms import api

__all__ = ["NO_OPTIONS", "CallOptions", "OptionParameters", "RetryOn"]

#: Which exceptions of the function are tried again: by class, or by what a function of yours says of one.
RetryOn: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[BaseException], bool]

#: Most repetitions of a call: more would hide that it never works.
_MOST_RETRIES = 1_000
#: Longest first pause before a repetition, seconds.
_LONGEST_BACKOFF_S = 3_600.0


class OptionParameters(TypedDict, total=False):
    """What `with_options` takes: the fields of `CallOptions`."""

    retries: int
    retry_on: RetryOn
    backoff: float
    queue_timeout: float | None
    run_timeout: float | None
    timeout: float | None
    idempotent: bool
    worker: str | None


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Options of a call, given with `f.with_options(…)`. All times are seconds.

    Attributes:
        retries: How often a call that failed is made again, at most.
        retry_on: Exceptions of the function that are worth it, by class, or a function that says so for an
            exception; it is called in a thread of its own, with what `result()` would raise. Default: every
            `Exception`; `()` for none. Whatever it says, failures of the system count once `retries` is given: workers
            that died, results that were lost or expired, a platform that ended or stopped answering.
        backoff: Pause before the first repetition; each further one is twice as long, up to a minute, and all vary by
            a quarter, so that calls that failed together do not come back together.
        queue_timeout: Longest time until a worker begins the call, of each attempt. None for no limit.
        run_timeout: Longest time that the worker may take for it, of each attempt; then running code is stopped as by
            `cancel()`. None for that of the endpoint.
        timeout: Longest time from the call to its outcome, repetitions and pauses included. None for no limit.
        idempotent: Whether it does no harm if it runs twice, even at the same time. Only then is a call sent again
            when it is unknown whether the platform took it.
        worker: Id of the worker that shall run it; only where the endpoint is load-balanced.
    """

    retries: int = 0
    retry_on: RetryOn = (Exception,)
    backoff: float = 1.0
    queue_timeout: float | None = None
    run_timeout: float | None = None
    timeout: float | None = None
    idempotent: bool = False
    worker: str | None = None

    def __post_init__(self) -> None:
        if (
            isinstance(self.retries, bool)
            or not isinstance(self.retries, int)
            or not 0 <= self.retries <= _MOST_RETRIES
        ):
            raise _wrong("retries", self.retries, f"a whole number from 0 to {_MOST_RETRIES}")
        object.__setattr__(self, "retry_on", _retry_on(self.retry_on))
        if not _is_number(self.backoff) or not 0 <= self.backoff <= _LONGEST_BACKOFF_S:
            raise _wrong("backoff", self.backoff, f"a number of seconds from 0 to {_LONGEST_BACKOFF_S:g}")
        for name in ("queue_timeout", "run_timeout", "timeout"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value <= api.POLICY_MAX_MS / 1000):
                most = f"{api.POLICY_MAX_MS / 1000:g} (a week)"
                raise _wrong(name, value, f"a number of seconds above 0, at most {most}, or None")
        if not isinstance(self.idempotent, bool):
            raise _wrong("idempotent", self.idempotent, "True or False")
        if self.worker is not None and (not isinstance(self.worker, str) or not self.worker.strip()):
            raise _wrong("worker", self.worker, "the id of a worker, such as the worker_id of an earlier call")

    def merged(self, given: Mapping[str, Any]) -> CallOptions:  # Any: the user's own, checked here
        """Return these options with some replaced.

        Raises:
            UnknownParameterError: A keyword is no option; the closest one is suggested.
            ConfigError: A value cannot be used.
        """
        known = [field.name for field in fields(self)]
        for name in given:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
                raise UnknownParameterError(f"with_options() has no option {name!r}; {hint}")
        return replace(self, **given)

    @property
    def needs_own_job(self) -> bool:
        """Whether such a call cannot share a job with others, whose time would count as its own."""
        return self.queue_timeout is not None or self.run_timeout is not None or self.timeout is not None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _retry_on(given: object) -> RetryOn:
    classes = given if isinstance(given, tuple | list | set | frozenset) else (given,)
    if all(isinstance(one, type) and issubclass(one, Exception) for one in classes):
        return tuple(classes)
    if callable(given) and not isinstance(given, type):
        return given
    raise _wrong("retry_on", given, "classes of exceptions, or a function that returns True for one to be retried")


def _wrong(name: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"with_options({name}={value!r}): give {wanted}")


#: Those of a call for which none were given.
NO_OPTIONS = CallOptions()
