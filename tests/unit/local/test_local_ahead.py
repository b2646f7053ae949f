# SPDX-License-Identifier: Apache-2.0
"""Short jobs that a worker gets while it still runs one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flash_plugins.job import JobStatus
from flash_plugins.payload import MARK
from flash_plugins.platforms import api
from flash_plugins.platforms.local.jobs import Job
from tests.unit.local.local_fakes import Scene


def body(expected_s: float | None, **members: Any) -> bytes:
    expected = {} if expected_s is None else {"expected_s": expected_s}
    return json.dumps({"input": {MARK: 1, **expected}, **members}).encode()


def scene_of(*, workers: int = 1, cap: int = 1, **env: str) -> Scene:
    """An endpoint of ours whose workers all run."""
    env = {api.MAX_CONCURRENCY_ENV: str(cap), api.ENDPOINT_NAME_ENV: "test", **env}
    scene = Scene(env=env, workers={"min": workers, "max": workers})
    for number in range(workers):
        scene.poll(scene.worker(number))
    return scene


def one_ahead(scene: Scene, **members: Any) -> tuple[Job, Job]:
    """Return the job that the only worker runs, and the one that it got ahead."""
    worker = scene.worker(0)
    running = scene.submit(body(0.2))
    answers = scene.poll(worker)
    ahead = scene.submit(body(0.2, **members))
    assert answers == [[ahead]]
    return running, ahead


def test_a_worker_gets_a_short_job_ahead_which_begins_when_it_reports_the_one_before() -> None:
    scene = scene_of()
    running, ahead = one_ahead(scene, policy={"executionTimeout": 5000})
    assert (running.status, ahead.status) == (JobStatus.IN_PROGRESS, JobStatus.IN_QUEUE)
    assert (ahead.attempts, scene.fleet.jobs.ahead, scene.fleet.jobs.queued) == (0, 1, 0)
    assert scene.poll(scene.worker(0)) == []  # one is enough
    scene.clock.advance(4)
    scene.done(scene.worker(0), running)
    assert (ahead.status, ahead.attempts, scene.fleet.jobs.ahead) == (JobStatus.IN_PROGRESS, 1, 0)
    scene.clock.advance(4)
    assert ahead in scene.worker(0).leases.values()  # its time counts from its begin
    scene.clock.advance(2)
    assert [job.status for job in scene.ended] == [JobStatus.COMPLETED, JobStatus.TIMED_OUT]


def test_a_job_may_be_reported_before_the_one_that_ran_before_it() -> None:
    scene = scene_of()
    running, ahead = one_ahead(scene)
    scene.done(scene.worker(0), ahead)
    scene.done(scene.worker(0), running)
    assert [job.status for job in scene.ended] == [JobStatus.COMPLETED] * 2
    assert (scene.fleet.jobs.counts.in_progress, scene.fleet.jobs.ahead, scene.worker(0).load) == (0, 0, 0)


@pytest.mark.parametrize(("running_s", "next_s"), [(None, 0.1), (0.1, None), (60.0, 0.1), (0.1, 60.0)])
def test_only_short_jobs_go_ahead_of_short_ones(running_s: float | None, next_s: float | None) -> None:
    scene = scene_of()
    scene.submit(body(running_s))
    answers = scene.poll(scene.worker(0))
    scene.submit(body(next_s))
    assert answers == []


def test_nothing_goes_ahead_of_a_job_that_takes_longer_than_expected() -> None:
    scene = scene_of()
    scene.submit(body(0.1))
    scene.clock.advance(1)
    answers = scene.poll(scene.worker(0))
    scene.submit(body(0.1))
    assert answers == []


def test_nothing_goes_ahead_where_a_worker_has_room_or_is_still_to_start() -> None:
    scene = scene_of(workers=2)
    scene.submit(body(0.1))  # the second worker polled last
    answers = scene.poll(scene.worker(0)), scene.poll(scene.worker(1))
    following = scene.submit(body(0.1))
    assert [answer for answer in answers if answer] == [[[following]]]
    assert following.status is JobStatus.IN_PROGRESS
    growing = Scene(env={api.MAX_CONCURRENCY_ENV: "1", api.ENDPOINT_NAME_ENV: "test"}, workers={"min": 1, "max": 2})
    growing.poll(growing.worker(0))
    growing.submit(body(0.1))
    held = growing.poll(growing.worker(0))
    growing.submit(body(0.1))
    assert held == []


@pytest.mark.parametrize("is_ours", [True, False])
def test_workers_that_give_nothing_back_get_nothing_ahead(is_ours: bool) -> None:
    streams = {api.ENDPOINT_NAME_ENV: "test", api.HANDLER_ENV: api.HANDLER_STREAMS}
    scene = Scene(env={api.MAX_CONCURRENCY_ENV: "1", **(streams if is_ours else {})}, workers={"max": 1})
    scene.submit(body(0.1))
    scene.poll(scene.worker(0))
    answers = scene.poll(scene.worker(0))
    scene.submit(body(0.1))
    assert answers == []


def test_a_job_ahead_of_a_lost_worker_has_made_no_attempt() -> None:
    scene = scene_of()
    running, ahead = one_ahead(scene)
    for _ in range(api.MAX_ATTEMPTS - 1):
        scene.processes.exit(scene.processes.started[-1], 9)
        assert (ahead.status, ahead.attempts) == (JobStatus.IN_QUEUE, 0)
        worker = scene.worker(-1)
        assert scene.poll(worker) == [[running]]  # the order stays
        assert scene.poll(worker) == [[ahead]]
    scene.processes.exit(scene.processes.started[-1], 9)
    assert running.status is JobStatus.FAILED
    assert scene.poll(scene.worker(-1)) == [[ahead]]
    assert ahead.attempts == 1


def test_a_cancelled_job_ahead_is_stopped_in_its_worker() -> None:
    scene = scene_of()
    running, ahead = one_ahead(scene)
    scene.fleet.cancel(ahead)
    assert ahead.status is JobStatus.CANCELLED
    assert scene.worker(0).stops == [ahead.id]
    assert scene.worker(0).load == 1
    scene.done(scene.worker(0), running)
    assert scene.worker(0).load == 0


def test_what_is_purged_or_expires_ahead_is_gone() -> None:
    scene = scene_of()
    running, ahead = one_ahead(scene, policy={"ttl": 10_000})
    assert scene.fleet.jobs.purge() == 1
    assert ahead.status is JobStatus.CANCELLED
    scene.done(scene.worker(0), running)
    scene.poll(scene.worker(0))
    running, ahead = one_ahead(scene, policy={"ttl": 10_000})
    scene.clock.advance(11)
    assert scene.fleet.jobs.get(ahead.id) is None
    assert scene.worker(0).load == 1
    assert scene.fleet.jobs.ahead == 0


def test_a_job_that_could_not_be_handed_over_ahead_waits_again_in_front() -> None:
    scene = scene_of()
    running, ahead = one_ahead(scene)
    later = scene.submit(body(60.0))
    scene.fleet.take_back(scene.worker(0), [ahead])
    assert (ahead.status, ahead.attempts, scene.fleet.jobs.ahead) == (JobStatus.IN_QUEUE, 0, 0)
    scene.done(scene.worker(0), running)
    assert scene.poll(scene.worker(0)) == [[ahead]]
    assert later.status is JobStatus.IN_QUEUE


def test_jobs_ahead_keep_their_workers() -> None:
    scene = scene_of(cap=2)
    worker = scene.worker(0)
    jobs = [scene.submit(body(0.1))]
    for _ in range(2):
        answers = scene.poll(worker)
        jobs.append(scene.submit(body(0.1)))
        assert answers == [[jobs[-1]]]
    assert [job.status for job in jobs] == [JobStatus.IN_PROGRESS] * 2 + [JobStatus.IN_QUEUE]
    scene.done(worker, jobs[1])
    assert jobs[2].status is JobStatus.IN_PROGRESS
