# SPDX-License-Identifier: Apache-2.0
"""Whatever happens on the way to the real local platform and in its workers, a call has one outcome."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flash_plugins
from flash_plugins import (
    Call,
    CallEvent,
    CallStage,
    Endpoint,
    JobCancelled,
    JobExpired,
    JobTimeout,
    SubmissionUnknown,
    hookimpl,
)
from flash_plugins.dispatcher import queue_lane
from flash_plugins.platforms.runpod import RunpodClient
from tests.faults import Faults, faulty_platform, kill_runner, kill_worker
from tests.integration.local_support import is_running, wait_for

#: Generous: the box may be busy.
DEADLINE_S = 60.0

endpoint = Endpoint(name="outcomes", cpu="cpu5c-4-8", workers=(0, 2), scaler_type="REQUEST_COUNT", scaler_value=1)
single = Endpoint(name="outcomes-single", cpu="cpu5c-4-8", workers=(0, 1))
balanced = Endpoint(name="outcomes-balanced", cpu="cpu5c-4-8", workers=(0, 1), transport="load_balanced")


@endpoint
def note(path: str, value: object = None) -> object:
    """Leave a line behind for every time that it runs: worker and process."""
    with open(path, "a") as file:
        file.write(f"{os.environ['RUNPOD_POD_ID']} {os.getpid()}\n")
    return value


@endpoint
def note_and_nap(path: str, seconds: float) -> str:
    note.undecorated(path)
    time.sleep(seconds)
    return "awake"


@endpoint
def note_and_nap_once(path: str) -> str:
    """Take long in its first run only."""
    is_first = not Path(path).exists()
    note.undecorated(path)
    time.sleep(60 if is_first else 0)
    return "awake"


@endpoint
def note_and_fail(path: str, times: int) -> int:
    note.undecorated(path)
    runs = len(Path(path).read_text().splitlines())
    if runs <= times:
        raise ConnectionResetError(f"run {runs}")
    return runs


@endpoint
def fail_first(folder: str, number: int) -> int:
    """Raise in the first run of each third number, and end the process in that of number 50."""
    place = Path(folder, str(number))
    try:
        place.touch(exist_ok=False)
    except FileExistsError:
        place.with_suffix(".again").touch()
        return number
    if number == 50:
        os._exit(9)
    if number % 3 == 0:
        raise ConnectionResetError(f"the first run of {number}")
    return number


@endpoint
def swallow(path: str) -> None:
    note.undecorated(path)
    while True:
        try:
            time.sleep(60)
        except BaseException:  # noqa: BLE001, S112 - what a test is about
            continue


@endpoint
def block_in_c(path: str) -> None:
    """Hold the interpreter in one piece of C code, amid which no signal handler of Python's runs."""
    note.undecorated(path)
    sum(itertools.repeat(1, 10**12))


@balanced
def nap_balanced(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@single
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


class Events:
    """What was told of calls."""

    def __init__(self) -> None:
        self.seen: list[CallEvent] = []

    @hookimpl
    def flash_call_event(self, event: CallEvent) -> None:
        self.seen.append(event)

    def stages(self, call: Call[Any]) -> list[str]:
        """Return what was told of a call, but for its beginning, which is not told of calls that end soon."""
        told = [event.stage for event in self.seen if event.call_id == call.number]
        return [str(stage) for stage in told if stage not in (CallStage.STARTED, CallStage.RETURNED)]


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    made = Faults()
    with faulty_platform(made):
        yield made


@pytest.fixture
def events(faults: Faults) -> Iterator[Events]:
    made = Events()
    flash_plugins.register(made)
    yield made
    flash_plugins.unregister(made)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "runs")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_lane, "_TRANSPORT_PAUSE_S", 0.02)


def runs(path: str) -> list[list[str]]:
    """Return worker and process of every run so far."""
    return [line.split() for line in Path(path).read_text().splitlines()] if Path(path).exists() else []


def running(path: str, count: int = 1) -> list[str]:
    """Wait for a run and return its worker and process."""
    return wait_for(lambda: runs(path)[count - 1 : count] or None)[0]


def test_a_connection_that_does_not_come_about_is_tried_again_and_the_call_runs_once(
    faults: Faults, events: Events, path: str
) -> None:
    note(path).result(DEADLINE_S)
    faults.unreachable("runsync", 2)
    call = note(path, 7)
    assert call.result(DEADLINE_S) == 7
    assert events.stages(call) == ["queued", "sent", "done"]
    assert len(runs(path)) == 2


def test_an_answer_that_gets_lost_is_an_unknown_fate_and_the_call_is_not_repeated(
    faults: Faults, events: Events, path: str
) -> None:
    note(path).result(DEADLINE_S)
    faults.lose_answer("runsync")
    call = note(path, 7)
    assert isinstance(call.exception(DEADLINE_S), SubmissionUnknown)
    assert events.stages(call) == ["queued", "sent", "failed"]
    assert note(path).result(DEADLINE_S) is None
    assert len(runs(path)) == 3  # it did run, once


@pytest.mark.parametrize("is_accepted", [False, True])
def test_an_idempotent_call_has_one_outcome_though_its_fate_was_unknown(
    faults: Faults, events: Events, path: str, is_accepted: bool
) -> None:
    note(path).result(DEADLINE_S)
    (faults.lose_answer if is_accepted else faults.lose_request)("runsync")
    call = note.with_options(idempotent=True, backoff=0)(path, 7)
    assert call.result(DEADLINE_S) == 7
    assert events.stages(call) == ["queued", "sent", "done"]
    assert len(runs(path)) == 2 + is_accepted


def test_a_storm_of_refusals_loses_and_doubles_nothing(faults: Faults, events: Events, path: str) -> None:
    note(path).result(DEADLINE_S)
    faults.refuse("runsync", 8)  # they may all meet one job, which waits twice as long each time
    faults.refuse("stream", 5)
    calls = [note(path, n) for n in range(40)]
    assert [call.result(DEADLINE_S) for call in calls] == list(range(40))
    assert {tuple(events.stages(call)) for call in calls} == {("queued", "sent", "done")}
    assert len(runs(path)) == 41


def test_an_error_of_the_server_while_a_call_is_followed_does_not_end_it(faults: Faults, path: str) -> None:
    call = note_and_nap(path, 1.5)
    running(path)
    faults.answer("stream", 2, status=500)
    faults.lose_answer("status", 1)
    assert call.result(DEADLINE_S) == "awake"
    assert len(runs(path)) == 1


@pytest.mark.parametrize("kill", [kill_worker, kill_runner])
def test_a_worker_killed_amid_a_call_costs_a_run_and_no_outcome(
    faults: Faults, events: Events, path: str, kill: Any
) -> None:
    call = note_and_nap_once(path)
    worker_id, _ = running(path)
    kill(worker_id)
    assert call.result(DEADLINE_S) == "awake"
    assert call.worker_id != worker_id
    assert events.stages(call) == ["queued", "sent", "done"]
    assert len(runs(path)) == 2
    assert call.attempts == 1  # the platform's own repetition


def test_a_call_that_the_platform_gave_up_is_tried_again_where_retries_were_asked_for(
    faults: Faults, events: Events, path: str
) -> None:
    call = note_and_kill.with_options(retries=1, retry_on=(), backoff=0)(path, 3)
    assert call.result(DEADLINE_S) == 4
    assert call.attempts == 2
    assert events.stages(call) == ["queued", "sent", "done"]


@endpoint
def note_and_kill(path: str, times: int) -> int:
    """End its process in the first runs."""
    note.undecorated(path)
    count = len(Path(path).read_text().splitlines())
    if count <= times:
        os._exit(9)
    return count


def test_an_exception_of_the_function_is_tried_again(faults: Faults, events: Events, path: str) -> None:
    call = note_and_fail.with_options(retries=2, retry_on=OSError, backoff=0.05)(path, 2)
    assert call.result(DEADLINE_S) == 3
    assert events.stages(call) == ["queued", "sent", "done"]
    assert call.attempts == len(runs(path)) == 3
    refused = note_and_fail.with_options(retries=2, retry_on=LookupError)(path + "-2", 2)
    assert isinstance(refused.exception(DEADLINE_S), ConnectionResetError)
    assert len(runs(path + "-2")) == 1


def test_options_hold_for_every_call_of_a_map(faults: Faults, tmp_path: Path) -> None:
    paths = [str(tmp_path / str(n)) for n in range(6)]
    tried = note_and_fail.with_options(retries=1, backoff=0)
    assert list(tried.map(paths, [1] * 6)) == [2] * 6


def test_calls_that_travel_together_are_tried_again_one_by_one(faults: Faults, events: Events, tmp_path: Path) -> None:
    tried = fail_first.with_options(retries=2, retry_on=ConnectionError, backoff=0.05)
    before = faults.accepted["runsync"] + faults.accepted["run"]
    calls = [tried(str(tmp_path), n) for n in range(200)]
    assert [call.result(DEADLINE_S) for call in calls] == list(range(200))
    assert faults.accepted["runsync"] + faults.accepted["run"] - before < 200
    assert {tuple(events.stages(call)) for call in calls} == {("queued", "sent", "done")}
    again = {int(place.stem) for place in tmp_path.glob("*.again")}
    assert again == {n for n in range(200) if n % 3 == 0} | {50}
    assert {call.attempts for n, call in enumerate(calls) if n % 3 == 0} == {2}
    assert sum(call.attempts for call in calls) == 200 + 67  # the process that ended cost nobody an attempt


@pytest.mark.parametrize("retries", [0, 1])
def test_a_result_that_expired_is_an_error_or_another_attempt(
    faults: Faults, monkeypatch: pytest.MonkeyPatch, path: str, retries: int
) -> None:
    monkeypatch.setattr(queue_lane, "_VISIBILITY_S", 0.0)
    nap = note_and_nap.with_options(retries=retries, backoff=0)
    release = faults.hold("stream")
    call = nap(path, 1.2)
    running(path)
    session = flash_plugins.process.session()
    handle = session.perform(lambda: session.ask(lambda client: client.find("outcomes"))).result(DEADLINE_S)
    assert handle is not None
    wait_for(lambda: call.job_id)

    def status(client: RunpodClient, query: str = "") -> Any:
        return client.job_answer(handle, "status", call.job_id, query=query)

    def ask(query: str = "") -> Any:
        return session.perform(lambda: session.ask(lambda client: status(client, query))).result(DEADLINE_S)

    wait_for(lambda: ask()["status"] == "COMPLETED")
    ask("?ttl=1")  # nobody keeps it any longer
    time.sleep(0.05)
    release()
    if retries:
        assert call.result(DEADLINE_S) == "awake"
        assert len(runs(path)) == call.attempts == 2
    else:
        assert isinstance(call.exception(DEADLINE_S), JobExpired)


def test_cancelling_ends_code_that_does_not_listen(faults: Faults, path: str) -> None:
    calls = [swallow(path), block_in_c(path + "-c")]
    pids = [int(running(one)[1]) for one in (path, path + "-c")]
    for call in calls:
        assert call.cancel()
    for call in calls:
        with pytest.raises(JobCancelled):
            call.result(DEADLINE_S)
    wait_for(lambda: not any(is_running(pid) for pid in pids))
    assert note(path + "-next", 1).result(DEADLINE_S) == 1


def test_a_run_that_takes_too_long_is_stopped_by_its_worker(faults: Faults, events: Events, path: str) -> None:
    note(path).result(DEADLINE_S)
    ways: list[Call[Any]] = [
        note_and_nap.with_options(run_timeout=1)(path, 60),
        block_in_c.with_options(run_timeout=1)(path + "-c"),
    ]
    for call in ways:
        error = call.exception(DEADLINE_S)
        assert isinstance(error, JobTimeout), error
        assert error.limit == "run_timeout"
        assert "1 s" in str(error)
        assert events.stages(call) == ["queued", "sent", "failed"]
    assert len(runs(path)) == 2
    assert not is_running(int(running(path + "-c")[1]))


def test_a_run_that_took_too_long_is_tried_again_where_retries_were_asked_for(faults: Faults, path: str) -> None:
    call = note_and_nap_once.with_options(run_timeout=1, retries=1, backoff=0)(path)
    assert call.result(DEADLINE_S) == "awake"
    assert len(runs(path)) == call.attempts == 2


def test_the_total_limit_ends_a_call_and_what_it_runs(faults: Faults, events: Events, path: str) -> None:
    call = note_and_nap.with_options(timeout=2)(path, 60)
    error = call.exception(DEADLINE_S)
    assert isinstance(error, JobTimeout)
    assert error.limit == "timeout"
    running(path)
    assert events.stages(call) == ["queued", "sent", "failed"]
    assert note_and_nap(path, 0).result(10) == "awake"  # a worker is free again


def test_a_call_that_waits_for_its_worker_too_long_is_told_why(faults: Faults) -> None:
    nap(0).result(DEADLINE_S)
    busy = nap(30)
    wait_for(lambda: busy.job_id)
    call = nap.with_options(queue_timeout=2)(0)
    error = call.exception(DEADLINE_S)
    assert isinstance(error, JobTimeout)
    assert error.limit == "queue_timeout"
    assert "queue_timeout of 2 s" in str(error)
    assert "1 call that is with its workers: allow more with workers=" in str(error)
    busy.cancel()
    assert nap.with_options(queue_timeout=30)(0).result(DEADLINE_S) == 0


def test_a_load_balanced_call_that_its_worker_gives_back_again_and_again_is_told_why(faults: Faults) -> None:
    nap_balanced(0).result(DEADLINE_S)
    busy = nap_balanced(30)
    wait_for(lambda: busy.job_id)
    error = nap_balanced.with_options(queue_timeout=1.5)(0).exception(DEADLINE_S)
    assert isinstance(error, JobTimeout)
    assert error.limit == "queue_timeout"
    assert "busy with 1 other call: allow more with workers=" in str(error)
    busy.cancel()
    assert nap_balanced(0).result(DEADLINE_S) == 0
