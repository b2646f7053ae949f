# SPDX-License-Identifier: Apache-2.0
"""What is counted of a stretch of work, at times that the tests choose."""

from __future__ import annotations

import itertools
from typing import Any

from flash_plugins import CallEvent, CallStage, Work
from flash_plugins.builtin.progress.tally import Snapshot, Tally

QUEUED, SENT, STARTED, RETURNED = CallStage.QUEUED, CallStage.SENT, CallStage.STARTED, CallStage.RETURNED
DONE, FAILED, CANCELLED = CallStage.DONE, CallStage.FAILED, CallStage.CANCELLED


class Stretch:
    """A tally that began at 100 s."""

    def __init__(self) -> None:
        self.now = 100.0
        self.tally = Tally(self.now)
        self._numbers = itertools.count(1)

    def tell(self, number: int, *stages: CallStage, endpoint: str = "e", **known: Any) -> None:
        for stage in stages:
            told = CallEvent(stage, endpoint=endpoint, function="f", call_id=number, **known)
            self.tally.note(told, self.now)

    def call(self, *stages: CallStage, **known: Any) -> int:
        number = next(self._numbers)
        self.tell(number, QUEUED, SENT, *stages, **known)
        return number

    @property
    def so_far(self) -> Snapshot:
        return self.tally.snapshot(self.now)

    @property
    def labels(self) -> list[str]:
        return list(self.so_far.labels)

    @property
    def starting(self) -> list[str]:
        return list(self.so_far.starting)


def test_calls_are_counted_by_what_became_of_them() -> None:
    stretch = Stretch()
    for stages in ([DONE], [FAILED], [CANCELLED], [STARTED], []):
        stretch.call(*stages)
    assert stretch.tally.has_calls
    so_far = stretch.so_far
    assert (so_far.done, so_far.total, so_far.failed, so_far.cancelled, so_far.running) == (3, 5, 1, 1, 1)
    assert (so_far.unit, so_far.labels, so_far.is_open) == ("calls", ("e",), False)


def test_a_call_that_carries_tasks_counts_as_many_but_runs_one_at_a_time() -> None:
    stretch = Stretch()
    work = Work("fit", total=40)
    stretch.call(DONE, work=work, tasks=8)
    stretch.call(STARTED, work=work, tasks=16)
    so_far = stretch.so_far
    assert (so_far.unit, so_far.labels) == ("tasks", ("fit",))
    assert (so_far.done, so_far.total, so_far.running) == (8, 40, 1)


def test_a_total_is_open_until_all_calls_were_made() -> None:
    stretch = Stretch()
    work = Work("fit")
    stretch.call(work=work, tasks=3)
    assert (stretch.so_far.total, stretch.so_far.is_open, stretch.so_far.left_s) == (3, True, None)
    stretch.call(work=work, tasks=3)
    work.complete()
    assert (stretch.so_far.total, stretch.so_far.is_open) == (6, False)


def test_a_total_that_was_wrong_is_what_there_was_in_the_end() -> None:
    stretch = Stretch()
    few, many = Work("few", total=1), Work("many", total=100)
    for _ in range(2):
        stretch.call(DONE, work=few)
    stretch.call(DONE, work=many)
    assert stretch.so_far.total == 102
    many.complete()
    assert (stretch.so_far.done, stretch.so_far.total) == (3, 3)


def test_work_that_is_done_is_not_named_while_other_goes_on() -> None:
    stretch = Stretch()
    first, second = Work("first", total=1), Work("second", total=2)
    stretch.call(DONE, work=first)
    stretch.call(work=second)
    assert stretch.labels == ["second"]
    stretch.tell(2, DONE)
    stretch.call(DONE, work=second)
    assert stretch.labels == ["first", "second"]


def test_no_more_than_three_names_are_shown() -> None:
    stretch = Stretch()
    for name in ("a", "b", "c", "d"):
        stretch.call(endpoint=name)
    assert stretch.so_far.labels == ("a", "b", "c", "…")


def test_an_endpoint_starts_until_a_worker_of_it_was_heard_of() -> None:
    stretch = Stretch()
    cold = stretch.call(endpoint="cold")
    warm = stretch.call(endpoint="warm")
    assert stretch.starting == ["cold", "warm"]
    stretch.tell(warm, STARTED, endpoint="warm")
    assert stretch.starting == ["cold"]
    stretch.tell(cold, FAILED, endpoint="cold")  # by no worker; and nothing waits there any more
    assert stretch.starting == []


def test_a_call_that_a_worker_gave_back_does_not_run() -> None:
    stretch = Stretch()
    call = stretch.call(STARTED)
    stretch.tell(call, RETURNED)
    assert stretch.so_far.running == 0
    stretch.tell(call, STARTED)
    assert stretch.so_far.running == 1


def test_the_end_of_a_call_of_an_earlier_stretch_is_passed_over() -> None:
    stretch = Stretch()
    stretch.tell(17, STARTED)
    stretch.tell(17, DONE)
    assert stretch.so_far == Snapshot()


def test_workers_are_counted_once() -> None:
    stretch = Stretch()
    for worker in ("w1", "w2", "w1"):
        stretch.call(DONE, worker_id=worker)
    assert stretch.so_far.workers == 2


def test_the_rate_counts_from_when_a_worker_began() -> None:
    stretch = Stretch()
    work = Work("fit", total=100)
    calls = [stretch.call(work=work) for _ in range(20)]
    stretch.now += 60  # workers start
    stretch.tell(calls[0], STARTED)
    for call in calls:
        stretch.now += 0.5
        stretch.tell(call, DONE)
    assert stretch.so_far.rate == 2.0
    assert stretch.so_far.left_s is None  # nothing is open
    stretch.call(work=work)
    assert stretch.so_far.left_s == 40.0


def test_the_first_result_tells_when_its_worker_began() -> None:
    stretch = Stretch()
    first = stretch.call()
    stretch.call()
    stretch.now += 10
    stretch.tell(first, DONE, seconds=2.0)
    assert (stretch.so_far.rate, stretch.so_far.left_s) == (0.5, 2.0)
    stretch.now += 1
    assert stretch.so_far.left_s == 1.0  # it counts down while nothing ends
    stretch.now += 5
    assert stretch.so_far.left_s == 8.0  # and anew where it takes longer


def test_the_rate_is_that_of_late() -> None:
    stretch = Stretch()
    stretch.call()  # and one that goes on
    for pause_s, count in ((0.1, 1000), (10.0, 10)):
        for _ in range(count):
            stretch.now += pause_s
            stretch.call(DONE)
    rate = stretch.so_far.rate
    assert rate is not None
    assert abs(rate - 0.1) < 0.05


def test_other_work_has_a_rate_of_its_own_and_the_whole_has_one_in_the_end() -> None:
    stretch = Stretch()
    quick, slow = Work("quick", total=100), Work("slow", total=4)
    stretch.call(STARTED, work=quick)
    for _ in range(99):
        stretch.call(work=quick)
    for number in range(1, 101):
        stretch.now += 0.01
        stretch.tell(number, DONE)
    stretch.now += 1.0  # what is done between the two
    calls = [stretch.call(work=slow) for _ in range(4)]
    assert (stretch.so_far.rate, stretch.so_far.left_s) == (None, None)
    for call in calls[:2]:
        stretch.now += 5.0
        stretch.tell(call, DONE)
    assert (stretch.so_far.rate, stretch.so_far.left_s) == (0.2, 10.0)
    for call in calls[2:]:
        stretch.now += 5.0
        stretch.tell(call, DONE)
    rate = stretch.so_far.rate
    assert rate is not None
    assert abs(rate - 104 / 22) < 0.01


def test_seconds_end_with_the_last_call() -> None:
    stretch = Stretch()
    call = stretch.call()
    stretch.now += 3
    assert stretch.so_far.seconds == 3.0
    stretch.tell(call, DONE)
    stretch.now += 3
    assert (stretch.so_far.seconds, stretch.tally.idle_since) == (3.0, 103.0)
