# SPDX-License-Identifier: Apache-2.0
"""The documentation's curl calls: the bare key for the job API, `Bearer` for REST v2, nothing between.

Behind every call here stands Runpod's operation reference (serverless/endpoints/operation-reference, 2026-08)
or the REST v2 description; what they leave open is asserted loosely.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .account import Account, Queue, until
from .environments import Environment
from .webhooks import Webhooks

CURL = shutil.which("curl")

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CURL is None, reason="there is no curl here"),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """What curl printed: status, headers in lower case, and the body as text."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.text)


def curl(*arguments: str) -> Answer:
    """Run curl and take its output apart."""
    assert CURL is not None
    command = [
        CURL,
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "120",
        "--include",
        *arguments,
    ]
    raw = subprocess.run(command, capture_output=True, check=True).stdout.decode().replace("\r\n", "\n")
    while True:
        head, _, raw = raw.partition("\n\n")
        status_line, *lines = head.split("\n")
        status = int(status_line.split()[1])
        if status >= 200:  # 100 Continue comes first for large bodies
            break
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(status, headers, raw)


class Shell:
    """One endpoint's job API as somebody types it from the documentation."""

    def __init__(self, account: Account, queue_id: str) -> None:
        self.base = f"{account.url}/v2/{queue_id}"
        self.key = account.key

    def get(self, path: str) -> Answer:
        """GET with the bare key."""
        return curl("--request", "GET", "--url", f"{self.base}/{path}", "-H", f"authorization: {self.key}")

    def post(self, path: str, body: object = None) -> Answer:
        """POST with the bare key; without a body when there is none."""
        payload = [] if body is None else ["-H", "content-type: application/json", "-d", json.dumps(body)]
        return curl(
            "--request",
            "POST",
            "--url",
            f"{self.base}/{path}",
            "-H",
            "accept: application/json",
            "-H",
            f"authorization: {self.key}",
            *payload,
        )

    def run(self, job_input: object, **options: object) -> str:
        """Submit a job and return its id."""
        answer = self.post("run", {"input": job_input, **options})
        assert answer.status == 200, answer.text
        return str(answer.json["id"])

    def reach(self, job_id: str, *states: str) -> dict[str, Any]:
        """Wait until the job is in one of `states`."""
        answer = until(lambda: self.get(f"status/{job_id}"), lambda answer: answer.json.get("status") in states)
        return dict(answer.json)

    def vanish(self, job_id: str) -> None:
        """Wait until the job is unknown."""
        until(lambda: self.get(f"status/{job_id}"), lambda answer: answer.status == 404)


@pytest.fixture
def shell(account: Account, jobs: Queue) -> Shell:
    """The endpoint whose worker does what the input says."""
    return Shell(account, jobs.id)


@pytest.fixture
def frozen_shell(account: Account, frozen: Queue) -> Shell:
    """The endpoint that has no workers."""
    return Shell(account, frozen.id)


class TestJobs:
    """The job API."""

    def test_run_and_status(self, shell: Shell) -> None:
        submitted = shell.post("run", {"input": {"greeting": "hello"}})
        assert submitted.status == 200
        assert submitted.headers["content-type"].startswith("application/json")
        assert submitted.json == {"id": submitted.json["id"], "status": "IN_QUEUE"}

        job = shell.reach(submitted.json["id"], "COMPLETED")

        assert job["output"] == {"got": {"greeting": "hello"}}
        assert job.keys() >= {"id", "status", "output", "delayTime", "executionTime", "workerId"}

    def test_status_and_stream_answer_post_as_well(self, shell: Shell) -> None:
        job_id = shell.run({"greeting": "hello"})
        shell.reach(job_id, "COMPLETED")
        assert shell.post(f"status/{job_id}").json == shell.get(f"status/{job_id}").json
        drained = shell.post(f"stream/{job_id}").json
        assert (drained["status"], drained["stream"]) == ("COMPLETED", [])

    def test_bearer_works_too(self, account: Account, jobs: Queue) -> None:
        answer = curl(jobs.urls["health"], "-H", f"Authorization: Bearer {account.key}")
        assert answer.status == 200

    def test_runsync(self, shell: Shell) -> None:
        answer = shell.post("runsync", {"input": {"greeting": "hello"}})
        assert (answer.status, answer.json["status"]) == (200, "COMPLETED")
        assert answer.json["output"] == {"got": {"greeting": "hello"}}
        assert shell.get(f"status/{answer.json['id']}").json["output"] == answer.json["output"]

    def test_runsync_of_a_failing_job_answers_200(self, shell: Shell) -> None:
        answer = shell.post("runsync", {"input": {"raise": "boom"}})
        assert (answer.status, answer.json["status"]) == (200, "FAILED")
        assert "boom" in answer.json["error"]

    def test_runsync_gives_the_unfinished_job_when_its_wait_ends(self, frozen_shell: Shell) -> None:
        started = time.monotonic()
        answer = frozen_shell.post("runsync?wait=1000", {"input": {"greeting": "never"}})
        assert time.monotonic() - started >= 0.9
        assert (answer.status, answer.json["status"]) == (200, "IN_QUEUE")
        assert frozen_shell.get(f"status/{answer.json['id']}").json["status"] == "IN_QUEUE"
        assert "output" not in answer.json

    def test_runsync_gives_the_running_job_when_its_wait_ends(self, shell: Shell, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        shell.post("runsync", {"input": {"greeting": "warm up"}})
        answer = shell.post("runsync?wait=1000", {"input": {"gate": str(gate)}})
        gate.touch()
        assert answer.status == 200
        assert answer.json["status"] in ("IN_PROGRESS", "IN_QUEUE")  # the latter where a worker takes its time
        assert shell.reach(answer.json["id"], "COMPLETED")["output"] == {"got": {"gate": str(gate)}}

    def test_progress_is_visible_while_running(self, shell: Shell, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        job_id = shell.run({"progress": [1, 2], "gate": str(gate)})
        seen = until(lambda: shell.get(f"status/{job_id}").json, lambda job: job.get("output") == [1, 2])
        gate.touch()
        assert seen["status"] == "IN_PROGRESS"
        assert shell.reach(job_id, "COMPLETED")["output"]["got"]["gate"] == str(gate)

    def test_soft_error(self, shell: Shell) -> None:
        job = shell.post("runsync", {"input": {"error": "out of ideas"}}).json
        assert (job["status"], job["error"], job["output"]) == ("FAILED", "out of ideas", {"kept": True})

    def test_stream(self, account: Account, streams: Queue) -> None:
        shell = Shell(account, streams.id)
        job_id = shell.run({"chunks": 3})
        chunks: list[Any] = []

        def fetch() -> dict[str, Any]:
            answer = shell.get(f"stream/{job_id}")
            assert answer.status == 200
            chunks.extend(chunk["output"] for chunk in answer.json["stream"])
            return dict(answer.json)

        until(fetch, lambda answer: answer["status"] == "COMPLETED" and not answer["stream"])
        assert chunks == [0, 1, 2]
        assert shell.get(f"status/{job_id}").json["output"] == [0, 1, 2]

    def test_cancel(self, shell: Shell, frozen_shell: Shell, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        running, queued = shell.run({"gate": str(gate)}), frozen_shell.run({"greeting": "never"})
        until((tmp_path / "gate.started").exists, bool)
        assert shell.get(f"status/{running}").json["status"] == "IN_PROGRESS"
        assert frozen_shell.post(f"cancel/{queued}").json == {"id": queued, "status": "CANCELLED"}
        assert shell.post(f"cancel/{running}").json == {"id": running, "status": "CANCELLED"}
        until((tmp_path / "gate.cancelled").exists, bool)
        assert shell.get(f"status/{running}").json["status"] == "CANCELLED"
        assert frozen_shell.get(f"status/{queued}").json["status"] == "CANCELLED"

    def test_retry_of_a_failed_job(self, shell: Shell, tmp_path: Path) -> None:
        job_id = shell.run({"fail_once": str(tmp_path / "marker")})
        shell.reach(job_id, "FAILED")
        answer = shell.post(f"retry/{job_id}")
        assert (answer.status, answer.json) == (200, {"id": job_id, "status": "IN_QUEUE"})
        job = shell.reach(job_id, "COMPLETED")
        assert job["output"] == {"recovered": True}
        assert "error" not in job

    def test_retry_of_a_cancelled_job_is_refused(self, frozen_shell: Shell) -> None:
        job_id = frozen_shell.run({"greeting": "never"})
        frozen_shell.post(f"cancel/{job_id}")
        assert 400 <= frozen_shell.post(f"retry/{job_id}").status < 500
        assert frozen_shell.get(f"status/{job_id}").json["status"] == "CANCELLED"

    def test_purge_queue(self, account: Account, runpod_2: Environment) -> None:
        queue = account.serve("for_clients.py", runpod_2, workers_max=0)
        shell = Shell(account, queue.id)
        for number in range(4):
            shell.run({"number": number})
        assert shell.get("health").json["jobs"]["inQueue"] == 4
        answer = shell.post("purge-queue")
        assert (answer.status, answer.json) == (200, {"removed": 4, "status": "completed"})
        assert shell.get("health").json["jobs"]["inQueue"] == 0
        account.delete(queue)

    def test_large_request_up_to_the_limit_of_runsync(self, shell: Shell, tmp_path: Path) -> None:
        body = tmp_path / "body.json"
        body.write_text(json.dumps({"input": {"measure": "x" * 12_000_000}}))
        send = ["-H", f"authorization: {shell.key}", "-H", "content-type: application/json", "-d", f"@{body}"]

        accepted = curl(f"{shell.base}/runsync", *send)
        refused = curl(f"{shell.base}/run", *send)

        assert (accepted.status, accepted.json["output"]) == (200, {"characters": 12_000_000})
        assert 400 <= refused.status < 500


class TestPolicy:
    """Life and limits of a job, in real time: the shortest that the service accepts."""

    def test_ttl_ends_a_queued_job(self, frozen_shell: Shell) -> None:
        job_id = frozen_shell.run({"greeting": "never"}, policy={"ttl": 10_000})
        assert frozen_shell.get(f"status/{job_id}").json["status"] == "IN_QUEUE"
        gone = until(
            lambda: frozen_shell.get(f"status/{job_id}"),
            lambda answer: answer.status == 404 or answer.json["status"] == "TIMED_OUT",
        )
        assert gone.status == 404 or "output" not in gone.json

    def test_ttl_ends_a_running_job(self, shell: Shell, tmp_path: Path) -> None:
        shell.post("runsync", {"input": {"greeting": "warm up"}})
        job_id = shell.run({"gate": str(tmp_path / "gate")}, policy={"ttl": 10_000})
        until((tmp_path / "gate.started").exists, bool)
        shell.vanish(job_id)
        until((tmp_path / "gate.cancelled").exists, bool)

    def test_execution_timeout_stops_the_handler_and_the_job_can_be_retried(self, shell: Shell, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        job_id = shell.run({"gate": str(gate)}, policy={"executionTimeout": 5_000})
        job = shell.reach(job_id, "TIMED_OUT")
        assert job.get("output") is None
        until((tmp_path / "gate.cancelled").exists, bool)
        gate.touch()
        assert shell.post(f"retry/{job_id}").json == {"id": job_id, "status": "IN_QUEUE"}
        assert shell.reach(job_id, "COMPLETED")["output"] == {"got": {"gate": str(gate)}}

    def test_status_can_shorten_the_life_of_a_job(self, shell: Shell) -> None:
        job_id = shell.run({"greeting": "hello"})
        shell.reach(job_id, "COMPLETED")
        started = time.monotonic()
        assert shell.get(f"status/{job_id}?ttl=6000").status == 200
        shell.vanish(job_id)
        assert time.monotonic() - started >= 5.9

    def test_low_priority_jobs_start_no_worker(self, account: Account, runpod_2: Environment) -> None:
        queue = account.serve("for_clients.py", runpod_2)
        shell = Shell(account, queue.id)
        low = shell.run({"greeting": "low"}, policy={"lowPriority": True})
        time.sleep(2)  # the delay after which an ordinary job would have started a worker, four times over
        assert shell.get(f"status/{low}").json["status"] == "IN_QUEUE"
        assert account.workers(queue)["summary"]["total"] == 0
        shell.reach(shell.run({"greeting": "normal"}), "COMPLETED")
        assert shell.reach(low, "COMPLETED")["output"] == {"got": {"greeting": "low"}}
        account.delete(queue)


class TestWebhooks:
    """The call back when a job has ended."""

    def test_finished_job_is_posted(self, shell: Shell, webhooks: Webhooks) -> None:
        job_id = shell.run({"greeting": "call me"}, webhook=f"{webhooks.url}/done")
        (delivery,) = until(lambda: webhooks.at("/done"), bool)
        assert delivery.content_type.startswith("application/json")
        assert (delivery.body["id"], delivery.body["status"]) == (job_id, "COMPLETED")
        assert delivery.body["output"] == {"got": {"greeting": "call me"}}

    def test_failed_job_is_posted(self, shell: Shell, webhooks: Webhooks) -> None:
        job_id = shell.run({"raise": "boom"}, webhook=f"{webhooks.url}/failed")
        (delivery,) = until(lambda: webhooks.at("/failed"), bool)
        assert (delivery.body["id"], delivery.body["status"]) == (job_id, "FAILED")
        assert "boom" in delivery.body["error"]

    def test_refused_delivery_is_tried_again_some_seconds_later(self, shell: Shell, webhooks: Webhooks) -> None:
        shell.run({"greeting": "again"}, webhook=f"{webhooks.url}/refuse/1/again")
        first, second = until(lambda: webhooks.at("/refuse/1/again"), lambda seen: len(seen) == 2)
        assert second.at_s - first.at_s >= 5
        assert second.body == first.body


class TestRefusals:
    """Keys and names that are not known, and requests that make no sense."""

    OPERATIONS = (
        ("POST", "run"),
        ("POST", "runsync"),
        ("GET", "status/some-job"),
        ("GET", "stream/some-job"),
        ("POST", "cancel/some-job"),
        ("POST", "retry/some-job"),
        ("POST", "purge-queue"),
        ("GET", "health"),
    )

    @pytest.mark.parametrize(("method", "path"), OPERATIONS)
    @pytest.mark.parametrize("header", ["", "authorization: wrong", "Authorization: Bearer wrong"])
    def test_unknown_key_is_401(self, shell: Shell, method: str, path: str, header: str) -> None:
        authorization = ["-H", header] if header else []
        body = ["-d", '{"input": {}}', "-H", "content-type: application/json"] if method == "POST" else []
        assert curl("-X", method, f"{shell.base}/{path}", *authorization, *body).status == 401

    @pytest.mark.parametrize(("method", "path"), OPERATIONS)
    def test_unknown_endpoint_is_404(self, account: Account, method: str, path: str) -> None:
        shell = Shell(account, "no-such-endpoint")
        answer = shell.post(path, {"input": {"a": 1}}) if method == "POST" else shell.get(path)
        assert answer.status == 404

    @pytest.mark.parametrize(("method", "path"), [pair for pair in OPERATIONS if "some-job" in pair[1]])
    def test_unknown_job_is_404(self, shell: Shell, method: str, path: str) -> None:
        assert (shell.post(path) if method == "POST" else shell.get(path)).status == 404

    def test_empty_input_fails_the_job_as_the_service_does(self, shell: Shell) -> None:
        # The service drops an empty object, and the worker then refuses a job without input.
        job = shell.post("runsync", {"input": {}}).json
        assert job["status"] == "FAILED"
        assert "input" in job["error"]

    @pytest.mark.parametrize("body", ["{not json", "[1]", '{"no": "input"}', ""])
    def test_request_without_input_is_400(self, shell: Shell, body: str) -> None:
        send = ["-H", f"authorization: {shell.key}", "-H", "content-type: application/json", "-d", body]
        assert curl(f"{shell.base}/run", *send).status == 400
        assert curl(f"{shell.base}/runsync", *send).status == 400


class TestRest:
    """REST v2 with `Bearer`."""

    BODY: Mapping[str, Any] = {
        "name": "by-curl",
        "type": "QUEUE",
        "image": "python:3.12-slim",
        "args": "python worker.py",
        "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
        "workers": {"min": 0, "max": 0},
    }

    @staticmethod
    def call(account: Account, method: str, path: str, body: object = None) -> Answer:
        """Send one request the way the documentation shows."""
        payload = [] if body is None else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        key = f"Authorization: Bearer {account.key}"
        return curl("-X", method, f"{account.url}/v2/{path}", "-H", key, *payload)

    @staticmethod
    def assert_problem(answer: Answer, status: int) -> None:
        """Check the error document that every refusal of REST v2 carries."""
        assert answer.status == status, answer.text
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json["status"] == status
        assert answer.json["title"]
        assert answer.json["detail"]

    def test_life_of_an_endpoint(self, account: Account) -> None:
        created = self.call(account, "POST", "serverless", self.BODY)
        assert created.status == 201, created.text
        path = f"serverless/{created.json['id']}"
        assert self.call(account, "GET", path).json == created.json
        assert created.json in self.call(account, "GET", "serverless").json["endpoints"]
        changed = self.call(account, "PATCH", path, {"timeout": 60_000})
        assert (changed.status, changed.json) == (200, {**created.json, "timeout": 60_000})
        assert self.call(account, "GET", f"{path}/workers").json["summary"]["total"] == 0
        shell = Shell(account, created.json["id"])
        job_id = shell.run({"greeting": "never"})
        deleted = self.call(account, "DELETE", path)
        assert (deleted.status, deleted.text) == (204, "")
        self.assert_problem(self.call(account, "GET", path), 404)
        assert shell.get(f"status/{job_id}").status == 404
        assert shell.get("health").status == 404

    def test_request_urls_are_those_of_the_platform(self, account: Account, frozen: Queue) -> None:
        base = f"{account.url}/v2/{frozen.id}"
        assert frozen.urls == {
            "run": f"{base}/run",
            "runSync": f"{base}/runsync",
            "status": f"{base}/status/{{job_id}}",
            "stream": f"{base}/stream/{{job_id}}",
            "cancel": f"{base}/cancel/{{job_id}}",
            "retry": f"{base}/retry/{{job_id}}",
            "purgeQueue": f"{base}/purge-queue",
            "health": f"{base}/health",
        }

    @pytest.mark.parametrize(
        ("changes", "status"),
        [
            ({"bogus": 1}, 422),
            ({"scaling": {"type": "QUEUE_DELAY", "queueDelay": 0.1}}, 422),
            ({"type": "QUEUES"}, 422),
            ({"workers": {"min": -1}}, 422),
            ({"gpu": {"pools": ["ADA_24"]}}, 400),
            ({"cpu": None}, 422),
        ],
    )
    def test_bad_create_is_refused(self, account: Account, changes: dict[str, Any], status: int) -> None:
        self.assert_problem(self.call(account, "POST", "serverless", {**self.BODY, **changes}), status)

    def test_endpoint_with_neither_gpu_nor_cpu_is_refused(self, account: Account) -> None:
        body = {key: value for key, value in self.BODY.items() if key != "cpu"}
        self.assert_problem(self.call(account, "POST", "serverless", body), 400)

    def test_missing_name_is_refused(self, account: Account) -> None:
        body = {key: value for key, value in self.BODY.items() if key != "name"}
        self.assert_problem(self.call(account, "POST", "serverless", body), 422)

    def test_update_cannot_change_the_compute_family(self, account: Account, frozen: Queue) -> None:
        answer = self.call(account, "PATCH", f"serverless/{frozen.id}", {"gpu": {"pools": ["ADA_24"]}})
        self.assert_problem(answer, 400)

    @pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
    def test_unknown_endpoint_is_404(self, account: Account, method: str) -> None:
        body = {"name": "new"} if method == "PATCH" else None
        self.assert_problem(self.call(account, method, "serverless/no-such-endpoint", body), 404)

    def test_wrong_method_names_the_right_ones(self, account: Account) -> None:
        answer = self.call(account, "PUT", "serverless", {})
        assert answer.status == 405
        assert {name.strip() for name in answer.headers["allow"].split(",")} >= {"GET", "POST"}

    @pytest.mark.parametrize("header", ["", "Authorization: Bearer wrong"])
    def test_unknown_key_is_401(self, account: Account, header: str) -> None:
        authorization = ["-H", header] if header else []
        self.assert_problem(curl(f"{account.url}/v2/serverless", *authorization), 401)
