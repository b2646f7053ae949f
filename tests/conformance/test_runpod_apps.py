# SPDX-License-Identifier: Apache-2.0
"""The queue client and the REST wrapper that are new in runpod 2.0."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .account import Queue, until
from .clients import Transcript
from .environments import Environment
from .webhooks import Webhooks

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

PlayDriver = Callable[[str, Environment], Transcript]


@pytest.fixture(scope="module")
def queue(play_driver: PlayDriver, runpod_2: Environment) -> Transcript:
    """What the queue client saw."""
    return play_driver("apps_queue.py", runpod_2)


@pytest.fixture(scope="module")
def rest(queue: Transcript, play_driver: PlayDriver, runpod_2: Environment) -> Transcript:
    """What the REST wrapper saw, after the queue client had a worker started."""
    return play_driver("apps_rest.py", runpod_2)


class TestQueueClient:
    """`QueueClient`, and `Job` on top of it."""

    def test_run_then_wait(self, queue: Transcript) -> None:
        seen = queue.result("run_and_wait")
        assert seen["submitted"] == {"id": seen["final"]["id"], "status": "IN_QUEUE"}
        assert (seen["final"]["status"], seen["final"]["output"]) == (
            "COMPLETED",
            {"got": {"greeting": "hello"}},
        )
        assert seen["final"].keys() >= {"delayTime", "executionTime", "workerId"}

    def test_invoke(self, queue: Transcript) -> None:
        seen = queue.result("invoke")
        assert (seen["status"], seen["output"]) == ("COMPLETED", {"got": {"greeting": "hello"}})

    def test_empty_marker_arrives_as_it_was_sent(self, queue: Transcript) -> None:
        assert queue.result("invoke_with_empty_marker")["output"] == {"got": {"__empty": True}}

    def test_invoke_polls_on_when_the_wait_ends_early(self, queue: Transcript) -> None:
        seen = queue.result("invoke_falls_back_to_polling")
        assert seen["seen"][0]["status"] in ("IN_QUEUE", "IN_PROGRESS")
        assert "output" not in seen["seen"][0]
        assert len({answer["id"] for answer in seen["seen"]}) == 1
        assert seen["final"]["status"] == "COMPLETED"

    def test_invoke_of_a_failing_job_is_no_http_error(self, queue: Transcript) -> None:
        seen = queue.result("invoke_of_a_failing_job")
        assert seen["status"] == "FAILED"
        assert "boom" in seen["error"]

    def test_soft_error_keeps_the_rest_as_output(self, queue: Transcript) -> None:
        seen = queue.result("soft_error")
        assert (seen["status"], seen["error"], seen["output"]) == ("FAILED", "out of ideas", {"kept": True})

    def test_job_handle(self, queue: Transcript) -> None:
        seen = queue.result("job_handle")
        assert seen["first"] in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
        assert (seen["last"], seen["result"]) == ("COMPLETED", {"got": {"greeting": "hello"}})

    def test_job_handle_without_a_loop(self, queue: Transcript) -> None:
        seen = queue.result("job_handle_without_a_loop")
        assert seen == {"result": {"got": {"greeting": "hello"}}, "done": True}

    def test_job_handle_of_a_failing_job_raises(self, queue: Transcript) -> None:
        seen = queue.result("job_handle_of_a_failing_job")
        assert seen["type"] == "RemoteExecutionError"
        assert "boom" in seen["text"]

    def test_cancel_of_a_queued_job(self, queue: Transcript) -> None:
        seen = queue.result("cancel_queued")
        assert seen["answer"] == {"id": seen["id"], "status": "CANCELLED"}
        assert seen["after"]["status"] == "CANCELLED"

    def test_cancel_of_a_running_job_stops_the_handler(self, queue: Transcript) -> None:
        seen = queue.result("cancel_running")
        assert seen["before"]["status"] == "IN_PROGRESS"
        assert seen["answer"] == {"id": seen["id"], "status": "CANCELLED"}
        assert (seen["after"]["status"], seen["reached"]) == ("CANCELLED", True)

    def test_retry_runs_a_failed_job_again_under_its_id(self, queue: Transcript) -> None:
        seen = queue.result("retry")
        assert seen["failed"]["status"] == "FAILED"
        assert seen["answer"] == {"id": seen["id"], "status": "IN_QUEUE"}
        assert (seen["final"]["id"], seen["final"]["status"]) == (seen["id"], "COMPLETED")
        assert seen["final"]["output"] == {"recovered": True}
        assert "error" not in seen["final"]

    def test_retry_of_a_completed_job_is_refused(self, queue: Transcript) -> None:
        seen = queue.result("retry_of_a_completed_job")
        assert seen["status"] is not None
        assert 400 <= seen["status"] < 500
        assert seen["still"] == "COMPLETED"

    def test_stream(self, queue: Transcript) -> None:
        assert queue.result("stream") == [0, 1, 2, "after the pause"]

    def test_stream_of_a_finished_job_drains_at_once(self, queue: Transcript) -> None:
        assert queue.result("stream_after_the_end") == list(range(40))

    def test_stream_of_a_failing_job_raises_its_error(self, queue: Transcript) -> None:
        seen = queue.result("stream_of_a_failing_job")
        assert seen["type"] == "RemoteExecutionError"

    def test_options_ride_along_and_the_webhook_is_called(self, queue: Transcript, webhooks: Webhooks) -> None:
        seen = queue.result("options")
        assert (seen["status"], seen["output"]) == ("COMPLETED", {"got": {"greeting": "with options"}})
        (delivery,) = until(lambda: webhooks.at("/from-apps_queue.py"), bool)
        assert (delivery.body["id"], delivery.body["status"]) == (seen["id"], "COMPLETED")
        assert delivery.body["output"] == seen["output"]

    def test_unknown_endpoint_is_not_found(self, queue: Transcript) -> None:
        assert queue.result("unknown_endpoint")["type"] == "EndpointNotFound"

    def test_stub_of_something_not_deployed_is_not_found(self, queue: Transcript) -> None:
        assert queue.result("stub_of_something_not_deployed")["type"] == "EndpointNotFound"

    def test_wrong_key_is_unauthorized(self, queue: Transcript) -> None:
        assert queue.result("wrong_key")["status"] == 401


class TestRestWrapper:
    """`runpod.api`, and `AppsApiClient` on top of it."""

    def test_create_and_read(self, rest: Transcript) -> None:
        seen = rest.result("life_of_an_endpoint")
        created = seen["created"]
        assert created["name"] == "rest-wrapper"
        assert (created["type"], created["image"], created["args"]) == (
            "QUEUE",
            "python:3.12-slim",
            "python worker.py",
        )
        assert created["env"] == {"COLOUR": "blue"}
        assert created["scaling"] == {"type": "QUEUE_DELAY", "queueDelay": 4}
        assert created["workers"] == {"min": 0, "max": 0, "idleTimeout": 5}
        assert created["cpu"][0]["id"] == "cpu3c"
        assert created["timeout"] == 300_000
        assert created["flashboot"] == "OFF"
        assert created["requestUrls"].keys() == {
            "run",
            "runSync",
            "status",
            "stream",
            "cancel",
            "retry",
            "purgeQueue",
            "health",
        }
        assert seen["read"] == created

    def test_list(self, rest: Transcript) -> None:
        seen = rest.result("life_of_an_endpoint")
        assert seen["created"]["id"] in seen["listed"]
        assert seen["created"]["id"] not in seen["listed_after"]

    def test_update_changes_only_what_is_given(self, rest: Transcript) -> None:
        seen = rest.result("life_of_an_endpoint")
        assert seen["changed"] == seen["reread"]
        assert seen["changed"] == {**seen["created"], "name": "renamed", "env": {"COLOUR": "red"}}

    def test_delete(self, rest: Transcript) -> None:
        seen = rest.result("life_of_an_endpoint")
        assert seen["deleted"] is None
        assert (seen["gone"]["type"], seen["gone"]["status"]) == ("QueryError", 404)

    def test_workers_of_an_idle_endpoint(self, rest: Transcript) -> None:
        seen = rest.result("life_of_an_endpoint")["workers"]
        assert seen["workers"] == []
        assert seen["summary"] == {
            "running": 0,
            "idle": 0,
            "initializing": 0,
            "throttled": 0,
            "unhealthy": 0,
            "total": 0,
        }

    def test_workers_of_a_serving_endpoint(self, rest: Transcript) -> None:
        seen = rest.result("workers_of_a_serving_endpoint")
        assert seen["summary"]["total"] == len(seen["workers"]) == 1
        assert seen["workers"][0].keys() >= {"id", "status", "gpuCount", "isStale"}
        assert seen["workers"][0]["status"] in ("IDLE", "RUNNING")

    def test_apps_client_creates_updates_and_deletes(self, rest: Transcript) -> None:
        seen = rest.result("life_through_the_apps_client")
        assert seen["created"]["timeout"] == 20_000
        assert seen["created"]["env"] == {"COLOUR": "blue"}
        assert seen["changed"] == {**seen["created"], "timeout": 30_000}
        assert seen["created"]["id"] in seen["listed"]
        assert seen["workers"]["summary"]["total"] == 0
        assert seen["deleted"] is True
        assert seen["created"]["id"] not in seen["listed_after"]

    def test_gpu_endpoint_answers_with_its_constraints(self, rest: Transcript) -> None:
        created = rest.result("gpu_endpoint")
        assert created["gpu"] == {
            "pools": ["ADA_24"],
            "count": 1,
            "allowedCudaVersions": [],
            "minCudaVersion": None,
        }
        assert "cpu" not in created

    def test_endpoint_from_a_template(self, rest: Transcript) -> None:
        seen = rest.result("life_from_a_template")
        template, created = seen["template"], seen["created"]
        assert (template["serverless"], template["disk"], template["ports"]) == (True, 12, ["80/http", "81/tcp"])
        for name in ("image", "args", "disk", "ports", "env"):
            assert created[name] == template[name]
        assert created["gpu"] == {
            "pools": ["ADA_48_PRO"],
            "excludedTypes": ["NVIDIA L40"],
            "count": 1,
            "allowedCudaVersions": ["12.4", "12.8"],
            "minCudaVersion": None,
        }
        assert (created["flashboot"], created["workers"]) == ("FLASHBOOT", {"min": 0, "max": 0, "idleTimeout": 5})

    def test_template_is_applied_to_an_endpoint(self, rest: Transcript) -> None:
        seen = rest.result("life_from_a_template")
        assert seen["changed"] == {
            **seen["created"],
            "image": "python:3.13-slim",
            "args": "python other.py",
            "disk": 10,
            "env": {"COLOUR": "red"},
        }

    def test_template_in_use_stays(self, rest: Transcript) -> None:
        seen = rest.result("life_from_a_template")
        assert (seen["in_use"]["type"], seen["in_use"]["status"]) == ("QueryError", 400)
        assert seen["deleted"] is None
        assert (seen["gone"]["type"], seen["gone"]["status"]) == ("QueryError", 404)

    def test_template_for_pods_is_refused(self, rest: Transcript) -> None:
        seen = rest.result("template_for_pods")
        assert (seen["type"], seen["status"]) == ("QueryError", 422)

    def test_balanced_endpoint(self, rest: Transcript) -> None:
        created = rest.result("balanced_endpoint_through_the_apps_client")
        assert (created["type"], created["ports"]) == ("LOAD_BALANCER", ["80/http"])
        assert created["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 4}
        assert created["requestUrls"].keys() == {"base", "health"}

    def test_volume_is_created_once_and_attached(self, rest: Transcript) -> None:
        seen = rest.result("volume_is_created_and_found_again")
        (volume,) = seen["listed"]
        assert (volume["size"], volume["dataCenter"], volume["type"]) == (20, "EU-RO-1", "STANDARD")
        assert seen["first"] == seen["second"] == {"id": volume["id"], "dataCenterId": "EU-RO-1"}
        assert seen["attached"] == [volume["id"]]

    def test_volume_that_must_exist_is_missed(self, rest: Transcript) -> None:
        assert rest.result("volume_that_must_exist")["type"] == "VolumeError"

    def test_catalog(self, rest: Transcript) -> None:
        seen = rest.result("catalog")
        assert "NVIDIA L4" in seen["gpus"]
        assert (seen["gpu"]["pool"], seen["gpu"]["availability"]) == ("AMPERE_24", "HIGH")
        assert seen["no_such_gpu"]["type"] == "ValueError"
        assert (seen["stock"], seen["no_stock"]) == ("HIGH", "NONE")
        assert (seen["cpu_stock"], seen["no_cpu_stock"]) == ("HIGH", "NONE")
        assert "EU-RO-1" in seen["volume_places"]

    def test_registry_credentials(self, rest: Transcript) -> None:
        seen = rest.result("registry_credentials")
        assert seen["created"] == {"id": seen["created"]["id"], "name": "hub"}
        assert seen["listed"] == [seen["created"]]
        assert (seen["deleted"], seen["after"]) == (True, [])

    def test_unknown_field_is_named(self, rest: Transcript) -> None:
        seen = rest.result("unknown_field")
        assert seen["status"] == 422
        assert any("bogus" in error for error in seen["errors"])

    def test_gpu_and_cpu_together_are_refused(self, rest: Transcript) -> None:
        seen = rest.result("gpu_and_cpu_together")
        assert (seen["type"], seen["status"]) == ("QueryError", 400)

    def test_unknown_template_is_not_found(self, rest: Transcript) -> None:
        seen = rest.result("unknown_template")
        assert (seen["type"], seen["status"]) == ("QueryError", 404)

    def test_unknown_endpoint_is_not_found(self, rest: Transcript) -> None:
        seen = rest.result("unknown_endpoint")
        assert (seen["type"], seen["status"]) == ("QueryError", 404)

    def test_wrong_key_is_unauthorized(self, rest: Transcript) -> None:
        assert rest.result("wrong_key")["type"] == "AuthenticationError"


def test_requests_of_the_clients_leave_nothing_running(queue: Transcript, jobs: Queue) -> None:
    until(lambda: jobs.health()["jobs"], lambda counts: counts["inProgress"] == counts["inQueue"] == 0)
