# SPDX-License-Identifier: Apache-2.0
"""`runpod_flash.Endpoint(id=…)` of runpod-flash 1.21."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .account import until
from .clients import Transcript
from .environments import Environment
from .webhooks import Webhooks

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

PlayDriver = Callable[[str, Environment], Transcript]


@pytest.fixture(scope="module")
def flash(play_driver: PlayDriver, runpod_flash: Environment) -> Transcript:
    """What the client saw."""
    return play_driver("flash_endpoint.py", runpod_flash)


def test_run_then_wait(flash: Transcript) -> None:
    seen = flash.result("run_and_wait")
    assert seen.pop("id")
    assert seen == {
        "done_at_once": False,
        "done": True,
        "output": {"got": {"greeting": "hello"}},
        "error": None,
    }


def test_many_at_once(flash: Transcript) -> None:
    assert flash.result("many_at_once") == [{"got": {"number": number}} for number in range(20)]


def test_webhook_is_called_with_the_finished_job(flash: Transcript, webhooks: Webhooks) -> None:
    job_id = flash.result("run_with_webhook")
    (delivery,) = until(lambda: webhooks.at("/from-flash_endpoint.py"), bool)
    assert (delivery.body["id"], delivery.body["status"]) == (job_id, "COMPLETED")
    assert delivery.body["output"] == {"got": {"greeting": "by webhook"}}


def test_runsync(flash: Transcript) -> None:
    seen = flash.result("runsync")
    assert (seen["done"], seen["output"]) == (True, {"got": {"greeting": "hello"}})
    assert seen["raw"].keys() >= {"delayTime", "executionTime", "workerId"}


def test_runsync_of_a_failing_job_is_no_http_error(flash: Transcript) -> None:
    seen = flash.result("runsync_of_a_failing_job")
    assert (seen["done"], seen["output"]) == (True, None)
    assert "boom" in seen["error"]


def test_status_of_a_queued_job(flash: Transcript) -> None:
    assert flash.result("status") == {"status": "IN_QUEUE", "done": False}


def test_wait_times_out_while_the_job_is_queued(flash: Transcript) -> None:
    seen = flash.result("wait_times_out")
    assert seen["type"] == "TimeoutError"
    assert "IN_QUEUE" in seen["text"]


def test_cancel_of_a_queued_job(flash: Transcript) -> None:
    assert flash.result("cancel_queued") == {"done": True, "after": "CANCELLED"}


def test_cancel_of_a_running_job_by_id_stops_the_handler(flash: Transcript) -> None:
    assert flash.result("cancel_running_by_id") == {
        "before": "IN_PROGRESS",
        "done": True,
        "after": "CANCELLED",
        "reached": True,
    }


def test_failed_job(flash: Transcript) -> None:
    seen = flash.result("failed_job")
    assert seen["status"] == "FAILED"
    assert "boom" in seen["error"]


def test_unknown_endpoint_is_not_found(flash: Transcript) -> None:
    seen = flash.result("unknown_endpoint")
    assert (seen["type"], seen["status"]) == ("HTTPStatusError", 404)
