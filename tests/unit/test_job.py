# SPDX-License-Identifier: Apache-2.0
"""The states of a job and the answers about one."""

from __future__ import annotations

from typing import Any

import pytest

from flash_plugins import JobResult, JobStatus

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}


@pytest.mark.parametrize("status", list(JobStatus))
def test_a_state_is_terminal_when_nothing_follows(status: JobStatus) -> None:
    assert status.is_terminal == (status.value in ENDED)


@pytest.mark.parametrize("status", list(JobStatus))
def test_a_state_is_parsed_from_its_name(status: JobStatus) -> None:
    assert JobStatus.parse(status.value) is status


def test_running_is_in_progress() -> None:
    assert JobStatus.parse("RUNNING") is JobStatus.IN_PROGRESS


@pytest.mark.parametrize("text", ["", None, 5, {}])
def test_what_names_no_state_is_an_error(text: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        JobStatus.parse(text)


def test_a_state_that_nobody_described_is_live_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert JobStatus.parse("MUSING") is JobStatus.IN_PROGRESS
    assert caplog.text.count("MUSING") == 1


def test_a_full_answer() -> None:
    answer = {
        "id": "sync-1-u1",
        "status": "FAILED",
        "output": {"partial": [1]},
        "error": "boom",
        "workerId": "w1",
        "delayTime": 12,
        "executionTime": 34.5,
        "somethingNew": True,
    }
    assert JobResult.from_json(answer) == JobResult(
        id="sync-1-u1",
        status=JobStatus.FAILED,
        output={"partial": [1]},
        error="boom",
        worker_id="w1",
        delay_ms=12,
        execution_ms=34.5,
    )


def test_a_short_answer() -> None:
    job = JobResult.from_json({"id": "j", "status": "IN_QUEUE"})
    assert job == JobResult("j", JobStatus.IN_QUEUE)
    assert (job.output, job.error, job.worker_id, job.delay_ms, job.execution_ms) == (None,) * 5


@pytest.mark.parametrize("output", [None, 0, "", [], {}, False])
def test_an_output_that_is_false_is_kept(output: Any) -> None:
    assert JobResult.from_json({"id": "j", "status": "COMPLETED", "output": output}).output == output


def test_an_error_that_is_no_text_becomes_one() -> None:
    assert JobResult.from_json({"id": "j", "status": "FAILED", "error": {"a": 1}}).error == "{'a': 1}"
    assert JobResult.from_json({"id": "j", "status": "FAILED", "error": ""}).error == ""
