# SPDX-License-Identifier: Apache-2.0
"""A worker made of single requests: a test decides when it asks for a job and what it reports.

Its endpoint's command only tells where the platform is and then sleeps.
"""

from __future__ import annotations

import json
import shlex
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.integration.local_support import Client, wait_for

_SCRIPT = """
import json, os, sys, time
path = os.path.join(sys.argv[1], os.environ["RUNPOD_POD_ID"])
with open(path + ".part", "w") as note:
    json.dump(dict(os.environ), note)
os.rename(path + ".part", path + ".json")
time.sleep(600)
"""


def command(folder: Path) -> str:
    """`args` of an endpoint whose workers leave their environment in `folder`."""
    return f"python -c {shlex.quote(_SCRIPT)} {shlex.quote(str(folder))}"


def environment(folder: Path, number: int = 0) -> dict[str, str]:
    """Wait for the worker that started as number `number` and return its environment."""

    def look() -> list[Path]:
        notes = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return notes if len(notes) > number else []

    found: dict[str, str] = json.loads(wait_for(look)[number].read_text())
    return found


class ByHand:
    """Speaks the worker protocol for the worker with this environment."""

    def __init__(self, client: Client, variables: dict[str, str]) -> None:
        self.client = client
        self.variables = variables
        self.id = variables["RUNPOD_POD_ID"]

    def url(self, variable: str, job_id: str = "") -> str:
        template = self.variables[variable].replace("$RUNPOD_POD_ID", self.id)
        place = urlsplit(template.replace("$ID", job_id or self.id))
        return f"{place.path}?{place.query}"

    def take(self, *, batch: int | None = None) -> Any:
        url = self.url("RUNPOD_WEBHOOK_GET_JOB") + "&job_in_progress=0"
        if batch is not None:
            url = url.replace("/job-take/", "/job-take-batch/") + f"&batch_size={batch}"
        status, jobs, headers = self.client.request("GET", url, headers={"Authorization": "whatever"})
        if status == 204:
            return None
        assert (status, headers["content-type"]) == (200, "application/json")
        return jobs

    def stops(self) -> Any:
        url = self.url("RUNPOD_WEBHOOK_GET_JOB").replace("/job-take/", "/job-stop/")
        return self.client.request("GET", url, headers={})[1]

    def report(self, job_id: str, body: object, *, stream: bool = False) -> int:
        variable = "RUNPOD_WEBHOOK_POST_STREAM" if stream else "RUNPOD_WEBHOOK_POST_OUTPUT"
        headers = {"Content-Type": "application/x-www-form-urlencoded", "X-Request-ID": job_id}
        return self.client.request("POST", self.url(variable, job_id) + "&isStream=false", body, headers=headers)[0]

    def take_and_hang_up(self) -> None:
        """Ask for a job and close the connection before there is one."""
        place = self.client.place
        with socket.create_connection((place.hostname or "", place.port or 0)) as connection:
            request = f"GET {self.url('RUNPOD_WEBHOOK_GET_JOB')} HTTP/1.1\r\nHost: x\r\n\r\n"
            connection.sendall(request.encode())
