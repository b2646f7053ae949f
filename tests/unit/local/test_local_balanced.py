# SPDX-License-Identifier: Apache-2.0
"""Which worker a request gets and how many there are; health checks answer as a test wishes, time moves by hand."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from flash_plugins.platforms import api
from flash_plugins.platforms.local.affinity import Affinity, Refusal, parse_affinity
from flash_plugins.platforms.local.balanced import BalancedFleet, balanced_environment
from flash_plugins.platforms.local.clock import FakeClock
from flash_plugins.platforms.local.endpoints import update_endpoint
from flash_plugins.platforms.local.ports import Ports
from flash_plugins.platforms.local.workers import BalancedWorker
from tests.unit.local.local_fakes import FakeProcesses, endpoint


class FakePorts(Ports):
    """Any port is free."""

    def _try(self, port: int) -> bool:
        is_free = port not in self._taken
        self._taken.add(port)
        return is_free


class Scene:
    """One load-balanced endpoint with a fake clock, fake processes and fake health checks."""

    def __init__(self, requests: int = 1, **changes: Any) -> None:
        self.clock = FakeClock()
        self.processes = FakeProcesses()
        self.asked: dict[str, Callable[[int | str], None]] = {}
        changes = {"type": "LOAD_BALANCER", "scaling": {"type": "REQUEST_COUNT", "requestCount": requests}, **changes}
        self.fleet = BalancedFleet(
            endpoint(**changes),
            clock=self.clock,
            processes=self.processes,
            environment=lambda spec, worker: {},
            prober=self.asked.__setitem__,
            ports=FakePorts(),
        )

    def worker(self, number: int) -> BalancedWorker:
        return self.fleet.workers[self.processes.started[number]]

    def health(self, worker: BalancedWorker, found: int | str) -> None:
        """Answer the health check that a worker has been asked, after letting it be asked."""
        url = f"http://127.0.0.1:{worker.health_port}/ping"
        if url not in self.asked:
            self.clock.advance(3.0)
        self.asked.pop(url)(found)

    def request(self, affinity: str | None = None) -> list[BalancedWorker | Refusal]:
        """Ask for a worker; the list gets it, or the refusal, once there is one."""
        answers: list[BalancedWorker | Refusal] = []
        self.fleet.wait(None if affinity is None else parse_affinity(affinity), answers.append)
        return answers

    def ready(self, number: int = 0) -> BalancedWorker:
        worker = self.worker(number)
        self.health(worker, 200)
        return worker

    def stopped(self) -> list[str]:
        return [worker_id for worker_id, number in self.processes.signals if number == signal.SIGTERM]


def refused(answers: list[BalancedWorker | Refusal]) -> tuple[int, str]:
    [refusal] = answers
    assert isinstance(refusal, Refusal)
    return refusal.status, refusal.error


# -- getting a worker ----------------------------------------------------------------------------------------


def test_the_first_request_starts_a_worker_and_gets_it_once_it_is_healthy() -> None:
    scene = Scene()
    assert scene.processes.started == []
    answers = scene.request()
    worker = scene.worker(0)
    assert (worker.status, answers) == ("INITIALIZING", [])
    scene.health(worker, "nothing listens there")
    scene.health(worker, 204)
    assert (worker.status, answers) == ("INITIALIZING", [])
    scene.health(worker, 200)
    assert (worker.status, answers) == ("RUNNING", [worker])
    scene.fleet.release(worker)
    assert worker.status == "IDLE"


def test_a_health_check_is_asked_at_once_and_often_until_it_passes_and_then_seldom() -> None:
    scene = Scene(workers={"min": 1})
    asked = 0
    for _ in range(20):
        [report] = scene.asked.values()
        scene.asked.clear()
        asked += 1
        report(204)
        scene.clock.advance(0.05)
    assert asked == 20
    scene.ready()
    scene.clock.advance(2.9)
    assert scene.asked == {}
    scene.clock.advance(0.2)
    assert len(scene.asked) == 1


def test_a_free_worker_is_claimed_without_waiting() -> None:
    scene = Scene(workers={"min": 1})
    assert scene.fleet.claim() is None
    worker = scene.ready()
    assert scene.fleet.claim() is worker
    assert scene.fleet.in_flight == 1


def test_the_least_busy_worker_is_chosen_and_among_equals_the_one_that_was_busy_last() -> None:
    scene = Scene(requests=10, workers={"min": 2})
    first, second = scene.ready(0), scene.ready(1)
    one = scene.fleet.claim()
    assert one is not None
    other = scene.fleet.claim()
    assert {one, other} == {first, second}
    scene.clock.advance(1)
    scene.fleet.release(one)
    assert scene.fleet.claim() is one


def test_a_worker_takes_any_number_of_requests_unless_the_endpoint_caps_them() -> None:
    scene = Scene(requests=100, workers={"max": 1})
    scene.request()
    worker = scene.ready()
    assert [scene.fleet.claim() for _ in range(50)] == [worker] * 50
    capped = Scene(requests=100, cap=2, workers={"max": 1})
    answers = [capped.request() for _ in range(3)]
    worker = capped.ready()
    assert answers == [[worker], [worker], []]
    capped.fleet.release(worker)
    assert answers[2] == [worker]


def test_a_request_that_is_withdrawn_gets_nothing() -> None:
    scene = Scene()
    answers: list[BalancedWorker | Refusal] = []
    waiting = scene.fleet.wait(None, answers.append)
    scene.fleet.withdraw(waiting)
    scene.ready()
    scene.clock.advance(1000)
    assert (answers, scene.fleet.waiting) == ([], 0)


def test_no_worker_in_time_is_an_error_that_says_what_the_worker_does() -> None:
    scene = Scene()
    scene.processes.log = ["Uvicorn running on port 8000"]
    answers = scene.request()
    worker = scene.worker(0)
    scene.health(worker, "nothing listens there")
    scene.clock.advance(api.BALANCED_WORKER_WAIT_S - 0.1)
    assert answers == []
    scene.clock.advance(0.2)
    assert refused(answers) == (503, api.NO_WORKERS_ERROR)
    [refusal] = answers
    assert isinstance(refusal, Refusal)
    assert refusal.detail is not None
    for part in (worker.id, str(worker.port), "nothing listens there", "running on port 8000"):
        assert part in refusal.detail


def test_an_endpoint_without_workers_refuses_at_once() -> None:
    scene = Scene(workers={"max": 0})
    assert refused(scene.request()) == (503, api.NO_WORKERS_ERROR)


# -- starts that fail ----------------------------------------------------------------------------------------


def test_three_failed_starts_in_a_row_tell_what_waits_the_reason_with_the_log() -> None:
    scene = Scene()
    scene.processes.log = ["ImportError: no module"]
    answers = scene.request()
    for number in range(3):
        assert answers == []
        scene.processes.exit(scene.processes.started[number], 1)
        scene.clock.advance(1)
    status, error = refused(answers)
    assert (status, error.startswith(api.WORKER_START_FAILED_PREFIX)) == (502, True)
    assert "exit code 1" in error
    assert "ImportError: no module" in error


def test_a_worker_that_never_gets_healthy_is_killed_and_counts_as_a_failed_start() -> None:
    scene = Scene(env={"RUNPOD_INIT_TIMEOUT": "30"}, workers={"max": 1})
    answers = scene.request()
    for number in range(3):
        worker = scene.worker(number)
        scene.health(worker, 503)
        scene.clock.advance(31)
        assert scene.processes.signals[-1] == (worker.id, signal.SIGKILL)
        scene.processes.exit(worker.id, -9)
        scene.clock.advance(1)
    status, error = refused(answers)
    assert status == 502
    assert "was not healthy for" in error
    assert "with 503" in error


def test_each_start_gets_a_port_of_its_own() -> None:
    scene = Scene(workers={"min": 2})
    first, second = scene.worker(0), scene.worker(1)
    assert first.port != second.port
    scene.processes.exit(first.id, 1)
    scene.clock.advance(1)
    assert scene.worker(2).port != second.port


def test_an_answer_forgives_failed_starts() -> None:
    scene = Scene(workers={"max": 1})
    scene.request()
    for number in range(2):
        scene.processes.exit(scene.processes.started[number], 1)
        scene.clock.advance(1)
    worker = scene.ready(2)
    scene.fleet.note_answer(worker)
    scene.fleet.release(worker)
    scene.processes.exit(worker.id, 0)
    answers = scene.request()
    scene.processes.exit(scene.processes.started[3], 1)
    assert answers == []


# -- health --------------------------------------------------------------------------------------------------


def test_an_unhealthy_worker_gets_no_requests_until_it_is_healthy_again() -> None:
    scene = Scene(workers={"max": 1, "min": 1})
    worker = scene.ready()
    scene.health(worker, 500)
    assert (worker.status, scene.fleet.claim()) == ("UNHEALTHY", None)
    answers = scene.request()
    scene.health(worker, 204)
    assert answers == []
    scene.health(worker, 200)
    assert answers == [worker]


def test_another_worker_starts_for_an_unhealthy_one_where_there_is_room() -> None:
    scene = Scene(workers={"max": 2})
    scene.request()
    worker = scene.ready()
    scene.health(worker, 500)
    assert len(scene.processes.started) == 2


def test_a_worker_that_stays_unhealthy_is_killed() -> None:
    scene = Scene(workers={"max": 1, "min": 1})
    worker = scene.ready()
    for _ in range(160):
        scene.health(worker, 500)
        scene.clock.advance(3)
        if scene.processes.signals:
            break
    assert scene.processes.signals == [(worker.id, signal.SIGKILL)]
    scene.processes.exit(worker.id, -9)
    assert worker.end is not None
    assert "was not healthy for 48" in worker.end


# -- affinity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("abc1", Affinity("abc1")),
        (" strict abc1 ", Affinity("abc1", is_strict=True)),
        ("strict-resume  abc1", Affinity("abc1", is_strict=True, is_resuming=True)),
        ("strict", Affinity("strict")),
    ],
)
def test_affinity_is_one_of_three_forms(text: str, wanted: Affinity) -> None:
    assert parse_affinity(text) == wanted


@pytest.mark.parametrize("text", ["", "sticky abc1", "strict abc1 def2", "a/b"])
def test_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="X-Runpod-Worker-Id must be"):
        parse_affinity(text)


def test_soft_affinity_prefers_a_worker_and_takes_another() -> None:
    scene = Scene(requests=100, workers={"min": 2})
    first, second = scene.ready(0), scene.ready(1)
    assert scene.fleet.claim(Affinity(first.id)) is first
    assert scene.fleet.claim(Affinity(first.id)) is first
    assert scene.fleet.claim(Affinity(second.id)) is second
    assert scene.fleet.claim(Affinity("gone")) in (first, second)


def test_strict_affinity_waits_for_its_worker_and_for_no_other() -> None:
    scene = Scene(cap=1, workers={"min": 2, "max": 2})
    first = scene.ready(0)
    scene.ready(1)
    assert scene.fleet.claim(Affinity(first.id)) is first
    answers = scene.request(f"strict {first.id}")
    assert answers == []
    scene.fleet.release(first)
    assert answers == [first]


def test_strict_affinity_times_out_with_runpods_word() -> None:
    scene = Scene(workers={"min": 1, "max": 1})
    worker = scene.ready()
    scene.health(worker, 500)
    answers = scene.request(f"strict {worker.id}")
    scene.clock.advance(api.BALANCED_AFFINITY_WAIT_S + 0.1)
    assert refused(answers) == (400, "worker_timeout")


def test_strict_affinity_to_a_worker_that_is_gone_ends_at_once() -> None:
    scene = Scene(workers={"min": 1, "max": 1})
    worker = scene.ready()
    scene.health(worker, 500)
    waiting = scene.request(f"strict {worker.id}")
    scene.processes.exit(worker.id, -9)
    assert refused(waiting) == (404, "affinity_worker_gone")
    assert refused(scene.request(f"strict {worker.id}")) == (404, "affinity_worker_gone")
    assert refused(scene.request(f"strict-resume {worker.id}")) == (404, "affinity_worker_gone")


def idle_scene() -> tuple[Scene, BalancedWorker]:
    """A scene whose only worker has just been told to end, because it was idle."""
    scene = Scene(workers={"max": 1, "idleTimeout": 5})
    scene.request()
    worker = scene.ready()
    scene.fleet.release(worker)
    scene.clock.advance(5.1)
    assert scene.stopped() == [worker.id]
    return scene, worker


def test_strict_resume_wakes_up_a_worker_that_was_scaled_down() -> None:
    scene, worker = idle_scene()
    scene.processes.exit(worker.id, 0)
    assert refused(scene.request(f"strict {worker.id}")) == (404, "affinity_worker_gone")
    answers = scene.request(f"strict-resume {worker.id}")
    assert scene.processes.started == [worker.id, worker.id]
    again = scene.fleet.workers[worker.id]
    assert again is not worker
    scene.health(again, 200)
    assert answers == [again]


def test_strict_resume_waits_until_the_worker_has_ended() -> None:
    scene, worker = idle_scene()
    answers = scene.request(f"strict-resume {worker.id}")
    assert scene.processes.started == [worker.id]
    scene.processes.exit(worker.id, 0)
    assert scene.processes.started == [worker.id, worker.id]
    scene.health(scene.fleet.workers[worker.id], 200)
    assert answers == [scene.fleet.workers[worker.id]]


def test_a_new_version_cannot_resume_what_ran_before() -> None:
    scene, worker = idle_scene()
    scene.processes.exit(worker.id, 0)
    scene.fleet.update(update_endpoint(scene.fleet.spec, {"args": "python other.py"}))
    assert refused(scene.request(f"strict-resume {worker.id}")) == (404, "affinity_worker_gone")


# -- scaling -------------------------------------------------------------------------------------------------


def test_workers_follow_the_requests_in_flight() -> None:
    scene = Scene(requests=2, workers={"max": 3})
    started = []
    for _ in range(8):
        scene.request()
        started.append(len(scene.processes.started))
    assert started == [1, 1, 2, 2, 3, 3, 3, 3]


def test_an_idle_worker_is_stopped_after_the_idle_timeout_down_to_the_minimum() -> None:
    scene = Scene(workers={"min": 1, "max": 2, "idleTimeout": 7})
    first = scene.ready(0)
    assert [scene.request(), scene.request()] == [[first], [first]]
    scene.ready(1)
    scene.fleet.release(first)
    scene.fleet.release(first)
    scene.clock.advance(6.9)
    assert scene.stopped() == []
    scene.clock.advance(0.2)
    assert len(scene.stopped()) == 1


def test_a_request_that_waits_for_one_certain_worker_starts_no_other() -> None:
    scene = Scene(cap=1, workers={"min": 1, "max": 3})
    worker = scene.ready()
    scene.request(f"strict {worker.id}")
    scene.request(f"strict {worker.id}")
    assert len(scene.processes.started) == 1


def test_a_new_version_replaces_idle_workers_at_once_and_busy_ones_after_their_requests() -> None:
    scene = Scene(requests=1, workers={"min": 2, "max": 2})
    busy, idle = scene.ready(0), scene.ready(1)
    assert scene.fleet.claim(Affinity(busy.id)) is busy
    scene.fleet.update(update_endpoint(scene.fleet.spec, {"args": "python other.py"}))
    assert (busy.is_stopping, idle.is_stopping) == (False, True)
    assert len(scene.processes.started) == 4
    assert scene.fleet.claim() is None  # the old ones take no more
    scene.fleet.release(busy)
    assert busy.is_stopping


def test_what_outlasts_the_time_limit_of_requests_does_not_hold_up_an_update() -> None:
    scene = Scene(workers={"min": 1, "max": 1})
    worker = scene.ready()
    assert scene.fleet.claim() is worker  # a WebSocket, say
    scene.fleet.update(update_endpoint(scene.fleet.spec, {"args": "python other.py"}))
    scene.clock.advance(api.BALANCED_REQUEST_TIMEOUT_S - 1)
    assert not worker.is_stopping
    scene.clock.advance(2)
    assert worker.is_stopping


def test_closing_refuses_what_waits_and_starts_nothing_again() -> None:
    scene = Scene(workers={"min": 1})
    answers = scene.request()
    worker = scene.worker(0)
    scene.fleet.close()
    assert refused(answers) == (404, "endpoint deleted")
    scene.processes.exit(worker.id, 0)
    scene.clock.advance(1000)
    assert len(scene.processes.started) == 1
    assert scene.clock.pending == 0


# -- ports ---------------------------------------------------------------------------------------------------


def test_the_wanted_port_goes_to_the_first_worker_and_others_get_free_ones() -> None:
    scene = Scene(env={"PORT": "8123", "PORT_HEALTH": "8124"}, workers={"min": 2})
    first, second = scene.worker(0), scene.worker(1)
    assert (first.port, first.health_port) == (8123, 8124)
    assert len({8123, 8124, second.port, second.health_port}) == 4
    scene.processes.exit(first.id, 0)
    scene.clock.advance(1)
    assert scene.worker(2).port == 8123


def test_a_system_port_is_replaced_and_the_health_port_follows() -> None:
    worker = Scene(env={"PORT": "80", "PORT_HEALTH": "80"}, workers={"min": 1}).worker(0)
    assert worker.port > 1024
    assert worker.health_port == worker.port
    alone = Scene(env={"PORT": "80"}, workers={"min": 1}).worker(0)
    assert alone.health_port == alone.port


def test_a_port_in_use_is_not_handed_out() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        ports = Ports()
        assert ports.take(number) != number
    own = ports.take()
    assert ports.take(own) != own
    ports.give_back(own)
    assert ports.take(own) == own


def test_workers_are_told_their_port_and_who_they_are() -> None:
    scene = Scene(env={"HEALTH_CHECK_PATH": "/up"}, workers={"min": 1})
    worker = scene.worker(0)
    environment = balanced_environment(scene.fleet.spec, worker, "/cache")
    assert environment["PORT"] == environment["PORT_HEALTH"] == str(worker.port)
    assert environment["HEALTH_CHECK_PATH"] == "/up"
    assert api.CAPPED_ENV in environment  # by which our own worker knows that it is local
    assert environment["RUNPOD_POD_ID"] == worker.id
