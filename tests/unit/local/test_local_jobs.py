# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest

from flash_plugins.job import JobStatus
from flash_plugins.platforms.local.clock import FakeClock
from flash_plugins.platforms.local.jobs import Job, JobTable
from flash_plugins.platforms.local.submission import parse_submission
from flash_plugins.platforms.local.wire import MalformedJson


class Table:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.stopped: list[Job] = []
        self.ended: list[Job] = []
        self.jobs = JobTable(self.clock, on_stop=self.stopped.append, on_end=self.ended.append)

    def submit(self, body: bytes = b'{"input": 1}', *, is_sync: bool = False) -> Job:
        return self.jobs.submit(parse_submission(body), is_sync=is_sync, timeout_s=300)


@pytest.fixture
def table() -> Table:
    return Table()


def shown(job: Job) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(job.to_json())
    return answer


def test_jobs_are_leased_in_order_and_low_priority_last(table: Table) -> None:
    low = table.submit(b'{"input": 0, "policy": {"lowPriority": true}}')
    first, second = table.submit(), table.submit()
    assert table.jobs.take("w", 5) == [first, second, low]


def test_a_worker_gets_the_request_with_its_id_and_unchanged_otherwise(table: Table) -> None:
    job = table.submit(b'  {"input": {"x": 1.50}, "webhook": "http://h/"}')
    assert job.for_worker() == b'{"id":"%b","input": {"x": 1.50}, "webhook": "http://h/"}' % job.id.encode()


def test_members_that_are_not_runpods_do_not_reach_the_worker(table: Table) -> None:
    job = table.submit(b'{"id": "mine", "input": 1, "extra": 2}')
    assert json.loads(job.for_worker()) == {"id": job.id, "input": 1}


def test_a_finished_job_shows_its_times_and_worker(table: Table) -> None:
    job = table.submit(is_sync=True)
    assert job.id.startswith("sync-")
    table.clock.advance(1.5)
    table.jobs.take("w", 1)
    table.clock.advance(0.25)
    table.jobs.finish(job, output=b'{"a": 1}', error=None)
    assert shown(job) == {
        "id": job.id,
        "status": "COMPLETED",
        "delayTime": 1500,
        "executionTime": 250,
        "workerId": "w",
        "output": {"a": 1},
    }
    assert table.ended == [job]


def test_an_error_fails_the_job_and_keeps_the_output_beside_it(table: Table) -> None:
    job = table.submit()
    table.jobs.take("w", 1)
    table.jobs.finish(job, output=b"7", error=b'"soft"')
    assert (shown(job)["status"], shown(job)["output"], shown(job)["error"]) == ("FAILED", 7, "soft")


def test_a_job_given_back_is_next_and_shows_its_attempts(table: Table) -> None:
    first, second = table.submit(), table.submit()
    table.jobs.take("w1", 1)
    table.jobs.give_back(first, counts_as_attempt=True)
    assert first.status is JobStatus.IN_QUEUE
    assert table.jobs.take("w2", 2) == [first, second]
    assert shown(first)["attempts"] == 2
    assert "attempts" not in shown(second)


def test_an_undelivered_job_given_back_has_not_been_tried(table: Table) -> None:
    job = table.submit()
    table.jobs.take("w", 1)
    table.jobs.give_back(job, counts_as_attempt=False)
    table.jobs.take("w", 1)
    assert job.attempts == 1


def test_execution_timeout_ends_a_running_job_and_stops_it(table: Table) -> None:
    job = table.submit(b'{"input": 1, "policy": {"executionTimeout": 5000}}')
    table.clock.advance(100)
    table.jobs.take("w", 1)
    table.clock.advance(4.9)
    assert shown(job)["status"] == "IN_PROGRESS"
    table.clock.advance(0.2)
    assert job.status is JobStatus.TIMED_OUT
    assert table.stopped == [job]
    assert table.jobs.counts.in_progress == 0
    assert "execution timeout of 5 s" in shown(job)["error"]


def test_the_endpoints_timeout_counts_without_a_policy_of_the_job(table: Table) -> None:
    job = table.submit()
    table.jobs.take("w", 1)
    table.clock.advance(299)
    assert shown(job)["status"] == "IN_PROGRESS"
    table.clock.advance(1)
    assert job.status is JobStatus.TIMED_OUT


@pytest.mark.parametrize("is_running", [False, True])
def test_time_to_live_ends_and_forgets_a_job_whatever_its_state(table: Table, is_running: bool) -> None:
    told: list[JobStatus] = []
    job = table.submit(b'{"input": 1, "policy": {"ttl": 10000}}')
    job.listeners.append(lambda job: told.append(job.status))
    if is_running:
        table.jobs.take("w", 1)
    table.clock.advance(10)
    assert table.jobs.get(job.id) is None
    assert told[0] is JobStatus.TIMED_OUT
    assert table.stopped == ([job] if is_running else [])
    assert table.jobs.queued == 0


@pytest.mark.parametrize(("is_sync", "kept_s"), [(False, 1800), (True, 60)])
def test_a_result_is_kept_for_a_limited_time(table: Table, is_sync: bool, kept_s: float) -> None:
    job = table.submit(is_sync=is_sync)
    table.clock.advance(100)
    table.jobs.take("w", 1)
    table.jobs.finish(job, output=b"1", error=None)
    table.clock.advance(kept_s - 1)
    assert table.jobs.get(job.id) is job
    table.clock.advance(1.1)
    assert table.jobs.get(job.id) is None


def test_ttl_of_a_status_request_changes_the_life_of_a_finished_job(table: Table) -> None:
    job = table.submit(is_sync=True)
    table.jobs.take("w", 1)
    table.jobs.finish(job, output=b"1", error=None)
    table.jobs.set_life(job, 1000)
    table.clock.advance(999)
    assert table.jobs.get(job.id) is job
    table.jobs.set_life(job, 1)
    table.clock.advance(1)
    assert table.jobs.get(job.id) is None


def test_a_queued_job_lives_a_day(table: Table) -> None:
    job = table.submit()
    table.clock.advance(86_399)
    assert job.status is JobStatus.IN_QUEUE
    table.clock.advance(1)
    assert table.jobs.get(job.id) is None


def test_cancel_of_a_queued_job_leaves_the_queue_without_a_stop(table: Table) -> None:
    job = table.submit()
    table.jobs.cancel(job)
    assert (job.status, table.jobs.queued, table.stopped) == (JobStatus.CANCELLED, 0, [])


def test_cancel_of_a_running_job_stops_it_and_drops_its_progress(table: Table) -> None:
    job = table.submit()
    table.jobs.take("w", 1)
    job.output = b'"half"'
    table.jobs.cancel(job)
    assert table.stopped == [job]
    assert "output" not in shown(job)


def test_cancel_of_a_finished_job_changes_nothing(table: Table) -> None:
    job = table.submit()
    table.jobs.take("w", 1)
    table.jobs.finish(job, output=b"1", error=None)
    table.jobs.cancel(job)
    assert job.status is JobStatus.COMPLETED


def test_retry_is_for_failed_and_timed_out_jobs_only(table: Table) -> None:
    job = table.submit()
    assert not table.jobs.retry(job)
    table.jobs.take("w", 1)
    assert not table.jobs.retry(job)
    table.jobs.finish(job, output=b"1", error=b'"no"')
    assert table.jobs.retry(job)
    assert shown(job) == {"id": job.id, "status": "IN_QUEUE"}
    assert table.jobs.take("w", 1) == [job]
    assert json.loads(job.for_worker())["input"] == 1
    assert table.jobs.counts.retried == 1


def test_purge_cancels_what_is_queued_only(table: Table) -> None:
    running, queued = table.submit(), table.submit()
    table.jobs.take("w", 1)
    assert table.jobs.purge() == 1
    assert (running.status, queued.status) == (JobStatus.IN_PROGRESS, JobStatus.CANCELLED)


def test_collected_chunks_are_the_output_of_a_generator_that_does_not_aggregate(table: Table) -> None:
    job = table.submit()
    table.jobs.take("w", 1)
    table.jobs.add_chunk(job, b"1")
    assert job.unread_chunks() == [b"1"]
    table.jobs.add_chunk(job, b'{"a": 2}')
    assert job.unread_chunks() == [b'{"a": 2}']
    assert job.unread_chunks() == []
    table.jobs.finish(job, output=b"[]", error=None)
    assert shown(job)["output"] == [1, {"a": 2}]


def test_deadlines_do_not_pile_up(table: Table) -> None:
    for _ in range(1000):
        job = table.submit(is_sync=True)
        table.jobs.take("w", 1)
        table.jobs.finish(job, output=b"1", error=None)
        table.clock.advance(1)
    assert len(table.jobs._deadlines) <= 61
    assert len(list(table.jobs)) <= 61


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "not JSON"),
        (b"[1]", "must be a JSON object, not list"),
        (b"\xff{}", "not UTF-8"),
        (b"{}", '"input" is missing'),
        (b'{"input": 1, "webhook": "ftp://h"}', '"webhook" must be an http or https URL'),
        (b'{"input": 1, "policy": []}', None),
        (b'{"input": 1, "policy": 3}', '"policy" must be an object'),
        (b'{"input": 1, "policy": {"executionTimeout": 4999}}', '"policy.executionTimeout" must be 5000 to'),
        (b'{"input": 1, "policy": {"ttl": 9999}}', '"policy.ttl" must be 10000 to'),
        (b'{"input": 1, "policy": {"ttl": 604800001}}', "604800000 milliseconds, not 604800001"),
        (b'{"input": 1, "policy": {"ttl": true}}', "not True"),
        (b'{"input": 1, "policy": {"lowPriority": 1}}', '"policy.lowPriority" must be true or false'),
    ],
)
def test_a_bad_request_is_refused_naming_the_field(body: bytes, complaint: str | None) -> None:
    if complaint is None:
        parse_submission(body)
    else:
        with pytest.raises(MalformedJson, match=complaint.replace(".", r"\.")):
            parse_submission(body)
