# SPDX-License-Identifier: Apache-2.0
"""Which calls a worker has begun, as those are told who watch calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import flash_plugins
from flash_plugins import Call, CallEvent, CallStage, Endpoint, hookimpl
from flash_plugins.dispatcher import queue_lane
from flash_plugins.dispatcher.begun import Begun
from flash_plugins.dispatcher.flight import Flight
from tests.unit.dispatcher.conftest import Events
from tests.unit.dispatcher.fake import DEADLINE_S, FakeRunpod

Submit = Callable[..., Call[Any]]


class Lane:
    """Flights of one call each, and of which of them it was told that they were begun."""

    def __init__(self, *, calls_per_worker: int = 1, idle_timeout_s: float = 60.0) -> None:
        self.told: list[Any] = []
        self.begun = Begun(self.told.append, idle_timeout_s=idle_timeout_s, calls_per_worker=calls_per_worker)
        self.flights: list[Flight] = []

    def send(self, *, expected_s: float | None = 1.0, calls: int = 1, began_at: float | None = None) -> Flight:
        submissions: Any = [SimpleNamespace(call=SimpleNamespace(worker_id=None)) for _ in range(calls)]
        flight = Flight(submissions, expected_s, began_at=began_at if began_at is not None else time.monotonic())
        self.flights.append(flight)
        self.begun.sent(self.flights)
        return flight

    def end(self, flight: Flight, worker: str = "w1") -> None:
        flight.call.worker_id = worker
        self.flights.remove(flight)
        self.begun.ended(flight, self.flights)

    def is_told(self, *flights: Flight) -> bool:
        return self.told == [flight.submissions[0] for flight in flights]


def test_nothing_is_begun_while_no_worker_is_known() -> None:
    lane = Lane()
    lane.send()
    assert not lane.told


def test_a_worker_that_ended_one_begins_the_oldest_that_waits() -> None:
    lane = Lane()
    first = lane.send(began_at=1.0)
    third = lane.send(began_at=3.0)
    second = lane.send(began_at=2.0)
    lane.end(first)
    assert lane.is_told(second)
    lane.end(second)
    assert lane.is_told(second, third)


@pytest.mark.parametrize("calls_per_worker", [1, 2])
def test_an_idle_worker_begins_what_is_sent(calls_per_worker: int) -> None:
    lane = Lane(calls_per_worker=calls_per_worker)
    lane.end(lane.send())
    flights = [lane.send() for _ in range(3)]
    assert lane.is_told(*flights[:calls_per_worker])


def test_the_oldest_that_waits_is_begun_rather_than_what_is_sent() -> None:
    lane = Lane()
    first, second, third = lane.send(began_at=1.0), lane.send(began_at=2.0), lane.send(began_at=3.0)
    lane.end(first, "w1")  # what `second` runs on is not known yet
    lane.end(second, "w2")
    fourth = lane.send(began_at=4.0)
    lane.send(began_at=5.0)
    assert lane.is_told(second, third, fourth)


def test_a_worker_that_was_idle_for_too_long_is_gone() -> None:
    lane = Lane(idle_timeout_s=0.0)
    lane.end(lane.send())
    lane.send()
    assert not lane.told


def test_what_the_platform_says_counts() -> None:
    lane = Lane()
    flight = lane.send()
    lane.begun.said(flight, True)
    assert lane.is_told(flight)
    lane.begun.said(flight, False)
    assert not flight.has_begun


def test_the_calls_of_a_job_run_one_after_another() -> None:
    lane = Lane()
    flight = lane.send(calls=3)
    lane.begun.said(flight, True)
    del flight.open[0]
    lane.begun.went_on(flight)
    flight.open.clear()
    lane.begun.went_on(flight)
    assert lane.told == list(flight.submissions[:2])


def test_calls_that_are_over_at_once_are_not_told_of_but_keep_their_worker_busy() -> None:
    lane = Lane()
    lane.end(lane.send())
    lane.send(expected_s=0.5, calls=100)
    lane.send()
    assert not lane.told


def test_a_call_that_waits_again_is_told_of(
    fake: FakeRunpod, submit: Submit, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_lane, "_HOLDS_AT_LEAST_S", 0.0)
    fake.is_slow, fake.hold_s = True, 0.02
    call = submit(1)
    fake.wait_for("stream")

    def until(*stages: CallStage) -> None:
        told = (CallStage.QUEUED, CallStage.SENT, *stages)
        fake.wait_until(lambda: tuple(event.stage for event in events.seen) == told, f"not told {stages}")

    until()
    fake.jobs["job-1"].status = "IN_PROGRESS"
    until(CallStage.STARTED)
    fake.jobs["job-1"].status = "IN_QUEUE"
    until(CallStage.STARTED, CallStage.RETURNED)
    fake.jobs["job-1"].status = "IN_PROGRESS"
    until(CallStage.STARTED, CallStage.RETURNED, CallStage.STARTED)
    fake.finish("job-1")
    assert call.result(DEADLINE_S) == 1
    until(CallStage.STARTED, CallStage.RETURNED, CallStage.STARTED, CallStage.DONE)


class Stages:
    def __init__(self) -> None:
        self.seen: list[CallEvent] = []

    @hookimpl
    def flash_call_event(self, event: CallEvent) -> None:
        self.seen.append(event)


@pytest.mark.parametrize("transport", ["queue", "load_balanced"])
def test_a_call_that_takes_a_while_is_told_to_be_started(transport: Any) -> None:
    endpoint = Endpoint(name=f"unit-begun-{transport}", cpu="cpu5c-2-4", workers=(0, 1), transport=transport)
    stages = Stages()

    @endpoint
    def nothing() -> None: ...

    @endpoint
    def nap() -> None:
        time.sleep(1.5)  # a request is held for a second

    nothing().result(DEADLINE_S)  # so that there is a worker
    flash_plugins.register(stages)
    try:
        nap().result(DEADLINE_S)
    finally:
        flash_plugins.unregister(stages)
    assert [event.stage for event in stages.seen] == ["queued", "sent", "started", "done"]
