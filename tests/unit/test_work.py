# SPDX-License-Identifier: Apache-2.0
"""Calls that belong together say so in what plugins are told of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import flash_plugins
from flash_plugins import CallEvent, CallStage, Endpoint, Work, hookimpl
from flash_plugins.work import part

endpoint = Endpoint(name="unit-work", cpu="cpu5c-2-4", workers=(0, 1))


@endpoint
def double(x: int) -> int:
    return 2 * x


@endpoint
class Tripled:
    def of(self, x: int) -> int:
        return 3 * x


class Events:
    def __init__(self) -> None:
        self.seen: list[CallEvent] = []

    @hookimpl
    def flash_call_event(self, event: CallEvent) -> None:
        self.seen.append(event)

    def works(self) -> list[Work | None]:
        return list(dict.fromkeys(event.work for event in self.seen if event.stage is CallStage.QUEUED))


@pytest.fixture
def events() -> Iterator[Events]:
    made = Events()
    flash_plugins.register(made)
    yield made
    flash_plugins.unregister(made)


def test_a_call_on_its_own_is_one_task_of_no_work(events: Events) -> None:
    assert double(2).result(60) == 4
    assert {(event.work, event.tasks) for event in events.seen} == {(None, 1)}


def test_calls_within_a_work_are_its_calls_and_carry_so_many_tasks(events: Events) -> None:
    work = Work("halves", total=10)
    with work.calls(tasks=5):
        first = double(1)
    second = double(2)
    assert [first.result(60), second.result(60)] == [2, 4]
    assert {(event.work, event.tasks) for event in events.seen if event.call_id == first.number} == {(work, 5)}
    assert {(event.work, event.tasks) for event in events.seen if event.call_id == second.number} == {(None, 1)}
    assert not work.is_complete
    assert "halves" in repr(work)


def test_a_map_is_one_work_whose_total_is_known_where_all_inputs_tell(events: Events) -> None:
    results = double.map([1, 2, 3])
    assert list(results) == [2, 4, 6]
    (work,) = events.works()
    assert work is not None
    assert (work.label, work.total, work.is_complete) == ("double", 3, True)
    assert sum(event.tasks for event in events.seen if event.stage is CallStage.DONE) == 3


@pytest.mark.parametrize("inputs", [iter([1, 2, 3]), (n for n in (1, 2, 3))])
def test_a_map_of_inputs_that_do_not_tell_has_no_total(events: Events, inputs: Any) -> None:
    assert list(double.map(inputs)) == [2, 4, 6]
    (work,) = events.works()
    assert work is not None
    assert (work.total, work.is_complete) == (None, True)


def test_a_map_that_is_left_early_is_complete(events: Events) -> None:
    results = double.map(range(100_000), window=2)
    assert next(results) == 0
    results.close()
    (work,) = events.works()
    assert work is not None
    assert work.is_complete


def test_a_method_is_named_with_its_class(events: Events) -> None:
    of: Any = Tripled().of  # type checkers see the method of the class
    assert list(of.map([1, 2])) == [3, 6]
    assert [work and work.label for work in events.works()] == ["Tripled.of"]


def test_what_happens_after_the_context_is_no_part_of_it() -> None:
    with Work("outer").calls():
        outer = part.get()
        with Work("inner").calls(tasks=2):
            assert part.get()[1] == 2
        assert part.get() == outer
    assert part.get() == (None, 1, None)


def test_calls_have_the_name_that_they_are_given_in_every_message() -> None:
    class Name:
        def __str__(self) -> str:
            return "page 3"

    with Work("pages").calls(name=Name()):
        call = double(1)
        with pytest.raises(flash_plugins.UnpicklableError, match=r"^argument 'x' of page 3 cannot be pickled"):
            double(threading.Lock())  # type: ignore[arg-type]
    assert repr(call).startswith("<page 3 on 'unit-work'")
    assert call.title == "page 3"
    assert call.result(60) == 2
    unnamed = double(2)
    assert repr(unnamed).startswith(f"<Call {unnamed.number} of double() on 'unit-work'")
    assert unnamed.title == "double()"
    assert unnamed.result(60) == 4
