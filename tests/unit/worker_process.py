# SPDX-License-Identifier: Apache-2.0
"""A load-balanced worker as a process of its own, spoken to by HTTP, with no platform around it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flash_plugins.code.cargo import Cargo, CargoRoute, pack
from flash_plugins.platforms import api

#: Generous: the box may be busy.
DEADLINE_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Worker:
    """A running worker."""

    process: subprocess.Popen[bytes]
    port: int
    health_port: int
    log_path: Path
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        port: int | None = None,
        timeout_s: float = DEADLINE_S,
    ) -> Answer:
        """Send one request on a connection of its own; anything but bytes goes as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=timeout_s)
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return self.request("POST", path, body, headers=named)

    def health(self) -> int | None:
        """Status of the health check, None while nobody listens."""
        try:
            return self.request("GET", "/ping", port=self.health_port, timeout_s=5).status
        except (OSError, http.client.HTTPException):
            return None

    def wait_for_health(self, status: int) -> None:
        """Wait until the health check answers so."""
        deadline = time.monotonic() + DEADLINE_S
        while (found := self.health()) != status:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, (found, self.log)
            time.sleep(0.02)

    def wait_for_log(self, text: str) -> None:
        """Wait until the log holds a text."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def stop(self) -> int:
        """Ask it to end, as a platform does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


def environment(cargo: Cargo | None, folder: Path, **variables: str) -> dict[str, str]:
    """Return what a platform would give such a worker."""
    port = str(free_port())
    return {
        **os.environ,
        **({} if cargo is None else pack(cargo)),
        api.HANDLER_ENV: api.HANDLER_HTTP,
        api.PORT_ENV: port,
        api.CAPPED_ENV: "1",
        api.CACHE_DIR_ENV: str(folder / "cache"),
        api.ENDPOINT_NAME_ENV: "the-endpoint",
        "PYTHONWARNINGS": "default",
        **variables,
    }


@contextlib.contextmanager
def worker(
    cargo: Cargo | None,
    folder: Path,
    *,
    is_ready: bool = True,
    command: Sequence[str] = ("-m", "flash_plugins.worker"),
    **variables: str,
) -> Iterator[Worker]:
    """Run a worker with this cargo; with `is_ready`, from the moment at which it is healthy."""
    given = environment(cargo, folder, **variables)
    log_path = folder / f"worker-{given[api.PORT_ENV]}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen([sys.executable, *command], env=given, cwd=folder, stdout=log, stderr=log)
    port = int(given[api.PORT_ENV])
    running = Worker(process, port, int(given.get(api.PORT_HEALTH_ENV, port)), log_path)
    try:
        if is_ready:
            running.wait_for_health(200)
        yield running
    finally:
        process.kill()
        process.wait()


def routes(*declared: tuple[str, str, Any]) -> Cargo:
    """Return cargo of these routes."""
    return Cargo(routes=[CargoRoute(*route) for route in declared])
