# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins platform start | status | stop`, as a person uses it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.local_support import Client, wait_for, wait_until_gone

COMMAND = [sys.executable, "-c", "from flash_plugins.cli import main; main()", "platform"]


def flash(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture(autouse=True)
def own_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield tmp_path
    flash("stop")


def test_start_status_stop() -> None:
    started = flash("start", "--detach", "--key", "mine")
    assert started.returncode == 0, started.stderr
    exports = dict(
        line.removeprefix("export ").split("=", 1) for line in started.stdout.splitlines() if line.startswith("export")
    )
    url = exports["RUNPOD_API_BASE_URL"]
    assert exports == {
        "RUNPOD_API_BASE_URL": url,
        "RUNPOD_ENDPOINT_BASE_URL": f"{url}/v2",
        "RUNPOD_API_KEY": "mine",
    }
    assert Client(url, "mine").ok("GET", "/v2/serverless") == {"endpoints": []}

    state: dict[str, Any] = json.loads(flash("status", "--json").stdout)
    assert (state["url"], state["key"], state["running"]) == (url, "mine", True)
    again = flash("start", "--detach")
    assert again.returncode == 2
    assert "platform stop" in again.stderr

    assert flash("stop").returncode == 0
    wait_until_gone([state["pid"]])
    assert not Path(state["run_dir"]).exists()
    after = flash("status", "--json")
    assert (after.returncode, json.loads(after.stdout)) == (1, {"running": False})
    assert flash("stop").returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_platform_in_the_foreground_ends_on_a_signal(number: signal.Signals) -> None:
    with subprocess.Popen([*COMMAND, "start", "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        state = json.loads(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(60) == 0
    wait_until_gone([state["pid"]])
    assert not Path(state["run_dir"]).exists()


def test_programs_find_a_platform_in_the_foreground_and_stop_ends_it() -> None:
    with subprocess.Popen([*COMMAND, "start", "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        state = json.loads(process.stdout.readline())
        assert json.loads(flash("status", "--json").stdout) == state
        with subprocess.Popen(
            [*COMMAND, "start", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as second:
            assert second.stdout is not None
            assert second.stderr is not None
            other = json.loads(second.stdout.readline())
            assert f"process {state['pid']}" in second.stderr.readline()
            assert json.loads(flash("status", "--json").stdout) == state
            second.send_signal(signal.SIGINT)
            assert second.wait(60) == 0
        assert json.loads(flash("status", "--json").stdout) == state
        assert flash("stop").returncode == 0
        assert process.wait(60) == 0
    wait_until_gone([state["pid"], other["pid"]])
    assert flash("status").returncode == 1


def test_a_platform_in_the_foreground_that_dies_is_an_error() -> None:
    with subprocess.Popen(
        [*COMMAND, "start", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        state = json.loads(process.stdout.readline())
        subprocess.run(["kill", "-9", str(state["pid"])], check=True)
        assert process.wait(60) == 1
        assert f"process {state['pid']} ended with signal 9" in process.stderr.read()
    wait_for(lambda: not Path(state["run_dir"]).exists())


def test_wrong_calls_are_code_2_with_a_message() -> None:
    taken = flash("start", "--detach")
    assert taken.returncode == 0
    port = json.loads(flash("status", "--json").stdout)["url"].rpartition(":")[2]
    for arguments, text in (
        (["start", "--port", "99999"], "--port"),
        (["start", "--port", port], f"127.0.0.1:{port}"),
        (["start", "--key", "two words"], "--key"),
        (["begin"], "begin"),
    ):
        answer = flash(*arguments)
        assert answer.returncode == 2, arguments
        assert text in answer.stderr
        assert "Traceback" not in answer.stderr


def test_a_missing_package_is_named_with_the_remedy() -> None:
    script = (
        "import importlib.util as util, sys; found = util.find_spec; "
        "util.find_spec = lambda name, *more: None if name == 'typer' else found(name, *more); "
        "from flash_plugins.cli import main; main()"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert "pip install 'flash-plugins[cli]'" in answer.stderr
