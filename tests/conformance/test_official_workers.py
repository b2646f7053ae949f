# SPDX-License-Identifier: Apache-2.0
"""Worker scripts written for the official SDK, served unchanged, with both versions of it.

The endpoints are made over plain REST with the command line of the script; nothing of ours is imported there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from .account import Account, Queue, until
from .environments import Environment

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

Serve = Callable[..., Queue]


def test_plain_handler_gets_job_and_environment(account: Account, serve: Serve, sdk: Environment) -> None:
    queue = serve("sync_handler.py", env={"GREETING": "good morning"})

    job = queue.finish(queue.run({"text": "hello"}))

    assert job["status"] == "COMPLETED"
    assert job["output"] == {
        "got": {"text": "hello"},
        "job_id": job["id"],
        "worker_id": job["workerId"],
        "endpoint_id": queue.id,
        "greeting": "good morning",
        "version": sdk.name.removeprefix("runpod-"),
    }
    assert "error" not in job
    assert job["delayTime"] >= 0
    assert job["executionTime"] >= 0
    jobs = queue.health()["jobs"]
    assert (jobs["completed"], jobs["failed"], jobs["inQueue"], jobs["inProgress"]) == (1, 0, 0, 0)
    shown = until(lambda: account.workers(queue), lambda shown: shown["workers"][0]["status"] == "IDLE")
    assert [worker["id"] for worker in shown["workers"]] == [job["workerId"]]
    assert shown["summary"]["total"] == shown["summary"]["idle"] == 1


def test_runsync_gives_the_finished_job(serve: Serve) -> None:
    queue = serve("sync_handler.py")

    job = queue.runsync({"text": "hello"})

    assert job["status"] == "COMPLETED"
    assert job["output"]["got"] == {"text": "hello"}
    assert job["workerId"] == job["output"]["worker_id"]


def test_any_json_value_passes_as_result_and_the_empty_marker_as_input(serve: Serve) -> None:
    queue = serve("plain_results.py")
    values: list[Any] = [False, None, 0, "", "text", [], [1, {"two": 2}], {"a": None}, 1.5]

    ids = [queue.run({"result": value}) for value in values]
    jobs = [queue.finish(job_id) for job_id in ids]
    empty = queue.finish(queue.run({"result": {}}))

    assert [job["status"] for job in jobs] == ["COMPLETED"] * len(values)
    assert [job.get("output") for job in jobs] == values
    # The SDK sends no output for an empty dictionary, so there is none to show.
    assert empty["status"] == "COMPLETED"
    assert empty.get("output") in (None, {})


def test_cancel_reaches_a_running_asynchronous_handler(serve: Serve, tmp_path: Path) -> None:
    queue = serve("async_handler.py")
    started, mark = tmp_path / "started", tmp_path / "cancelled"
    job_id = queue.run({"seconds": 300, "when_started": str(started), "when_cancelled": str(mark)})
    until(started.exists, bool)
    assert queue.status(job_id)["status"] == "IN_PROGRESS"

    answer = queue.cancel(job_id)

    assert answer == {"id": job_id, "status": "CANCELLED"}
    until(mark.exists, bool)
    assert queue.status(job_id)["status"] == "CANCELLED"
    after = queue.runsync({"seconds": 0})
    assert (after["status"], after["output"]) == ("COMPLETED", {"slept": 0})
    assert queue.status(job_id)["status"] == "CANCELLED"


def test_cancel_at_the_moment_of_the_hand_over_leaves_the_worker_free(serve: Serve) -> None:
    # The SDK ignores a request to stop a job that it has taken but not begun: it must be asked again.
    queue = serve("async_handler.py")
    queue.runsync({"seconds": 0})

    for _ in range(4):
        job_id = queue.run({"seconds": 300})
        queue.reach(job_id, "IN_PROGRESS")
        queue.cancel(job_id)
        after = queue.finish(queue.run({"seconds": 0}))

        assert (after["status"], after["output"]) == ("COMPLETED", {"slept": 0})


def test_generator_is_streamed(serve: Serve) -> None:
    queue = serve("generator.py")

    job_id = queue.run({"count": 3})
    job = queue.finish(job_id)

    assert job["status"] == "COMPLETED"
    numbers = [{"number": 0}, {"number": 1}, {"number": 2}]
    # Without return_aggregate_stream the SDK reports an empty list; a platform may show what it collected.
    assert job["output"] in ([], numbers)
    first = queue.stream(job_id)
    assert first["status"] == "COMPLETED"
    assert [chunk["output"] for chunk in first["stream"]] == numbers
    second = queue.stream(job_id)
    assert (second["status"], second["stream"]) == ("COMPLETED", [])


def test_generator_that_raises_fails_the_job_after_its_chunks(serve: Serve) -> None:
    queue = serve("generator.py")

    job_id = queue.run({"count": 2, "then_raise": True})
    job = queue.finish(job_id)

    assert job["status"] == "FAILED"
    assert "the generator broke" in job["error"]
    drained = queue.stream(job_id)
    assert [chunk["output"] for chunk in drained["stream"]] == [{"number": 0}, {"number": 1}]
    assert drained["status"] == "FAILED"


def test_aggregated_generator_streams_while_running_and_collects_its_output(serve: Serve, tmp_path: Path) -> None:
    queue = serve("generator_aggregate.py")
    gate = tmp_path / "gate"
    job_id = queue.run({"count": 2, "gate": str(gate)})
    chunks: list[Any] = []

    def fetch() -> dict[str, Any]:
        answer = queue.stream(job_id)
        chunks.extend(chunk["output"] for chunk in answer["stream"])
        return answer

    while_running = until(fetch, lambda _: len(chunks) == 2)
    gate.touch()
    job = queue.finish(job_id)
    until(fetch, lambda answer: answer["status"] == "COMPLETED" and not answer["stream"])

    assert while_running["status"] == "IN_PROGRESS"
    assert chunks == ["piece 0", "piece 1", "last piece"]
    assert (job["status"], job["output"]) == ("COMPLETED", chunks)


def test_progress_is_the_output_while_the_job_runs(serve: Serve, tmp_path: Path) -> None:
    queue = serve("reports_progress.py")
    gate = tmp_path / "gate"

    job_id = queue.run({"gate": str(gate)})
    seen = until(lambda: queue.status(job_id), lambda job: job.get("output") is not None)
    gate.touch()
    job = queue.finish(job_id)

    assert (seen["status"], seen["output"]) == ("IN_PROGRESS", {"step": 1, "of": 2})
    assert (job["status"], job["output"]) == ("COMPLETED", {"result": "done"})


def test_raising_handler_fails_the_job_with_the_sdks_error_text(serve: Serve) -> None:
    queue = serve("failing.py")

    job = queue.runsync({"how": "raise"})

    assert job["status"] == "FAILED"
    assert job.get("output") is None
    error = json.loads(job["error"])
    assert error["error_message"] == "bad juju"
    assert "ValueError" in error["error_type"]
    assert 'raise ValueError("bad juju")' in error["error_traceback"]
    assert error["worker_id"] == job["workerId"]
    assert queue.health()["jobs"]["failed"] == 1


def test_returned_error_fails_the_job_and_keeps_the_rest_as_output(serve: Serve) -> None:
    queue = serve("failing.py")

    job = queue.runsync({"how": "return"})

    assert (job["status"], job["error"], job["output"]) == ("FAILED", "out of ideas", {"tried": 3})


def test_failed_job_can_be_retried_under_its_id(serve: Serve, tmp_path: Path) -> None:
    queue = serve("failing.py")
    job_id = queue.run({"how": "once", "marker": str(tmp_path / "marker")})
    assert queue.finish(job_id)["status"] == "FAILED"

    answer = queue.retry(job_id)
    job = queue.finish(job_id)

    assert answer == {"id": job_id, "status": "IN_QUEUE"}
    assert (job["id"], job["status"], job["output"]) == (job_id, "COMPLETED", {"recovered": True})
    assert "error" not in job


def test_worker_is_replaced_when_a_result_asks_for_it(serve: Serve) -> None:
    queue = serve("refresh_after_result.py")

    results = [queue.runsync({"refresh": refresh})["output"] for refresh in (False, True, False)]

    assert [result["served"] for result in results] == [1, 2, 1]
    assert results[0]["process"] == results[1]["process"] != results[2]["process"]
    assert "refresh_worker" not in results[1]
    until(lambda: psutil.pid_exists(results[0]["process"]), lambda exists: not exists)


def test_worker_configured_for_one_job_serves_the_next_one_afresh(serve: Serve) -> None:
    queue = serve("refresh_always.py")

    ids = [queue.run({"number": number}) for number in range(2)]
    results = [queue.finish(job_id)["output"] for job_id in ids]

    assert [result["served"] for result in results] == [1, 1]
    assert [result["got"] for result in results] == [{"number": 0}, {"number": 1}]
    assert results[0]["process"] != results[1]["process"]


def test_concurrency_modifier_lets_one_worker_run_several_jobs(account: Account, serve: Serve) -> None:
    queue = serve("several_at_once.py")

    ids = [queue.run({"expected": 4}) for _ in range(4)]
    jobs = [queue.finish(job_id) for job_id in ids]

    assert [job["output"]["most_together"] for job in jobs] == [4, 4, 4, 4]
    assert len({job["workerId"] for job in jobs}) == 1
