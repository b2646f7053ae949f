# SPDX-License-Identifier: Apache-2.0
"""`runpod.Endpoint` and `runpod.AsyncioEndpoint`, of runpod 1.12 and as 2.0 still carries them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from .account import Queue
from .clients import Transcript
from .environments import Environment

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

PlayDriver = Callable[[str, Environment], Transcript]


@pytest.fixture(scope="module")
def blocking(play_driver: PlayDriver, sdk: Environment) -> Transcript:
    """What the blocking client saw."""
    return play_driver("sync_endpoint.py", sdk)


@pytest.fixture(scope="module")
def awaiting(play_driver: PlayDriver, sdk: Environment) -> Transcript:
    """What the asynchronous client saw."""
    return play_driver("asyncio_endpoint.py", sdk)


class TestEndpoint:
    """The blocking client."""

    def test_run_then_output(self, blocking: Transcript) -> None:
        seen = blocking.result("run_and_output")
        assert seen["first"] in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
        assert seen["output"] == seen["again"] == {"got": {"greeting": "hello"}}
        assert seen["last"] == "COMPLETED"

    def test_run_accepts_a_whole_request(self, blocking: Transcript) -> None:
        assert blocking.result("run_with_input_key") == {"got": {"greeting": "hello"}}

    def test_empty_marker_arrives_as_it_was_sent(self, blocking: Transcript) -> None:
        assert blocking.result("run_with_empty_marker") == {"got": {"__empty": True}}

    def test_run_sync(self, blocking: Transcript) -> None:
        assert blocking.result("run_sync") == {"got": {"greeting": "hello"}}

    def test_run_sync_of_a_failing_job_is_no_http_error(self, blocking: Transcript) -> None:
        assert blocking.result("run_sync_of_a_failing_job") == {"output": None}

    def test_status_of_a_failed_job(self, blocking: Transcript) -> None:
        seen = blocking.result("failed_job")
        assert seen["status"] == "FAILED"
        assert json.loads(seen["raw"]["error"])["error_message"] == "boom"

    def test_progress_while_running(self, blocking: Transcript) -> None:
        seen = blocking.result("progress")
        assert (seen["while_running"]["status"], seen["while_running"]["output"]) == (
            "IN_PROGRESS",
            "half way",
        )
        assert seen["output"]["got"]["progress"] == "half way"

    def test_output_times_out_while_the_job_is_queued(self, blocking: Transcript) -> None:
        assert blocking.result("output_times_out")["type"] == "TimeoutError"

    def test_cancel_of_a_queued_job(self, blocking: Transcript) -> None:
        seen = blocking.result("cancel_queued")
        assert seen["before"] == "IN_QUEUE"
        assert seen["answer"] == {"id": seen["id"], "status": "CANCELLED"}
        assert seen["after"] == "CANCELLED"

    def test_cancel_of_a_running_job_stops_the_handler(self, blocking: Transcript) -> None:
        seen = blocking.result("cancel_running")
        assert seen["before"] == "IN_PROGRESS"
        assert seen["answer"] == {"id": seen["id"], "status": "CANCELLED"}
        assert seen["after"] == "CANCELLED"
        assert seen["reached"] is True

    def test_stream(self, blocking: Transcript) -> None:
        assert blocking.result("stream") == [0, 1, 2]

    def test_stream_of_a_finished_job_drains_at_once(self, blocking: Transcript) -> None:
        seen = blocking.result("stream_after_the_end")
        assert seen["output"] == list(range(40))
        assert [chunk["output"] for chunk in seen["first"]["stream"]] == list(range(40))
        assert (seen["second"]["status"], seen["second"]["stream"]) == ("COMPLETED", [])

    def test_stream_request_is_not_held_beyond_the_clients_timeout(self, blocking: Transcript) -> None:
        assert blocking.result("stream_with_a_pause_beyond_the_client_timeout") == [0, "after the pause"]

    def test_purge_queue_removes_what_is_queued(self, blocking: Transcript) -> None:
        seen = blocking.result("purge_queue")
        queued = seen["before"]["jobs"]["inQueue"]
        assert queued >= 3
        assert seen["answer"] == {"removed": queued, "status": "completed"}
        assert seen["after"]["jobs"]["inQueue"] == 0

    def test_health_counts_jobs_and_workers(self, blocking: Transcript) -> None:
        seen = blocking.result("health")
        assert seen["jobs"].keys() >= {"completed", "failed", "inProgress", "inQueue", "retried"}
        assert seen["jobs"]["completed"] >= 5
        assert seen["jobs"]["failed"] >= 2
        assert seen["workers"]["idle"] + seen["workers"]["running"] == 1

    def test_unknown_job_is_not_found(self, blocking: Transcript) -> None:
        seen = blocking.result("unknown_job")
        assert (seen["type"], seen["status"]) == ("HTTPError", 404)

    def test_unknown_endpoint_is_not_found(self, blocking: Transcript) -> None:
        seen = blocking.result("unknown_endpoint")
        assert (seen["type"], seen["status"]) == ("HTTPError", 404)

    def test_wrong_key_is_unauthorized(self, blocking: Transcript) -> None:
        seen = blocking.result("wrong_key")
        assert seen["type"] == "RuntimeError"
        assert seen["text"].startswith("401 Unauthorized")


class TestAsyncioEndpoint:
    """The asynchronous client."""

    def test_run_then_output(self, awaiting: Transcript) -> None:
        seen = awaiting.result("run_and_output")
        assert seen["first"] in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
        assert (seen["last"], seen["output"]) == ("COMPLETED", {"got": {"greeting": "hello"}})

    def test_many_at_once(self, awaiting: Transcript) -> None:
        assert awaiting.result("many_at_once") == [{"got": {"number": number}} for number in range(20)]

    def test_failed_job(self, awaiting: Transcript) -> None:
        assert awaiting.result("failed_job") == {"output": None, "status": "FAILED"}

    def test_output_times_out_while_the_job_is_queued(self, awaiting: Transcript) -> None:
        assert awaiting.result("output_times_out")["type"] == "TimeoutError"

    def test_cancel_of_a_queued_job(self, awaiting: Transcript) -> None:
        seen = awaiting.result("cancel_queued")
        assert seen["before"] == "IN_QUEUE"
        assert seen["answer"] == {"id": seen["id"], "status": "CANCELLED"}
        assert seen["after"] == "CANCELLED"

    def test_cancel_of_a_running_job_stops_the_handler(self, awaiting: Transcript) -> None:
        seen = awaiting.result("cancel_running")
        assert seen["before"] == "IN_PROGRESS"
        assert seen["answer"] == {"id": seen["id"], "status": "CANCELLED"}
        assert (seen["after"], seen["reached"]) == ("CANCELLED", True)

    def test_stream(self, awaiting: Transcript) -> None:
        assert awaiting.result("stream") == [0, 1, 2]

    def test_purge_queue_removes_what_is_queued(self, awaiting: Transcript) -> None:
        seen = awaiting.result("purge_queue")
        queued = seen["before"]["jobs"]["inQueue"]
        assert queued >= 3
        assert seen["answer"] == {"removed": queued, "status": "completed"}
        assert seen["after"]["jobs"]["inQueue"] == 0

    def test_health(self, awaiting: Transcript, jobs: Queue) -> None:
        seen = awaiting.result("health")
        assert seen["jobs"]["inQueue"] == 0
        assert seen["workers"]["idle"] + seen["workers"]["running"] == 1

    def test_unknown_job_has_no_status(self, awaiting: Transcript) -> None:
        # This client looks at no HTTP status: it reads the error body as JSON and misses the field.
        seen = awaiting.result("unknown_job")
        assert (seen["type"], seen["text"]) == ("KeyError", "'status'")
