# SPDX-License-Identifier: Apache-2.0
"""Runpod's job API and worker protocol as the local platform serves them, request by request."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from flash_plugins.platforms.local.launch import launch
from tests.contract.platform_worker import ByHand, command, environment
from tests.integration.local_support import Client, wait_for


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    platform = launch()
    yield Client.of(platform)
    platform.stop()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


class Stage:
    """An endpoint and its worker by hand."""

    def __init__(self, client: Client, folder: Path, **fields: Any) -> None:
        self.client = client
        self.folder = folder
        self.id = client.create(command(folder), workers={"min": 1, "max": 1}, **fields)
        self.worker = ByHand(client, environment(folder))

    def post(self, operation: str, body: object = None) -> Any:
        return self.client.ok("POST", f"/v2/{self.id}/{operation}", body)

    def get(self, operation: str) -> Any:
        return self.client.ok("GET", f"/v2/{self.id}/{operation}")

    def run(self, request: object = 1, **options: object) -> str:
        answer = self.post("run", {"input": request, **options})
        assert answer == {"id": answer["id"], "status": "IN_QUEUE"}
        return str(answer["id"])

    def take(self) -> str:
        return str(self.worker.take()["id"])


@pytest.fixture
def stage(client: Client, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(client, tmp_path)
    yield stage
    client.request("DELETE", f"/v2/serverless/{stage.id}")


def test_a_job_goes_from_run_to_a_worker_and_back(stage: Stage) -> None:
    job = stage.run({"x": [1, 2.5]}, webhook="http://127.0.0.1:9/", s3Config={"bucketName": "b"})
    assert stage.get(f"status/{job}") == {"id": job, "status": "IN_QUEUE"}

    taken = stage.worker.take()

    assert taken == {
        "id": job,
        "input": {"x": [1, 2.5]},
        "webhook": "http://127.0.0.1:9/",
        "s3Config": {"bucketName": "b"},
    }
    running = stage.get(f"status/{job}")
    assert (running["status"], running["workerId"]) == ("IN_PROGRESS", stage.worker.id)
    assert stage.worker.report(job, {"status": "IN_PROGRESS", "output": "half"}) == 200
    assert stage.get(f"status/{job}")["output"] == "half"
    assert stage.worker.report(job, {"output": {"y": None}}) == 200
    ended = stage.post(f"status/{job}")
    assert (ended["status"], ended["output"]) == ("COMPLETED", {"y": None})
    assert isinstance(ended["delayTime"], int)
    assert isinstance(ended["executionTime"], int)
    assert stage.worker.report(job, {"output": "again"}) == 200
    assert stage.get(f"status/{job}")["output"] == {"y": None}


def test_the_list_of_jobs_says_how_long_they_waited_and_ran(stage: Stage) -> None:
    done, waits = stage.run(), stage.run()
    stage.take()
    stage.worker.report(done, {"output": "not in the list"})
    first, second = stage.get("requests")["requests"]
    assert sorted(first) == ["delayTime", "executionTime", "id", "status", "workerId"]
    assert (first["id"], first["status"]) == (done, "COMPLETED")
    assert second == {"id": waits, "status": "IN_QUEUE"}


def test_runsync_answers_the_finished_job(stage: Stage, threads: ThreadPoolExecutor) -> None:
    answer = threads.submit(stage.post, "runsync", {"input": "hello"})
    job = stage.worker.take()
    assert job["input"] == "hello"
    assert not answer.done()
    stage.worker.report(job["id"], {"error": "soft", "output": {"why": 1}})
    ended = answer.result()
    assert job["id"].startswith("sync-")
    assert job["id"].endswith("-u1")
    assert (ended["id"], ended["status"], ended["error"], ended["output"]) == (job["id"], "FAILED", "soft", {"why": 1})


def test_runsync_answers_the_unfinished_job_when_its_wait_ends_and_the_job_goes_on(stage: Stage) -> None:
    answer = stage.post("runsync?wait=1000", {"input": 1})
    assert answer == {"id": answer["id"], "status": "IN_QUEUE"}
    stage.worker.report(stage.take(), {"output": 2})
    assert stage.get(f"status/{answer['id']}")["output"] == 2


def test_a_client_that_hangs_up_does_not_cancel_its_job(stage: Stage) -> None:
    place = stage.client.place
    body = b'{"input": "still wanted"}'
    head = (
        f"POST /v2/{stage.id}/runsync HTTP/1.1\r\nHost: x\r\nAuthorization: {stage.client.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((place.hostname or "", place.port or 0)) as connection:
        connection.sendall(head.encode() + body)
        wait_for(lambda: stage.get("health")["jobs"]["inQueue"])
    time.sleep(1.2)  # longer than it takes the platform to notice
    taken = stage.worker.take()
    assert taken["input"] == "still wanted"
    stage.worker.report(taken["id"], {"output": "done"})
    assert stage.get(f"status/{taken['id']}")["status"] == "COMPLETED"


def test_a_poll_whose_connection_is_gone_does_not_swallow_a_job(stage: Stage) -> None:
    stage.worker.take_and_hang_up()
    wait_for(lambda: stage.client.workers(stage.id)[0]["status"] == "IDLE")
    job = stage.run()
    assert stage.take() == job
    assert "attempts" not in stage.get(f"status/{job}")


def test_a_batch_poll_gets_several_jobs_and_a_poll_without_jobs_is_held(
    stage: Stage, threads: ThreadPoolExecutor
) -> None:
    jobs = [stage.run(number) for number in range(3)]
    assert [job["id"] for job in stage.worker.take(batch=2)] == jobs[:2]
    assert [job["id"] for job in stage.worker.take(batch=5)] == jobs[2:]
    held = threads.submit(stage.worker.take, batch=5)
    time.sleep(0.3)
    assert not held.done()
    late = stage.run("late")
    assert [job["id"] for job in held.result()] == [late]


def test_chunks_stream_as_they_come_and_are_the_output_in_the_end(stage: Stage, threads: ThreadPoolExecutor) -> None:
    job = stage.run()
    first = threads.submit(stage.get, f"stream/{job}")
    stage.take()
    assert stage.worker.report(job, {"output": {"n": 1}}, stream=True) == 200
    assert first.result() == {"id": job, "status": "IN_PROGRESS", "stream": [{"output": {"n": 1}}]}
    second = threads.submit(stage.get, f"stream/{job}")
    time.sleep(0.2)
    assert not second.done()
    stage.worker.report(job, {"output": 2}, stream=True)
    assert second.result()["stream"] == [{"output": 2}]
    stage.worker.report(job, {"output": 3}, stream=True)
    stage.worker.report(job, {"output": []})
    assert stage.post(f"stream/{job}") == {"id": job, "status": "COMPLETED", "stream": [{"output": 3}]}
    assert stage.get(f"stream/{job}") == {"id": job, "status": "COMPLETED", "stream": []}
    assert stage.get(f"status/{job}")["output"] == [{"n": 1}, 2, 3]


def test_a_stream_ends_with_the_error(stage: Stage, threads: ThreadPoolExecutor) -> None:
    job = stage.run()
    stage.take()
    held = threads.submit(stage.get, f"stream/{job}")
    stage.worker.report(job, {"error": "broke"})
    answer = held.result()
    assert (answer["status"], answer["stream"], answer["error"]) == ("FAILED", [], "broke")


def test_cancel_of_a_queued_and_of_a_running_job(stage: Stage, threads: ThreadPoolExecutor) -> None:
    running, queued = stage.run(), stage.run()
    assert stage.take() == running
    stops = threads.submit(stage.worker.stops)
    assert stage.post(f"cancel/{queued}") == {"id": queued, "status": "CANCELLED"}
    assert stage.post(f"cancel/{running}") == {"id": running, "status": "CANCELLED"}
    assert stops.result() == {"jobsToStop": [running]}
    assert stage.get(f"status/{running}")["status"] == "CANCELLED"


def test_retry_is_for_failed_jobs(stage: Stage) -> None:
    job = stage.run("again")
    assert stage.client.request("POST", f"/v2/{stage.id}/retry/{job}")[0] == 400
    stage.take()
    stage.worker.report(job, {"error": "first"})
    assert stage.post(f"retry/{job}") == {"id": job, "status": "IN_QUEUE"}
    assert stage.get(f"status/{job}") == {"id": job, "status": "IN_QUEUE"}
    assert stage.worker.take() == {"id": job, "input": "again"}
    stage.worker.report(job, {"output": "second"})
    assert stage.get(f"status/{job}")["output"] == "second"
    assert stage.client.request("POST", f"/v2/{stage.id}/retry/{job}")[0] == 400
    assert stage.get("health")["jobs"] == {"completed": 1, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 1}


def test_purge_removes_queued_jobs_only(stage: Stage) -> None:
    jobs = [stage.run(number) for number in range(3)]
    stage.take()
    assert stage.post("purge-queue") == {"removed": 2, "status": "completed"}
    states = [stage.get(f"status/{job}")["status"] for job in jobs]
    assert states == ["IN_PROGRESS", "CANCELLED", "CANCELLED"]
    assert stage.post("purge-queue")["removed"] == 0


def test_health_counts_jobs_and_workers(stage: Stage) -> None:
    stage.run()
    health = stage.get("health")
    assert health["jobs"]["inQueue"] == 1
    assert health["workers"]["initializing"] == 1
    stage.take()
    health = stage.get("health")
    assert health["jobs"]["inProgress"] == 1
    assert (health["workers"]["running"], health["workers"]["ready"]) == (1, 1)


def test_ttl_is_hard(stage: Stage) -> None:
    job = stage.run()
    assert stage.get(f"status/{job}?ttl=1")["status"] == "IN_QUEUE"
    wait_for(lambda: stage.client.request("GET", f"/v2/{stage.id}/status/{job}")[0] == 404)


def test_stop_pod_brings_a_fresh_worker(stage: Stage) -> None:
    job = stage.run()
    stage.take()
    stage.worker.report(job, {"output": 1, "stopPod": True})
    fresh = environment(stage.folder, 1)
    assert fresh["RUNPOD_POD_ID"] != stage.worker.id
    assert fresh["FLASH_PLUGINS_CACHE_DIR"] == stage.worker.variables["FLASH_PLUGINS_CACHE_DIR"]


def test_a_worker_sees_the_variables_of_the_protocol(stage: Stage) -> None:
    variables = stage.worker.variables
    for name in ("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "RUNPOD_SKIP_GPU_CHECK", "RUNPOD_SKIP_FITNESS_CHECKS"):
        assert variables[name] in ("true", "1")
    assert variables["RUNPOD_LOG_LEVEL"] == "ERROR"
    assert variables["RUNPOD_ENDPOINT_ID"] == stage.id
    assert variables["RUNPOD_AI_API_KEY"] != stage.client.key
    assert stage.client.key not in json.dumps(variables)
    assert "/job-take/" in variables["RUNPOD_WEBHOOK_GET_JOB"]
    assert "?" in variables["RUNPOD_WEBHOOK_GET_JOB"]


def test_a_workers_token_opens_its_own_paths_only(stage: Stage) -> None:
    token = stage.worker.variables["RUNPOD_AI_API_KEY"]
    for headers in ({"Authorization": token}, {"Authorization": f"Bearer {token}"}):
        assert stage.client.request("GET", f"/v2/{stage.id}/health", headers=headers)[0] == 401
        assert stage.client.request("GET", "/v2/serverless", headers=headers)[0] == 401
    path = f"/v2/{stage.id}/job-take/{stage.worker.id}"
    assert stage.client.request("GET", path)[0] == 401
    assert stage.client.request("GET", f"{path}?token=wrong")[0] == 401
    assert stage.client.request("GET", f"/v2/{stage.id}/job-take/other?token={token}")[0] == 401


@pytest.mark.parametrize("authorization", [None, "", "wrong", "Bearer wrong", "Bearer", "Basic a2V5"])
def test_every_path_wants_the_key(stage: Stage, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for path in (f"/v2/{stage.id}/health", "/v2/nosuch/health", "/v2/serverless", "/v2/whatever", "/v2/a/b/c/d"):
        assert stage.client.request("GET", path, headers=headers)[0] == 401, path


def test_the_job_api_takes_the_bare_key_and_rest_wants_bearer(stage: Stage) -> None:
    bare = {"Authorization": stage.client.key}
    assert stage.client.request("GET", f"/v2/{stage.id}/health", headers=bare)[0] == 200
    assert stage.client.request("GET", "/v2/serverless", headers=bare)[0] == 401


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "run", b"{", 400),
        ("POST", "run", {"inputs": 1}, 400),
        ("POST", "run", {"input": 1, "policy": {"ttl": 1}}, 400),
        ("POST", "runsync?wait=999", {"input": 1}, 400),
        ("POST", "runsync?wait=300001", {"input": 1}, 400),
        ("GET", "run", None, 405),
        ("GET", "status/nosuch", None, 404),
        ("POST", "cancel/nosuch", None, 404),
        ("POST", "retry/nosuch", None, 404),
        ("GET", "stream/nosuch", None, 404),
        ("GET", "nosuch", None, 404),
        ("GET", "status", None, 404),
    ],
)
def test_refusals(stage: Stage, method: str, path: str, body: object, status: int) -> None:
    got, answer, _ = stage.client.request(method, f"/v2/{stage.id}/{path}", body)
    assert got == status
    assert answer["error"]
    assert stage.get("health")["jobs"]["inQueue"] == 0


@pytest.mark.parametrize(("operation", "limit"), [("run", 10_000_000), ("runsync", 20_000_000)])
def test_a_body_over_the_limit_is_refused_with_both_sizes(stage: Stage, operation: str, limit: int) -> None:
    body = json.dumps({"input": "x" * limit}).encode()
    status, answer, _ = stage.client.request("POST", f"/v2/{stage.id}/{operation}", body)
    assert status == 413
    assert f"{len(body):,} bytes" in answer["error"]
    assert f"{limit:,}" in answer["error"]


def test_a_large_job_passes_whole(stage: Stage) -> None:
    text = "é" * 1_500_000
    job = stage.run(text)
    assert stage.worker.take()["input"] == text
    stage.worker.report(job, {"output": text})
    assert stage.get(f"status/{job}")["output"] == text


def test_a_result_over_the_limit_fails_the_job_with_both_sizes(stage: Stage) -> None:
    job = stage.run()
    stage.take()
    stage.worker.report(job, {"output": "x" * 20_000_000})
    ended = stage.get(f"status/{job}")
    assert ended["status"] == "FAILED"
    assert "20,000,014 bytes" in ended["error"]
    assert "20,000,000" in ended["error"]


def test_a_chunk_over_the_limit_fails_the_job(stage: Stage) -> None:
    job = stage.run()
    stage.take()
    stage.worker.report(job, {"output": "x" * 1_000_000}, stream=True)
    assert "streamed chunk too large" in stage.get(f"status/{job}")["error"]
    assert stage.worker.stops() == {"jobsToStop": [job]}


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[Any], Callable[[], None]]]:
    received: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", received, server.shutdown
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_gets_the_final_job(stage: Stage, webhook: tuple[str, list[Any], Callable[[], None]]) -> None:
    url, received, _ = webhook
    job = stage.run(webhook=url)
    stage.take()
    stage.worker.report(job, {"output": 1})
    [final] = wait_for(lambda: received)
    assert final == stage.get(f"status/{job}")


def test_faults_are_injected_through_the_launcher() -> None:
    platform = launch(faults={"refuse": 1, "drop": 1})
    try:
        client = Client.of(platform)
        endpoint = client.create("sleep 600")
        assert client.request("GET", f"/v2/{endpoint}/health")[0] == 429
        with pytest.raises((OSError, ValueError, HTTPException)):
            client.request("GET", f"/v2/{endpoint}/health")
        assert client.request("GET", f"/v2/{endpoint}/health")[0] == 200
    finally:
        platform.stop()
