# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins plan`, `deploy` and `undeploy`: what a program declares, used without the program."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flash_plugins.platforms.local.launch import find_running, launch
from tests.integration.cli_support import flash, flash_json
from tests.integration.local_support import WORKERS, Client
from tests.support import require

PROGRAM = """
import helper
from flash_plugins import Endpoint

print("imported as", __name__)
api = Endpoint(name="greeter", cpu="cpu5c-4-8", workers=(0, 1))


@Endpoint(name="square", cpu="cpu5c-4-8", workers=(0, 2), env={"TOKEN": "hf_secret"})
def square(x: int) -> int:
    return helper.times(x, x)


@api.post("/greet")
async def greet(name: str, times: int = 1) -> dict:
    return {"hello": name * times}


existing = Endpoint(id="abc123")

if __name__ == "__main__":
    raise SystemExit("the main part must not run")
"""

#: Another process, which knows nothing of the program.
CALLER = """
import sys
from flash_plugins import Endpoint

by_id = Endpoint(id=sys.argv[1]).runsync({"x": 3}).result()
by_name = Endpoint(name="square").runsync({"x": 4}).result()
print(by_id.output, by_name.output)
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder of a program; no platform runs, and one that is started is ended."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    (folder / "helper.py").write_text("def times(a, b):\n    return a * b\n")
    monkeypatch.chdir(folder)
    yield folder
    if (running := find_running()) is not None:
        running.stop()


def test_what_was_deployed_works_without_the_program(folder: Path) -> None:
    require("fastapi")
    done = flash("deploy", "program.py", "--json")
    assert "imported as __main__" in done.stderr  # not on stdout, and not as __main__
    assert "started a local platform" in done.stderr
    deployed = {entry["name"]: entry for entry in json.loads(done.stdout)["deployed"]}
    assert set(deployed) == {"square", "greeter"}
    square, greeter = deployed["square"], deployed["greeter"]
    assert (square["type"], greeter["type"]) == ("QUEUE", "LOAD_BALANCER")
    running = find_running()
    assert running is not None

    shutil.rmtree(folder)
    elsewhere = folder.parent
    os.chdir(elsewhere)
    (elsewhere / "caller.py").write_text(CALLER)
    called = subprocess.run(
        [sys.executable, "caller.py", square["id"]], capture_output=True, text=True, timeout=100, cwd=elsewhere
    )
    assert called.stdout.split() == ["9", "16"], called.stderr
    headers = {"Authorization": f"Bearer {running.key}", "Content-Type": "application/json"}
    sent = {"name": "ab", "times": 2}
    answer = Client.of(running).request("POST", f"/lb/{greeter['id']}/greet", sent, headers=headers)
    assert answer[:2] == (200, {"hello": "abab"})
    # The examples that it prints are commands that work.
    assert json.loads(run_curl(square["example"], running.key))["output"] == 1
    assert json.loads(run_curl(greeter["example"], running.key)) == {"hello": "text"}

    assert "--yes" in flash("undeploy", "--all", code=2).stderr
    gone = flash_json("undeploy", "--all", "--yes")["deleted"]
    assert {entry["id"] for entry in gone} == {square["id"], greeter["id"]}
    assert Client.of(running).ok("GET", "/v2/serverless") == {"endpoints": []}


def run_curl(command: str, key: str) -> str:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    words = [word.replace("$RUNPOD_API_KEY", key) for word in shlex.split(command)]
    done = subprocess.run([*words, "-sS"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plan_says_what_deploying_does_and_what_is_ours_is_undeployed(folder: Path) -> None:
    flash("platform", "start", "--detach")
    running = find_running()
    assert running is not None
    client = Client.of(running)
    planned = flash_json("plan", "program.py")["endpoints"]
    assert [(entry["name"], entry["action"]) for entry in planned] == [("greeter", "create"), ("square", "create")]
    assert all(entry["price"]["highUsdPerHour"] == 0 for entry in planned)  # here
    assert all("runpod.io" in entry["priceOnRunpod"]["source"] for entry in planned)
    assert client.ok("GET", "/v2/serverless") == {"endpoints": []}

    table = flash("deploy", "program.py").stdout
    assert "/runsync" in table
    assert "/greet" in table
    assert "platform status" in flash("deploy", "program.py").stderr  # where the key is
    assert [entry["action"] for entry in flash_json("plan", "program.py")["endpoints"]] == ["reuse", "reuse"]
    program = folder / "program.py"
    program.write_text(PROGRAM.replace("workers=(0, 2)", "workers=(0, 3)").replace("hf_secret", "hf_other"))
    changed = flash("plan", "program.py")
    assert "'square' changes" in changed.stdout
    assert "'greeter' is there as it should be" in changed.stdout
    assert "hf_" not in changed.stdout + flash("plan", "program.py", "--json").stdout

    other = client.create(f"{sys.executable} {WORKERS / 'echo.py'}", name="not ours")
    assert "square" in flash("undeploy", "square", "--yes").stdout
    assert "greeter" in flash("undeploy", "--all", "--yes").stdout
    assert [entry["id"] for entry in client.ok("GET", "/v2/serverless")["endpoints"]] == [other]
    assert "no endpoints that flash-plugins made" in flash("undeploy", "--all", "--yes").stdout
    assert "no endpoint 'square'" in flash("undeploy", "square", "--yes", code=1).stderr
    flash("undeploy", code=2)
    flash("undeploy", "square", "--all", code=2)


def test_a_plan_shows_what_a_gpu_costs_on_runpod(folder: Path) -> None:
    (folder / "program.py").write_text(
        "from flash_plugins import Endpoint\n\n@Endpoint(name='g', gpu='4090', workers=3)\ndef g(): ...\n"
    )
    shown = flash("plan", "program.py").stdout.splitlines()
    assert shown[0] == "endpoint 'g' is to be created"
    usd = r"\$\d\.\d\d"
    price = rf" +costs nothing here; on Runpod {usd} per worker and hour, at most {usd} for 3 workers \(.*20\d\d-\d\d\)"
    assert re.fullmatch(price, shown[1])
    assert find_running() is None


def test_the_same_commands_work_on_runpod(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers there is a local platform; the client takes the other path."""
    running = launch()
    monkeypatch.setenv("FLASH_PLATFORM", "runpod")
    monkeypatch.setenv("RUNPOD_API_KEY", running.key)
    monkeypatch.setenv("RUNPOD_API_BASE_URL", running.url)
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", f"{running.url}/v2")
    try:
        done = flash("deploy", "program.py", "--json")
        assert "platform runpod" in done.stderr
        assert "started a local platform" not in done.stderr
        ids = {entry["name"]: entry["id"] for entry in json.loads(done.stdout)["deployed"]}
        client = Client.of(running)
        job = client.ok("POST", f"/v2/{ids['square']}/run", {"input": {"x": 5}})["id"]
        client.finished(ids["square"], job)
        assert flash_json("jobs", "show", job, "-e", "square")["output"] == 25
        assert flash_json("jobs", "list", "square")["counts"]["completed"] == 1
        assert "square" in flash("endpoints", "list").stdout
        assert flash("logs", "square").returncode == 0
        assert "found in RUNPOD_API_KEY" in flash("doctor").stdout
        assert len(flash_json("undeploy", "--all", "--yes")["deleted"]) == 2
    finally:
        running.stop()


def test_an_image_is_deployed_once_its_kind_is_said(folder: Path) -> None:
    (folder / "program.py").write_text(
        "from flash_plugins import Endpoint\nserved = Endpoint(name='served', image='acme/echo:1', cpu='cpu5c-4-8')\n"
    )
    (folder / "flash-plugins.toml").write_text(f"[local.images]\n'acme/*' = '{sys.executable} {WORKERS / 'echo.py'}'\n")
    os.chdir(folder.parent)  # the file is found beside the program
    program = str(folder / "program.py")
    assert "--queue served" in flash("plan", program).stderr
    assert "--queue served or --lb served" in flash("deploy", program, code=2).stderr
    [entry] = flash_json("deploy", program, "--queue", "served")["deployed"]
    running = find_running()
    assert running is not None
    client = Client.of(running)
    job = client.ok("POST", f"/v2/{entry['id']}/run", {"input": {"x": 1}})
    assert client.finished(entry["id"], job["id"])["output"]["echo"] == {"x": 1}
    assert "no endpoint named 'other'" in flash("plan", program, "--lb", "other", code=2).stderr


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("import helper\n", 2, "declares no endpoint"),
        ("def broken(:\n", 1, "SyntaxError"),
        ("import no_such_module\n", 1, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(4)\n", 1, "SystemExit: 4"),
        ("from flash_plugins import Endpoint\n\nEndpoint(name='x', gpus='4090')\n", 2, "program.py:3: "),
        (PROGRAM.replace("existing =", "square(3)\nexisting ="), 2, "if __name__ == '__main__':"),
        (PROGRAM.replace('"greeter"', '"square"'), 2, "two endpoints named 'square'"),
    ],
)
def test_a_program_that_cannot_be_deployed_is_told_why(folder: Path, program: str, code: int, words: str) -> None:
    (folder / "program.py").write_text(program)
    done = flash("plan", "program.py", code=code, tracebacks=True)
    assert words in done.stderr.splitlines()[-1]
    assert "cli/script.py" not in done.stderr
    assert find_running() is None
