# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins logs` and `jobs`, against workers that run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flash_plugins.platforms.local.launch import launch
from tests.integration.cli_support import COMMAND, flash, flash_json
from tests.integration.local_support import WORKERS, Client, wait_for

ECHO = f"{sys.executable} {WORKERS / 'echo.py'}"
#: A worker that says who it is and takes no jobs.
TALKER = "import os, time; print('hello from', os.environ['RUNPOD_POD_ID'], flush=True); time.sleep(600)"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Client]:
    """A client of a platform that a person left running."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    running = launch(detach=True)
    yield Client.of(running)
    running.stop()


def test_jobs_are_listed_shown_and_cancelled(client: Client) -> None:
    endpoint = client.create(ECHO, name="echo", workers={"min": 0, "max": 1})
    job = client.ok("POST", f"/v2/{endpoint}/run", {"input": {"x": "y" * 3_000}})["id"]
    client.finished(endpoint, job)
    shown = flash("jobs", "show", job, "--endpoint", "echo").stdout
    assert "COMPLETED" in shown
    assert "--json prints all" in shown
    as_json = flash_json("jobs", "show", job, "-e", endpoint)
    assert (as_json["status"], as_json["output"]["echo"]["x"]) == ("COMPLETED", "y" * 3_000)

    slow = client.ok("POST", f"/v2/{endpoint}/run", {"input": {"do": "sleep", "seconds": 600}})["id"]
    cancelled = flash_json("jobs", "cancel", slow, "-e", "echo")
    assert (cancelled["id"], cancelled["status"]) == (slow, "CANCELLED")
    listed = flash_json("jobs", "list", "echo")
    assert listed["counts"]["completed"] == 1
    assert job in flash("jobs", "list", "echo").stdout
    assert "1 completed" in flash("jobs", "list", "echo").stdout
    assert "404" in flash("jobs", "show", "no-such-job", "-e", "echo", code=1).stderr


def test_logs_of_all_workers_are_shown(client: Client, tmp_path: Path) -> None:
    (tmp_path / "talker.py").write_text(TALKER)
    endpoint = client.create(f"python {tmp_path / 'talker.py'}", name="talker", workers={"min": 2, "max": 2})
    workers = wait_for(lambda: [w["id"] for w in client.workers(endpoint)] if len(client.workers(endpoint)) > 1 else [])
    wanted = {f"{worker} hello from {worker}" for worker in workers}
    wait_for(lambda: set(flash("logs", "talker").stdout.splitlines()) == wanted)
    [line] = flash("logs", endpoint, "--worker", workers[0], "--json").stdout.splitlines()
    assert json.loads(line)["worker"] == workers[0]
    assert json.loads(line)["line"] == f"hello from {workers[0]}"
    assert flash("logs", "talker", "--tail", "0").stdout == ""
    assert set(flash("logs", "talker", "--since", "1h").stdout.splitlines()) == wanted
    assert flash("logs", "talker", "--since", "0s").stdout == ""
    assert "has no worker 'w0'" in flash("logs", "talker", "--worker", "w0", code=1).stderr
    assert "--since 'noon'" in flash("logs", "talker", "--since", "noon", code=2).stderr


def test_logs_are_followed_on_to_new_workers_until_the_endpoint_is_deleted(client: Client) -> None:
    endpoint = client.create(ECHO, name="echo", workers={"min": 1, "max": 1})
    with following("echo") as process:
        assert process.stdout is not None
        first = process.stdout.readline().split()[0]
        job = client.ok("POST", f"/v2/{endpoint}/run", {"input": {"do": "exit", "code": 4}})["id"]
        assert process.stdout.readline() == f"{first} going down\n"
        client.ok("POST", f"/v2/{endpoint}/cancel/{job}")
        assert process.stdout.readline().split()[0] != first
        client.request("DELETE", f"/v2/serverless/{endpoint}")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.endswith("endpoint 'echo' was deleted\n")


def test_following_ends_with_ctrl_c(client: Client) -> None:
    client.create(ECHO, name="echo", workers={"min": 1, "max": 1})
    with following("echo") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said


@contextmanager
def following(name: str) -> Iterator[subprocess.Popen[str]]:
    """`logs -f` at work; ended, however the test ends, so that a test that fails does not hang."""
    command = [*COMMAND, "logs", name, "-f"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    alarm = threading.Timer(90, process.kill)
    alarm.start()
    try:
        yield process
    finally:
        alarm.cancel()
        process.kill()
        process.communicate()
