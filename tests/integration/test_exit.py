# SPDX-License-Identifier: Apache-2.0
"""The last seconds of a program: what still runs is cancelled, in words and without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from flash_plugins.platforms.local.launch import RunningPlatform, launch
from tests.integration.local_support import Client, wait_for

#: Generous: the box may be busy.
DEADLINE_S = 60.0

PREAMBLE = """
import sys, time
from flash_plugins import Endpoint

endpoint = Endpoint(name="exit", cpu="cpu5c-4-8", workers=(1, 1))

@endpoint
def nap(seconds):
    time.sleep(seconds)
    return seconds
"""

#: A platform that outlives the script, found by name as the cloud is. `aiodns`, which needs no thread, is masked.
ELSEWHERE = """
import sys
sys.modules["aiodns"] = None
import os
import flash_plugins
from flash_plugins import Connection, hookimpl

class Elsewhere:
    name = "elsewhere"
    reason = "a test says so"
    outlives_us = True

    @hookimpl
    def flash_choose_platform(self, settings):
        return self

    def connect(self):
        base = os.environ["BASE"]
        return Connection(api_base=base, job_base=base, key=os.environ["KEY"])

    def lost_reason(self):
        return None

    def close(self):
        pass

flash_plugins.register(Elsewhere())

def forget_addresses():
    http = flash_plugins.process.session().client.http
    http._carrier._session().connector.clear_dns_cache()
"""


def start(folder: Path, body: str, **environment: str) -> subprocess.Popen[str]:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(body))
    env = {**os.environ, "FLASH_PROGRESS": "off", **environment}
    return subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Wait for the end; return the exit code and the lines on stderr but for the one that names the platform."""
    try:
        _, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    return process.returncode, [line for line in errors.splitlines() if ": platform " not in line]


@pytest.fixture
def elsewhere() -> Iterator[RunningPlatform]:
    platform = launch()
    yield platform
    platform.stop()


@pytest.mark.parametrize("pause", ["", "time.sleep(0.05)", "time.sleep(0.3)", "time.sleep(1)"])
def test_a_program_that_ends_right_after_a_call_says_what_became_of_it(tmp_path: Path, pause: str) -> None:
    code, lines = ended(start(tmp_path, f"{PREAMBLE}\ncalls = [nap(60), nap(60)]\n{pause}\n"))
    assert lines == ["flash-plugins: 2 calls were cancelled unfinished because the program ended"]
    assert code == 0


@pytest.mark.parametrize("last", ["nap(0).result()", "call = nap(60); time.sleep(0.2); call.cancel()", "pass"])
def test_a_program_that_leaves_nothing_unfinished_ends_in_silence(tmp_path: Path, last: str) -> None:
    assert ended(start(tmp_path, f"{PREAMBLE}\n{last}\n")) == (0, [])


def test_jobs_on_a_platform_that_goes_on_are_cancelled_at_the_end(tmp_path: Path, elsewhere: RunningPlatform) -> None:
    preamble = PREAMBLE.replace("workers=(1, 1)", "workers=(1, 3)")  # a job runs on each, and one waits behind it
    body = f"{ELSEWHERE}{preamble}\ncalls = [nap(60) for _ in range(5)]\n" + (
        "while not all(call.job_id for call in calls): time.sleep(0.01)\nforget_addresses()\n"
        "print(*[call.job_id for call in calls], flush=True)\n"
    )
    client = Client.of(elsewhere)
    assert client.place.port is not None
    process = start(tmp_path, body, BASE=f"http://localhost:{client.place.port}", KEY=elsewhere.key)
    assert process.stdout is not None
    jobs = process.stdout.readline().split()
    code, lines = ended(process)
    assert (code, lines) == (0, ["flash-plugins: 5 calls were cancelled unfinished because the program ended"])
    assert len(jobs) == 5
    (endpoint,) = client.ok("GET", "/v2/serverless")["endpoints"]
    states = {client.ok("GET", f"/v2/{endpoint['id']}/status/{job}")["status"] for job in jobs}
    assert states == {"CANCELLED"}


def test_ctrl_c_at_the_end_leaves_and_names_the_jobs(tmp_path: Path, elsewhere: RunningPlatform) -> None:
    body = f"""{ELSEWHERE}{PREAMBLE}
from flash_plugins.platforms.runpod import RunpodClient
import asyncio

async def never(self, handle, job_id):
    await asyncio.sleep(600)

RunpodClient.cancel = never
call = nap(60)
while not call.job_id: time.sleep(0.01)
print(call.job_id, flush=True)
"""
    process = start(tmp_path, body, BASE=elsewhere.url, KEY=elsewhere.key)
    assert process.stdout is not None
    assert process.stderr is not None
    job = process.stdout.readline().strip()
    while "Ctrl-C" not in (line := process.stderr.readline()):
        assert line, "it ended without waiting"
    process.send_signal(signal.SIGINT)
    code, lines = ended(process)
    assert lines == [f"flash-plugins: not cancelled, and running until their time limits: {job}"]
    assert code == 0


def test_a_platform_killed_while_idle_costs_no_call(tmp_path: Path) -> None:
    body = """
import psutil

print(nap(0).result(60), flush=True)
[platform] = [p for p in psutil.Process().children() if "flash_plugins.platforms.local" in " ".join(p.cmdline())]
platform.kill()
while platform.status() != psutil.STATUS_ZOMBIE or platform.num_threads() > 1: time.sleep(0.01)
print(sum(call.result(60) for call in [nap(0.01) for _ in range(20)]), flush=True)
"""
    process = start(tmp_path, PREAMBLE + body)
    assert ended(process) == (0, [])


def test_the_script_of_these_tests_reaches_a_platform(tmp_path: Path, elsewhere: RunningPlatform) -> None:
    process = start(tmp_path, f"{ELSEWHERE}{PREAMBLE}\nnap(0).result()\n", BASE=elsewhere.url, KEY=elsewhere.key)
    assert ended(process) == (0, [])
    wait_for(lambda: Client.of(elsewhere).ok("GET", "/v2/serverless")["endpoints"])
