# SPDX-License-Identifier: Apache-2.0
"""Calls that wait: the oldest is next, and those of its function go with it."""

from __future__ import annotations

from typing import Any, cast

from flash_plugins import Call
from flash_plugins.dispatcher.backlog import Backlog
from flash_plugins.dispatcher.lane import Submission
from tests.unit.dispatcher.fake import envelope_of


def waiting(number: int, *, code: bytes = b"f", mates_max: int = 0, size: int = 1) -> Submission:
    call: Call[Any] = Call(endpoint_name="e", function_name="f", number=number)
    lane = cast("Any", None)
    return Submission(lane, call, envelope_of(0, code=code), args=b"x" * size, mates_max=mates_max)


def numbers(submissions: list[Submission]) -> list[int]:
    return [submission.call.number for submission in submissions]


def filled(*submissions: Submission) -> Backlog:
    backlog = Backlog()
    for submission in submissions:
        backlog.add(submission)
    return backlog


def take(backlog: Backlog, most: int, most_bytes: int = 1_000) -> list[int]:
    first, _ = backlog.oldest()
    return numbers(backlog.take(first, most, most_bytes))


def test_the_oldest_is_next_with_others_of_its_function() -> None:
    backlog = filled(*(waiting(n, code=b"g" if n in (2, 4) else b"f") for n in range(6)))
    first, of_its_function = backlog.oldest()
    assert (first.call.number, of_its_function, len(backlog)) == (0, 4, 6)
    assert take(backlog, 3) == [0, 1, 3]
    assert take(backlog, 3) == [2, 4]
    assert take(backlog, 3) == [5]
    assert not backlog


def test_no_more_is_taken_than_fits() -> None:
    backlog = filled(*(waiting(n, size=400) for n in range(4)), waiting(4, size=5_000))
    assert take(backlog, 10) == [0, 1]
    assert take(backlog, 10) == [2, 3]
    assert take(backlog, 10) == [4]


def test_a_call_that_must_travel_alone_does() -> None:
    backlog = filled(waiting(0), waiting(1), waiting(2, mates_max=1), waiting(3), waiting(4, mates_max=2), waiting(5))
    assert [take(backlog, 10) for _ in range(4)] == [[0, 1], [2], [3, 4], [5]]


def test_what_was_put_back_is_next_again_in_its_order() -> None:
    backlog = filled(*(waiting(n) for n in range(5)))
    first, _ = backlog.oldest()
    taken = backlog.take(first, 3, 1_000)
    assert not any(one.is_queued for one in taken)
    backlog.put_back(taken[1:])
    assert take(backlog, 10) == [1, 2, 3, 4]


def test_a_discarded_call_is_not_taken() -> None:
    submissions = [waiting(n) for n in range(5)]
    backlog = filled(*submissions)
    assert backlog.discard(submissions[0])
    assert backlog.discard(submissions[3])
    assert not backlog.discard(submissions[3])
    assert len(backlog) == 3
    assert numbers(list(backlog)) == [1, 2, 4]
    assert backlog.oldest()[1] == 3
    assert take(backlog, 10) == [1, 2, 4]
    for _ in range(2):  # the last of its function
        backlog.add(submissions[0])
        assert backlog.discard(submissions[0])
        assert not backlog
        assert backlog.clear() == []


def test_all_are_given_up_in_the_order_of_the_calls() -> None:
    backlog = filled(*(waiting(n, code=b"g" if n % 2 else b"f") for n in range(6)))
    assert numbers(backlog.clear()) == list(range(6))
    assert not backlog
