# SPDX-License-Identifier: Apache-2.0
"""However the local platform ends, and whoever is killed: no process and no file of it remains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flash_plugins.errors import PlatformUnavailable
from flash_plugins.platforms.local.launch import RunningPlatform, find_running, launch
from tests.integration.local_support import WORKERS, Client, process_tree, wait_for, wait_until_gone

ECHO = f"python {WORKERS / 'echo.py'}"

OWNER = """
import json, os, sys, time
from flash_plugins.platforms.local.launch import launch
platform = launch()
if "fork" in sys.argv and os.fork() == 0:
    time.sleep(600)  # a child that holds the pipe to the platform
print(json.dumps({"url": platform.url, "key": platform.key, "pid": platform.pid, "run_dir": str(platform.run_dir)}))
sys.stdout.flush()
time.sleep(600)
"""


@pytest.fixture
def platform() -> Iterator[RunningPlatform]:
    platform = launch()
    yield platform
    platform.stop()


def start_orphans(client: Client) -> list[int]:
    """Have a worker start children in and outside of its process group; return their ids."""
    endpoint = client.create(ECHO)
    return list(client.ok("POST", f"/v2/{endpoint}/runsync", {"input": {"do": "orphans"}})["output"])


def test_stop_ends_everything_in_about_a_second(platform: RunningPlatform) -> None:
    client = Client.of(platform)
    orphans = start_orphans(client)
    everything = process_tree(platform.pid)
    assert set(orphans) <= set(everything)
    assert len(everything) >= 5  # platform, guardian, worker, its ping process, orphans

    started = time.monotonic()
    platform.stop()
    took = time.monotonic() - started

    wait_until_gone(everything)
    assert not platform.run_dir.exists()
    assert took < 5  # about 1.1 s on an idle machine
    assert not platform.is_alive()
    assert platform.exit_reason() is not None
    platform.stop()


def test_nothing_survives_kill_9_of_the_platform(platform: RunningPlatform) -> None:
    start_orphans(Client.of(platform))
    everything = process_tree(platform.pid)

    os.kill(platform.pid, signal.SIGKILL)

    wait_until_gone(everything)
    wait_for(lambda: not platform.run_dir.exists())
    assert not platform.is_alive()
    assert platform.exit_reason() == f"the local platform process {platform.pid} ended with signal 9"


def test_nothing_survives_kill_9_of_the_guardian(platform: RunningPlatform) -> None:
    client = Client.of(platform)
    endpoint = client.create(ECHO)
    client.ok("POST", f"/v2/{endpoint}/runsync", {"input": {}} | {"input": {"do": "echo"}})
    everything = process_tree(platform.pid)
    [guardian] = [child for child in psutil.Process(platform.pid).children() if "guardian" in " ".join(child.cmdline())]

    guardian.kill()

    wait_until_gone(everything)
    wait_for(lambda: not platform.run_dir.exists())


@pytest.mark.parametrize("mode", ["plain", "fork"])
def test_nothing_survives_kill_9_of_the_owner(mode: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, mode], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    try:
        ready = json.loads(owner.stdout.readline())
        start_orphans(Client(ready["url"], ready["key"]))
        forked = [child.pid for child in psutil.Process(owner.pid).children() if child.pid != ready["pid"]]
        everything = process_tree(ready["pid"])
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    try:
        wait_until_gone(everything)
        wait_for(lambda: not Path(ready["run_dir"]).exists())
    finally:
        for pid in forked:
            os.kill(pid, signal.SIGKILL)


def test_a_lost_workers_job_is_run_again(platform: RunningPlatform) -> None:
    client = Client.of(platform)
    endpoint = client.create(ECHO)
    first = client.ok("POST", f"/v2/{endpoint}/runsync", {"input": {"do": "echo"}})["output"]["pid"]
    job = client.ok("POST", f"/v2/{endpoint}/run", {"input": {"do": "sleep", "seconds": 3}})["id"]
    wait_for(lambda: client.ok("GET", f"/v2/{endpoint}/status/{job}")["status"] == "IN_PROGRESS")
    before = process_tree(first)

    os.kill(first, signal.SIGKILL)

    ended = client.finished(endpoint, job)
    assert ended["status"] == "COMPLETED"
    assert ended["output"] == "slept"
    assert ended["attempts"] == 2
    wait_until_gone(before)


def test_a_job_that_kills_its_workers_fails_with_the_reason_and_the_log(platform: RunningPlatform) -> None:
    client = Client.of(platform)
    endpoint = client.create(ECHO)
    job = client.ok("POST", f"/v2/{endpoint}/run", {"input": {"do": "exit", "code": 3}})["id"]

    ended = client.finished(endpoint, job)

    assert ended["status"] == "FAILED"
    assert ended["attempts"] == 3
    assert ended["error"].startswith("worker lost: ")
    assert "exit code 3" in ended["error"]
    assert "going down" in ended["error"]


def test_a_worker_that_cannot_start_fails_the_jobs_with_its_log(platform: RunningPlatform) -> None:
    client = Client.of(platform)
    endpoint = client.create("python -c 'import no_such_module_at_all'")

    answer = client.ok("POST", f"/v2/{endpoint}/runsync", {"input": 1})

    assert answer["status"] == "FAILED"
    assert answer["error"].startswith("worker did not start: ")
    assert "exit code 1" in answer["error"]
    assert "No module named 'no_such_module_at_all'" in answer["error"]


def test_a_command_that_does_not_exist_fails_the_jobs_with_the_reason(platform: RunningPlatform) -> None:
    client = Client.of(platform)
    endpoint = client.create("/no/such/program")

    answer = client.ok("POST", f"/v2/{endpoint}/runsync", {"input": 1})

    assert answer["status"] == "FAILED"
    assert "No such file or directory: '/no/such/program'" in answer["error"]


def test_deleting_an_endpoint_ends_its_workers_only(platform: RunningPlatform) -> None:
    client = Client.of(platform)
    kept, deleted = client.create(ECHO), client.create(ECHO)
    pids = [
        client.ok("POST", f"/v2/{endpoint}/runsync", {"input": {"do": "echo"}})["output"]["pid"]
        for endpoint in (kept, deleted)
    ]
    tree = process_tree(pids[1])

    assert client.request("DELETE", f"/v2/serverless/{deleted}")[0] == 204

    wait_until_gone(tree)
    assert client.request("GET", f"/v2/{deleted}/health")[0] == 404
    assert client.ok("POST", f"/v2/{kept}/runsync", {"input": {"do": "echo"}})["output"]["pid"] == pids[0]


def test_a_taken_port_is_named_with_the_remedy(platform: RunningPlatform) -> None:
    port = Client.of(platform).place.port
    assert port is not None
    with pytest.raises(PlatformUnavailable, match=f"127.0.0.1:{port}.*choose another port"):
        launch(port=port)


def test_a_platform_that_dies_at_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("flash_plugins.platforms.local.launch._NEEDED", ())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "uvicorn.py").write_text("raise ImportError('broken on purpose')\n")
    with pytest.raises(PlatformUnavailable, match="broken on purpose"):
        launch()


def test_a_detached_platform_is_found_and_ends_when_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert find_running() is None
    script = "from flash_plugins.platforms.local.launch import launch; launch(detach=True, key='k1')"
    subprocess.run([sys.executable, "-c", script], check=True)

    found = find_running()

    assert found is not None
    assert found.key == "k1"
    assert "k1" not in repr(found)
    assert found.exit_reason() is None
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*"))
    found.stop()
    assert not found.is_alive()
    assert find_running() is None
    assert list(tmp_path.iterdir()) == []


def test_a_stale_note_of_a_detached_platform_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    platform = launch(detach=True)
    os.kill(platform.pid, signal.SIGKILL)
    wait_until_gone([platform.pid])

    assert find_running() is None

    wait_for(lambda: not list(tmp_path.iterdir()))
