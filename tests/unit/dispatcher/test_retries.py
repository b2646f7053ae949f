# SPDX-License-Identifier: Apache-2.0
"""What is tried again, how often, and after which pause."""

from __future__ import annotations

from typing import Any

import pytest

from flash_plugins import (
    AuthenticationError,
    CallOptions,
    ConfigError,
    JobCancelled,
    JobExpired,
    JobTimeout,
    PlatformUnavailable,
    ResultLost,
    SubmissionUnknown,
    WorkerLost,
    WorkerStartFailed,
)
from flash_plugins.dispatcher.retries import Attempts


def middle(low: float, high: float) -> float:
    return (low + high) / 2


def attempts_of(**options: Any) -> Attempts:
    return Attempts(CallOptions(**options), uniform=middle)


def pauses(attempts: Attempts, error: BaseException, *, is_raised: bool = True) -> list[float]:
    found = []
    while (pause_s := attempts.next_in_s(error, is_raised=is_raised)) is not None:
        found.append(pause_s)
        assert len(found) < 2_000
    return found


def test_nothing_is_tried_again_unless_asked_for() -> None:
    for error in (ValueError(), WorkerLost("x"), SubmissionUnknown("x")):
        assert attempts_of().next_in_s(error, is_raised=False) is None
    assert not attempts_of().may_go_on


def test_pauses_double_up_to_a_minute_and_end_with_the_retries() -> None:
    attempts = attempts_of(retries=9, backoff=0.5)
    assert pauses(attempts, ValueError()) == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert attempts.made == 10
    assert not attempts.may_go_on


def test_pauses_vary_by_a_quarter() -> None:
    ends: list[tuple[float, float]] = []

    def low(*between: float) -> float:
        ends.append((between[0], between[1]))
        return between[0]

    assert Attempts(CallOptions(retries=1, backoff=8), uniform=low).next_in_s(ValueError(), is_raised=True) == 6
    assert ends == [(0.75, 1.25)]


def test_many_retries_do_not_overflow() -> None:
    assert len(pauses(attempts_of(retries=1_000), ValueError())) == 1_000


def test_no_backoff_is_no_pause() -> None:
    assert pauses(attempts_of(retries=3, backoff=0), ValueError()) == [0, 0, 0]


@pytest.mark.parametrize(
    ("retry_on", "error", "is_retried"),
    [
        ((Exception,), KeyError("x"), True),
        ((LookupError,), KeyError("x"), True),
        ((KeyError,), ValueError("x"), False),
        ((), ValueError("x"), False),
        (lambda error: error.args == ("x",), ValueError("x"), True),
        (lambda error: error.args == ("x",), ValueError("y"), False),
        ((WorkerLost,), WorkerLost("of a call that the function made"), True),
        ((ValueError,), WorkerLost("of a call that the function made"), False),
    ],
)
def test_what_the_function_raises_counts_by_its_class(retry_on: Any, error: Exception, is_retried: bool) -> None:
    assert bool(pauses(attempts_of(retries=1, retry_on=retry_on), error)) is is_retried


@pytest.mark.parametrize("retry_on", [(Exception,), (), (ValueError,), lambda error: False])
@pytest.mark.parametrize("kind", [WorkerLost, ResultLost, PlatformUnavailable, JobExpired])
def test_failures_of_the_system_always_count(kind: type[Exception], retry_on: Any) -> None:
    assert len(pauses(attempts_of(retries=2, retry_on=retry_on), kind("x"), is_raised=False)) == 2


@pytest.mark.parametrize(
    "error",
    [
        JobCancelled("x"),
        JobTimeout("x"),
        JobTimeout("x", limit="timeout"),
        JobTimeout("x", limit="queue_timeout"),
        WorkerStartFailed("x"),
        SubmissionUnknown("x"),
        AuthenticationError("x"),
        ConfigError("x"),
    ],
    ids=repr,
)
def test_what_is_somebodys_wish_or_would_come_again_is_the_outcome(error: Exception) -> None:
    assert attempts_of(retries=5).next_in_s(error, is_raised=False) is None


def test_errors_of_ours_count_where_they_are_named() -> None:
    attempts = attempts_of(retries=1, retry_on=(WorkerStartFailed,))
    assert attempts.next_in_s(WorkerStartFailed("x"), is_raised=False) is not None
    assert attempts_of(retries=1, retry_on=(JobCancelled,)).next_in_s(JobCancelled("x"), is_raised=False) is None


def test_a_run_that_took_too_long_counts_as_an_exception_of_the_function() -> None:
    hung = JobTimeout("x", limit="run_timeout")
    assert attempts_of(retries=1).next_in_s(hung, is_raised=False) is not None
    assert attempts_of(retries=1, retry_on=(OSError,)).next_in_s(ConfigError("x"), is_raised=False) is None
    assert attempts_of(retries=1, retry_on=(ValueError,)).next_in_s(hung, is_raised=False) is None
    assert attempts_of(retries=1, retry_on=(TimeoutError,)).next_in_s(hung, is_raised=False) is not None


def test_an_unknown_fate_is_tried_again_only_where_that_does_no_harm() -> None:
    unknown = SubmissionUnknown("x")
    assert pauses(attempts_of(retries=3), unknown, is_raised=False) == []
    assert len(pauses(attempts_of(idempotent=True), unknown, is_raised=False)) == 5
    both = attempts_of(idempotent=True, retries=1)
    assert both.may_go_on
    assert len(pauses(both, unknown, is_raised=False)) == 5
    assert len(pauses(both, WorkerLost("x"), is_raised=False)) == 1  # which has a count of its own


def test_what_retry_on_raises_comes_out() -> None:
    def broken(error: BaseException) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attempts_of(retries=1, retry_on=broken).next_in_s(ValueError(), is_raised=True)
