# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for what a fleet needs from outside: processes that are only noted, a clock that tests move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flash_plugins.platforms.local.clock import FakeClock
from flash_plugins.platforms.local.endpoints import EndpointSpec, create_endpoint
from flash_plugins.platforms.local.fleet import Fleet
from flash_plugins.platforms.local.jobs import Job
from flash_plugins.platforms.local.processes import ExitListener
from flash_plugins.platforms.local.submission import parse_submission
from flash_plugins.platforms.local.workers import QueueWorker


class FakeProcesses:
    """Starts nothing; `exit` ends a worker as a test wishes."""

    def __init__(self) -> None:
        self.running: dict[str, ExitListener] = {}
        self.started: list[str] = []
        self.signals: list[tuple[str, int]] = []
        self.log: list[str] = []

    def start(self, worker_id: str, argv: list[str], environment: Mapping[str, str], on_exit: ExitListener) -> None:
        self.running[worker_id] = on_exit
        self.started.append(worker_id)

    def signal(self, worker_id: str, number: int) -> None:
        self.signals.append((worker_id, int(number)))

    def log_tail(self, worker_id: str, lines: int) -> list[str]:
        return self.log[-lines:]

    def exit(self, worker_id: str, code: int = 0) -> None:
        self.running.pop(worker_id)(code, None)


def endpoint(**changes: Any) -> EndpointSpec:
    """An endpoint with `changes` in its REST form; `cap` limits the jobs in flight per worker."""
    body: dict[str, Any] = {
        "name": "test",
        "type": "QUEUE",
        "image": "python:3.12-slim",
        "args": "python worker.py",
        "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
        "env": {},
    }
    if "cap" in changes:
        body["env"] = {"RUNPOD_MAX_CONCURRENCY": str(changes.pop("cap"))}
    return create_endpoint({**body, **changes}, created_at="2027-01-01T00:00:00Z")


class Scene:
    """One endpoint at work, with a fake clock and fake processes."""

    def __init__(self, *, is_uncapped: bool = False, **changes: Any) -> None:
        self.clock = FakeClock()
        self.processes = FakeProcesses()
        self.ended: list[Job] = []
        self.fleet = Fleet(
            endpoint(**changes),
            clock=self.clock,
            processes=self.processes,
            environment=lambda spec, worker: {},
            on_job_end=self.ended.append,
            is_uncapped=is_uncapped,
        )
        self.got: dict[str, list[list[Job]]] = {}

    def submit(self, body: bytes = b'{"input": 1}', *, is_sync: bool = False) -> Job:
        return self.fleet.submit(parse_submission(body), is_sync=is_sync)

    def worker(self, number: int) -> QueueWorker:
        return self.fleet.workers[self.processes.started[number]]

    def poll(self, worker: QueueWorker, want: int = 1) -> list[list[Job]]:
        """Let a worker ask for jobs; the list gets what it is answered."""
        answers: list[list[Job]] = []
        self.fleet.poll(worker, want, answers.append)
        return answers

    def done(self, worker: QueueWorker, job: Job, body: bytes = b'{"output": 2}') -> None:
        self.fleet.job_done(worker, job.id, body)
