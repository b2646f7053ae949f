# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from flash_plugins.job import JobStatus
from flash_plugins.platforms import api
from flash_plugins.platforms.local.endpoints import update_endpoint
from flash_plugins.platforms.local.wire import MalformedJson
from tests.unit.local.local_fakes import Scene

REQUEST_COUNT = {"type": "REQUEST_COUNT", "requestCount": 1}


def test_the_first_job_starts_a_worker_at_once_and_gets_it() -> None:
    scene = Scene()
    assert scene.processes.started == []
    job = scene.submit()
    assert len(scene.processes.started) == 1
    assert scene.worker(0).status == "INITIALIZING"
    assert scene.poll(scene.worker(0)) == [[job]]
    assert scene.worker(0).status == "RUNNING"


def test_minimum_workers_start_without_a_job() -> None:
    assert len(Scene(workers={"min": 2}).processes.started) == 2


def test_low_priority_jobs_start_no_worker() -> None:
    scene = Scene()
    job = scene.submit(b'{"input": 1, "policy": {"lowPriority": true}}')
    assert scene.processes.started == []
    urgent = scene.submit()
    assert scene.poll(scene.worker(0), want=9) == [[urgent, job]]


def test_a_waiting_poll_gets_the_next_job_at_once() -> None:
    scene = Scene(workers={"min": 1})
    answers = scene.poll(scene.worker(0))
    assert answers == []
    job = scene.submit()
    assert answers == [[job]]


def test_the_cap_counts_jobs_in_flight_and_the_result_frees_a_slot() -> None:
    scene = Scene(cap=2, workers={"max": 1})
    jobs = [scene.submit() for _ in range(4)]
    worker = scene.worker(0)
    assert scene.poll(worker, want=9) == [jobs[:2]]
    held = scene.poll(worker, want=9)
    assert held == []
    scene.done(worker, jobs[0])
    assert held == [[jobs[2]]]


def test_without_a_cap_the_workers_own_wish_counts() -> None:
    scene = Scene(workers={"max": 1})
    jobs = [scene.submit() for _ in range(5)]
    assert scene.poll(scene.worker(0), want=3) == [jobs[:3]]


def test_jobs_go_to_the_least_busy_worker() -> None:
    scene = Scene(cap=4, workers={"min": 2, "max": 2})
    first, second = scene.worker(0), scene.worker(1)
    scene.poll(first)
    scene.submit()
    later_first, later_second = scene.poll(first), scene.poll(second)
    job = scene.submit()
    assert (later_first, later_second) == ([], [[job]])


def test_a_batch_poll_leaves_something_for_the_other_worker() -> None:
    scene = Scene(workers={"min": 2, "max": 2})
    jobs = [scene.submit() for _ in range(4)]
    scene.fleet.answer_polls()
    answers = [scene.poll(scene.worker(0), want=8), scene.poll(scene.worker(1), want=8)]
    assert answers[0] == [jobs]  # it was alone when it asked
    for job in jobs:
        scene.done(scene.worker(0), job)
    answers = [scene.poll(scene.worker(0), want=8), scene.poll(scene.worker(1), want=8)]
    more = [scene.submit() for _ in range(2)]
    assert sorted(len(answer[0]) for answer in answers) == [1, 1]
    assert {job.id for answer in answers for job in answer[0]} == {job.id for job in more}


def test_a_hand_over_that_fails_puts_the_job_back_in_front() -> None:
    scene = Scene(workers={"max": 1})
    first, second = scene.submit(), scene.submit()
    worker = scene.worker(0)
    assert scene.poll(worker) == [[first]]
    scene.fleet.take_back(worker, [first])
    assert (first.status, first.attempts, worker.leases) == (JobStatus.IN_QUEUE, 0, {})
    assert scene.poll(worker, want=2) == [[first, second]]


def test_a_new_poll_of_a_worker_replaces_its_old_one() -> None:
    scene = Scene(workers={"min": 1})
    worker = scene.worker(0)
    old, new = scene.poll(worker), scene.poll(worker)
    job = scene.submit()
    assert (old, new) == ([[]], [[job]])


def test_queue_delay_starts_another_worker_when_a_job_has_waited_that_long() -> None:
    scene = Scene(cap=1, workers={"max": 3})
    scene.submit()
    scene.poll(scene.worker(0))
    scene.submit()
    scene.clock.advance(3.9)
    assert len(scene.processes.started) == 1
    scene.clock.advance(0.2)
    assert len(scene.processes.started) == 2
    scene.clock.advance(30)
    assert len(scene.processes.started) == 2  # one is on its way for the one job that waits


def test_request_count_starts_as_many_workers_as_the_jobs_need() -> None:
    scene = Scene(scaling=REQUEST_COUNT, workers={"max": 3})
    for expected in (1, 2, 3, 3):
        scene.submit()
        assert len(scene.processes.started) == expected


def test_an_idle_worker_is_stopped_after_the_idle_timeout_down_to_the_minimum() -> None:
    scene = Scene(cap=1, workers={"min": 1, "max": 2, "idleTimeout": 7})
    worker = scene.worker(0)
    scene.poll(worker)
    job = scene.submit()
    waiting = scene.submit()
    scene.clock.advance(5)
    second = scene.worker(1)
    assert scene.poll(second) == [[waiting]]
    scene.done(second, waiting)
    held = scene.poll(second)
    scene.done(worker, job)
    scene.poll(worker)
    scene.clock.advance(6.9)
    assert scene.processes.signals == []
    scene.clock.advance(0.2)
    stopped = [worker_id for worker_id, number in scene.processes.signals if number == signal.SIGTERM]
    assert len(stopped) == 1
    assert [] in held or stopped == [worker.id]  # its poll was answered, so that it can end
    scene.processes.exit(stopped[0])
    scene.clock.advance(100)
    assert len(scene.fleet.workers) == 1
    assert len(scene.processes.started) == 2


def test_a_worker_that_does_not_end_when_asked_is_killed() -> None:
    scene = Scene(workers={"idleTimeout": 1})
    scene.submit()
    worker = scene.worker(0)
    [[job]] = scene.poll(worker)
    scene.done(worker, job)
    scene.poll(worker)
    scene.clock.advance(1.1)
    scene.clock.advance(5.1)
    assert scene.processes.signals == [(worker.id, signal.SIGTERM), (worker.id, signal.SIGKILL)]


def test_a_lost_workers_jobs_are_queued_again_in_front_and_in_order() -> None:
    scene = Scene(workers={"max": 1})
    jobs = [scene.submit() for _ in range(3)]
    assert scene.poll(scene.worker(0), want=2) == [jobs[:2]]
    scene.processes.exit(scene.processes.started[0], -9)
    assert len(scene.processes.started) == 2
    assert scene.poll(scene.worker(1), want=9) == [jobs]
    assert [job.attempts for job in jobs] == [2, 2, 1]


def test_a_job_fails_with_the_reason_when_its_third_worker_is_lost() -> None:
    scene = Scene(workers={"max": 1})
    scene.processes.log = ["allocating", "Killed"]
    job = scene.submit()
    for number in range(3):
        assert scene.poll(scene.worker(number)) == [[job]]
        scene.processes.exit(scene.processes.started[number], -9)
    answer = json.loads(job.to_json())
    assert (answer["status"], answer["attempts"]) == ("FAILED", 3)
    assert answer["error"].startswith("worker lost: ")
    for part in ("signal 9 (SIGKILL", "out of memory", "attempt 3 of 3", "allocating\nKilled"):
        assert part in answer["error"]


def test_a_stream_that_was_read_in_part_is_not_run_again() -> None:
    scene = Scene()
    job = scene.submit()
    worker = scene.worker(0)
    scene.poll(worker)
    scene.fleet.job_chunk(worker, job.id, b'{"output": 1}')
    job.unread_chunks()
    scene.processes.exit(worker.id, 1)
    assert job.status is JobStatus.FAILED
    assert "part of its stream had been read" in json.loads(job.to_json())["error"]


def test_results_that_were_read_early_come_again_when_their_job_is_run_again() -> None:
    scene = Scene(env={api.ENDPOINT_NAME_ENV: "ours"})
    job = scene.submit()
    worker = scene.worker(0)
    scene.poll(worker)
    scene.fleet.job_chunk(worker, job.id, b'{"output": {"results": 1}}')
    assert job.unread_chunks() == [b'{"results": 1}']
    scene.processes.exit(worker.id, -9)
    assert job.status is JobStatus.IN_QUEUE
    another = scene.worker(1)
    assert scene.poll(another) == [[job]]
    scene.fleet.job_chunk(another, job.id, b'{"output": {"results": 2}}')
    assert job.unread_chunks() == [b'{"results": 2}']
    scene.done(another, job)
    assert json.loads(job.to_json())["output"] != []


def test_three_failed_starts_in_a_row_fail_the_queued_jobs_with_the_log() -> None:
    scene = Scene()
    scene.processes.log = ["ImportError: no module"]
    job = scene.submit()
    for number in range(3):
        assert job.status is JobStatus.IN_QUEUE
        scene.processes.exit(scene.processes.started[number], 1)
        scene.clock.advance(1)
    answer = json.loads(job.to_json())
    assert answer["status"] == "FAILED"
    assert answer["error"].startswith("worker did not start: ")
    assert "exit code 1" in answer["error"]
    assert "ImportError: no module" in answer["error"]


def test_after_a_crash_loop_the_next_job_may_try_again_and_a_result_forgives() -> None:
    scene = Scene()
    scene.submit()
    for number in range(3):
        scene.processes.exit(scene.processes.started[number], 1)
        scene.clock.advance(1)
    assert len(scene.processes.started) == 3
    job = scene.submit()
    scene.clock.advance(1)
    worker = scene.worker(3)
    assert scene.poll(worker) == [[job]]
    scene.done(worker, job)
    assert job.status is JobStatus.COMPLETED
    scene.processes.exit(worker.id, 0)
    later = scene.submit()
    scene.processes.exit(scene.processes.started[4], 1)
    assert later.status is JobStatus.IN_QUEUE


def test_minimum_workers_that_crash_are_started_with_growing_pauses() -> None:
    scene = Scene(workers={"min": 1})
    for _ in range(60):
        for worker_id in list(scene.processes.running):
            scene.processes.exit(worker_id, 1)
        scene.clock.advance(1)
    assert 10 <= len(scene.processes.started) <= 20


def test_a_worker_that_never_asks_for_a_job_is_killed_after_the_init_timeout() -> None:
    scene = Scene(env={"RUNPOD_INIT_TIMEOUT": "30"})
    scene.submit()
    scene.clock.advance(29)
    assert scene.processes.signals == []
    scene.clock.advance(2)
    assert scene.processes.signals == [(scene.processes.started[0], signal.SIGKILL)]


def test_a_worker_that_stops_pinging_is_lost() -> None:
    scene = Scene(workers={"max": 1})
    job = scene.submit()
    worker = scene.worker(0)
    scene.poll(worker)
    for _ in range(20):
        scene.fleet.ping(worker, ailment=None)
        scene.clock.advance(10)
    assert scene.processes.signals == []
    scene.clock.advance(60)
    assert scene.processes.signals == [(worker.id, signal.SIGKILL)]
    scene.processes.exit(worker.id, -9)
    assert job.status is JobStatus.IN_QUEUE


def test_stop_pod_replaces_the_worker_after_its_jobs() -> None:
    scene = Scene(cap=2, workers={"max": 1})
    first, second = scene.submit(), scene.submit()
    worker = scene.worker(0)
    scene.poll(worker, want=2)
    scene.done(worker, first, b'{"output": 1, "stopPod": true}')
    third = scene.submit()
    assert scene.poll(worker) == [[]]
    assert scene.processes.signals == []
    scene.done(worker, second)
    assert scene.processes.signals == [(worker.id, signal.SIGTERM)]
    assert scene.poll(scene.worker(1)) == [[third]]


def test_cancel_of_a_running_job_frees_its_slot_and_tells_the_worker() -> None:
    scene = Scene(cap=1, workers={"max": 1})
    first, second = scene.submit(), scene.submit()
    worker = scene.worker(0)
    scene.poll(worker)
    held = scene.poll(worker)
    stops: list[list[str]] = []
    scene.fleet.await_stops(worker, stops.append)
    scene.fleet.cancel(first)
    assert stops == [[first.id]]
    assert held == [[second]]
    scene.done(worker, first)  # too late
    assert first.status is JobStatus.CANCELLED


def test_stops_wait_for_the_worker_to_ask() -> None:
    scene = Scene()
    job = scene.submit()
    worker = scene.worker(0)
    scene.poll(worker)
    scene.fleet.cancel(job)
    stops: list[list[str]] = []
    scene.fleet.await_stops(worker, stops.append)
    assert stops == [[job.id]]


def test_progress_shows_as_output_while_the_job_runs() -> None:
    scene = Scene()
    job = scene.submit()
    worker = scene.worker(0)
    scene.poll(worker)
    scene.done(worker, job, b'{"status": "IN_PROGRESS", "output": "half"}')
    assert json.loads(job.to_json())["output"] == "half"
    scene.done(worker, job, b'{"error": "no"}')
    assert "output" not in json.loads(job.to_json())


@pytest.mark.parametrize(
    ("report", "status", "output", "error"),
    [
        (b'{"output": {"a": NaN}}', "COMPLETED", {"a": pytest.approx(float("nan"), nan_ok=True)}, None),
        (b'{"output": false}', "COMPLETED", False, None),
        (b"{}", "COMPLETED", None, None),
        (b'{"output": {"a": 1}, "error": "soft"}', "FAILED", {"a": 1}, "soft"),
        (b'{"error": {"code": 7}}', "FAILED", None, '{"code":7}'),
    ],
)
def test_what_a_worker_reports_is_what_the_client_sees(report: bytes, status: str, output: Any, error: Any) -> None:
    scene = Scene()
    job = scene.submit()
    scene.poll(scene.worker(0))
    scene.done(scene.worker(0), job, report)
    answer = json.loads(job.to_json())
    assert (answer["status"], answer.get("output"), answer.get("error")) == (status, output, error)


def test_a_report_that_is_no_json_is_refused() -> None:
    scene = Scene()
    job = scene.submit()
    scene.poll(scene.worker(0))
    with pytest.raises(MalformedJson):
        scene.done(scene.worker(0), job, b"<html>")


def test_an_empty_input_fails_as_it_does_on_runpod() -> None:
    scene = Scene()
    job = scene.submit(b'{"input": {}}')
    assert job.status is JobStatus.FAILED
    assert scene.processes.started == []
    assert "__empty" in json.loads(job.to_json())["error"]


def test_a_new_version_replaces_idle_workers_at_once_and_busy_ones_after_their_job() -> None:
    scene = Scene(cap=1, workers={"min": 2, "max": 2})
    busy, idle = scene.worker(0), scene.worker(1)
    scene.poll(busy)
    job = scene.submit()
    scene.poll(idle)
    scene.fleet.update(update_endpoint(scene.fleet.spec, {"args": "python other.py"}))
    assert (busy.is_stopping, idle.is_stopping) == (False, True)
    assert len(scene.processes.started) == 4
    scene.done(busy, job)
    assert busy.is_stopping


def test_a_lower_maximum_stops_workers_and_a_change_of_scaling_keeps_them() -> None:
    scene = Scene(workers={"min": 3, "max": 3})
    scene.fleet.update(update_endpoint(scene.fleet.spec, {"workers": {"min": 1, "max": 1}}))
    assert sum(not worker.is_stopping for worker in scene.fleet.workers.values()) == 1
    scene.fleet.update(update_endpoint(scene.fleet.spec, {"scaling": REQUEST_COUNT}))
    assert sum(not worker.is_stopping for worker in scene.fleet.workers.values()) == 1


def test_closing_cancels_jobs_and_starts_nothing_again() -> None:
    scene = Scene(workers={"min": 1})
    running, queued = scene.submit(), scene.submit()
    worker = scene.worker(0)
    scene.poll(worker)
    scene.fleet.close()
    assert {running.status, queued.status} == {JobStatus.CANCELLED}
    scene.processes.exit(worker.id, 0)
    scene.clock.advance(1000)
    assert len(scene.processes.started) == 1
