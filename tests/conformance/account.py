# SPDX-License-Identifier: Apache-2.0
"""What somebody with a key can do over plain HTTP: make endpoints, send jobs. No client library helps."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import httpx

from .environments import Environment

T = TypeVar("T")

#: Scripts that workers run, as users would write them.
WORKERS: Final = Path(__file__).parent / "workers"

#: Longest wait for anything a platform is to do, seconds: far beyond what it takes, for busy machines.
DEADLINE_S: Final = 90.0

TERMINAL: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})


def until(look: Callable[[], T], wanted: Callable[[T], object], *, deadline_s: float = DEADLINE_S) -> T:
    """Return the first answer of `look` that is `wanted`.

    Raises:
        AssertionError: None was in time; the message holds the last answer.
    """
    end = time.monotonic() + deadline_s
    while True:
        seen = look()
        if wanted(seen):
            return seen
        assert time.monotonic() < end, f"not within {deadline_s:.0f} s; last seen: {seen!r}"
        time.sleep(0.05)


class Queue:
    """A queue endpoint and its job API, called by the URLs that the platform gave."""

    def __init__(self, http: httpx.Client, endpoint: Mapping[str, Any]) -> None:
        self._http = http
        self.endpoint = endpoint
        self.id: str = endpoint["id"]
        self.urls: Mapping[str, str] = endpoint["requestUrls"]

    def _job(self, method: str, call: str, job_id: str) -> dict[str, Any]:
        answer = self._http.request(method, self.urls[call].replace("{job_id}", job_id))
        assert answer.status_code == 200, f"{call} of {job_id}: {answer.status_code} {answer.text}"
        return dict(answer.json())

    def run(self, job_input: Any, **options: Any) -> str:
        """Submit a job and return its id."""
        answer = self._http.post(self.urls["run"], json={"input": job_input, **options})
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "IN_QUEUE"
        return str(answer.json()["id"])

    def runsync(self, job_input: Any, *, wait_ms: int = 90_000) -> dict[str, Any]:
        """Submit a job and return what came when the platform's wait ended."""
        answer = self._http.post(self.urls["runSync"], params={"wait": wait_ms}, json={"input": job_input})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def status(self, job_id: str) -> dict[str, Any]:
        """Return the job as the platform shows it now."""
        return self._job("GET", "status", job_id)

    def stream(self, job_id: str) -> dict[str, Any]:
        """Return the chunks that nobody has fetched yet."""
        return self._job("GET", "stream", job_id)

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel the job."""
        return self._job("POST", "cancel", job_id)

    def retry(self, job_id: str) -> dict[str, Any]:
        """Put a failed job back into the queue."""
        return self._job("POST", "retry", job_id)

    def health(self) -> dict[str, Any]:
        """Return the counters of jobs and workers."""
        return dict(self._http.get(self.urls["health"]).json())

    def finish(self, job_id: str) -> dict[str, Any]:
        """Wait for the end of the job and return it."""
        return until(lambda: self.status(job_id), lambda job: job["status"] in TERMINAL)

    def reach(self, job_id: str, status: str) -> dict[str, Any]:
        """Wait for the job to be in `status` and return it."""
        return until(lambda: self.status(job_id), lambda job: job["status"] == status)


class Account:
    """REST v2 with one key. Closing it deletes nothing: the platform ends with its module."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self.key = key
        headers = {"Authorization": f"Bearer {key}"}
        # trust_env=False: a proxy of this machine has no business between the test and loopback.
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=120.0, trust_env=False)

    def __enter__(self) -> Account:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def serve(
        self,
        script: str,
        sdk: Environment,
        *,
        workers_max: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> Queue:
        """Create an endpoint whose workers run `script` with the interpreter of `sdk`."""
        command = [str(sdk.python), str(WORKERS / script)]
        return self.start(script.removesuffix(".py"), command, workers_max=workers_max, env=env)

    def start(
        self, name: str, command: Sequence[str], *, workers_max: int = 1, env: Mapping[str, str] | None = None
    ) -> Queue:
        """Create an endpoint whose workers are started with a command."""
        body = {
            "name": name,
            "type": "QUEUE",
            "image": "python:3.12-slim",
            "args": shlex.join(command),
            "env": dict(env or {}),
            "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
            "scaling": {"type": "QUEUE_DELAY", "queueDelay": 0.5},
            "workers": {"min": 0, "max": workers_max, "idleTimeout": 300},
        }
        answer = self.http.post("/v2/serverless", json=body)
        assert answer.status_code == 201, f"{answer.status_code} {answer.text}"
        return Queue(self.http, answer.json())

    def workers(self, queue: Queue) -> dict[str, Any]:
        """Return the workers of an endpoint and their summary."""
        answer = self.http.get(f"/v2/serverless/{queue.id}/workers")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def delete(self, queue: Queue) -> None:
        """Delete an endpoint and end its workers."""
        answer = self.http.delete(f"/v2/serverless/{queue.id}")
        assert answer.status_code == 204, answer.text
