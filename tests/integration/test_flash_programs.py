# SPDX-License-Identifier: Apache-2.0
"""Programs written for `runpod_flash.Endpoint` run on the local platform with nothing but the import changed.

Each is run as it stands, with a module `runpod_flash` that is ours; some also with their import line rewritten.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from flash_plugins.platforms.local.launch import launch
from tests.integration.local_support import WORKERS, Client
from tests.integration.test_local_mounts import require_mounts
from tests.registry import keep_installer_caches, require_registry
from tests.support import ROOT, require

pytestmark = pytest.mark.slow

PROGRAMS = Path(__file__).parent / "flash_programs"

#: Seconds for one program: its workers have to start first, one endpoint after another.
LIMIT_S = 100

ALIAS = """import sys

import flash_plugins

sys.modules[__name__] = flash_plugins
"""

#: Runs the program of that name in that folder.
Way = Callable[[str, Path], subprocess.CompletedProcess[str]]

#: What each program prints, line by line.
PRINTED: dict[str, Sequence[str]] = {
    "gpu_worker.py": (
        "hi from a worker / hello from a worker",
        "device cpu",
        "same python True",
        "another process True kept warm True",
    ),
    "cpu_worker.py": (
        "{'words': 4, 'longest': 'needlessly'}",
        "851e43bd a3940127",
        "refused: ValueError True",
    ),
    "mixed_pipeline/pipeline.py": (
        "route: {'label': 'positive', 'score': 0.375, 'stages': ['clean', 'score', 'report']}",
        "driven: ['positive', 'positive']",
    ),
    "dependencies.py": (
        "{'six': '1.16.0', 'echo': {'n': 1}}",
        "{'six': '1.16.0', 'host': 'xn--bcher-kva.example', 'idna': '3.6', 'toml': 'a = 1'}",
        "{'digits': ['1']}",
    ),
    "model_class.py": (
        "[6, 6, 6]",
        "loaded once: True",
        "{'size': 6, 'loads': 1, 'weights': 6}",
        "deterministic: True",
    ),
    "text_api.py": (
        "{'status': 'healthy'}",
        "{'result': 'Hello World'} {'mean': 3.0, 'most': 6}",
        "{'total': '2 x tea'} ['alpha', 'beta', 'gamma']",
        "{'number': 3, 'text': 'three'} {'number': 3, 'was': 'three'}",
        "{'label': 'text', 'lines': 2, 'bytes': 8}",
    ),
    "scaling.py": (
        "{'strategy': 'to zero', 'size': 3}",
        "[0, 1, 2, 3, 4, 5, 6, 7] at once: True",
        "True workers: 2",
    ),
    "volumes.py": (
        "{'path': '/runpod-volume/pictures/one.png', 'size': 32}",
        "/runpod-volume/pictures/two.png",
        "['one.png', 'two.png'] 32",
    ),
    "settings.py": ("{'model': 'tiny', 'token': 21, 'none': None}",),
    "cross_calls.py": ("score 62 elsewhere True", "[36, 52, 53]", "same from here 6"),
    "job_client.py": (
        "True True False",
        "{'text': 'hello'} None True COMPLETED",
        "{'text': 'at once'} True",
        "FAILED True",
        "True CANCELLED",
        "timeout: True True",
        "True",
        "[0, 1, 2, 3, 4]",
    ),
    "streaming.py": ("one token after another", "[3, 2, 1]"),
}


def run(program: Path, folder: Path, *arguments: str, path: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
    """Run a program as its user would, in a folder of its own."""
    existing = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    python_path = os.pathsep.join(filter(None, [*map(str, path), *existing, str(ROOT)]))
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        cwd=folder,
        env={**os.environ, "FLASH_PLATFORM": "local", "PYTHONPATH": python_path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def with_alias(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program with a `runpod_flash` that is ours."""
    alias = folder / "alias"
    alias.mkdir()
    (alias / "runpod_flash.py").write_text(ALIAS, encoding="utf-8")
    return run(PROGRAMS / name, folder, path=[alias])


def rewritten(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a copy of a program whose import lines name our package."""
    copy = folder / "program"
    shutil.copytree((PROGRAMS / name).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for file in copy.rglob("*.py"):
        file.write_text(file.read_text(encoding="utf-8").replace("runpod_flash", "flash_plugins"), encoding="utf-8")
    return run(copy / Path(name).name, folder)


@pytest.fixture
def endpoint_id() -> Iterator[str]:
    """The id of an endpoint of somebody else, on a platform that the program finds running."""
    platform = launch(detach=True)
    body = {
        "name": "echo",
        "type": "QUEUE",
        "image": "python:3.12-slim",
        "args": f"python {WORKERS / 'echo.py'}",
        "cpu": [{"id": "cpu5c", "vcpuCount": 2}],
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 0.5},
    }
    yield str(Client.of(platform).ok("POST", "/v2/serverless", body)["id"])
    platform.stop()


@pytest.fixture
def needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """See to what a program needs beside us."""

    def see_to(name: str) -> None:
        if name == "dependencies.py":
            require_registry()
            keep_installer_caches(monkeypatch)
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        if name == "volumes.py":
            require_mounts(tmp_path)
            monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        if name == "text_api.py":
            require("pydantic")
        if name == "job_client.py":
            monkeypatch.setenv("P10_ENDPOINT_ID", request.getfixturevalue("endpoint_id"))

    return see_to


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, with_alias) for name in PRINTED),
        # What travels by value or as a module refers to the package by either name.
        *((name, rewritten) for name in ("mixed_pipeline/pipeline.py", "cross_calls.py", "model_class.py")),
    ],
)
def test_program_runs_with_only_its_import_changed(
    name: str, way: Way, needs: Callable[[str], None], tmp_path: Path
) -> None:
    needs(name)
    done = way(name, tmp_path)
    assert done.returncode == 0, f"{name} fails:\n{done.stdout}{done.stderr}"
    assert tuple(done.stdout.splitlines()) == PRINTED[name], done.stderr
    assert "Traceback" not in done.stderr


def test_every_program_is_run() -> None:
    stages = {"mixed_pipeline/cpu_stage.py", "mixed_pipeline/gpu_stage.py"}
    assert len(PRINTED) >= 10
    there = {path.relative_to(PROGRAMS).as_posix() for path in PROGRAMS.rglob("*.py")}
    assert there - stages == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_programs_name_nothing_of_ours(name: str) -> None:
    assert "flash_plugins" not in (PROGRAMS / name).read_text(encoding="utf-8")


#: Serves the API of a program and talks to it as anybody would, by HTTP; arguments: module, requests as JSON.
SERVE = """
import importlib, json, sys, urllib.error, urllib.request

api = importlib.import_module(sys.argv[1]).api
base = api.provision().result(60).base_url
key = __import__("flash_plugins").platform().connect().key
for method, path, body in json.loads(sys.argv[2]):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(base + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            print(answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        print(error.code)
"""


def served(module: str, folder: Path, *requests: tuple[str, str, object], path: Sequence[Path]) -> list[str]:
    script = folder / "serve.py"
    script.write_text(SERVE, encoding="utf-8")
    (folder / "alias").mkdir()
    (folder / "alias" / "runpod_flash.py").write_text(ALIAS, encoding="utf-8")
    done = run(script, folder, module, json.dumps(requests), path=[folder / "alias", *path])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_routes_of_a_program_are_served(tmp_path: Path) -> None:
    require("pydantic")
    lines = served(
        "text_api",
        tmp_path,
        ("GET", "/health", None),
        ("POST", "/transform", {"text": "hello world", "operation": "title"}),
        ("POST", "/transform", {"text": "x", "operation": "none"}),
        ("POST", "/transform", {"txt": "x"}),
        ("POST", "/statistics", {"numbers": [1, 2, 6]}),
        ("POST", "/orders", {"item": "tea", "count": 2}),
        ("POST", "/orders", {"item": "tea", "count": 0}),
        ("GET", "/search?term=a&limit=1", None),
        ("PUT", "/notes/3", {"text": "three"}),
        ("DELETE", "/notes/3", None),
        path=[PROGRAMS],
    )
    assert lines == [
        '200 {"status":"healthy"}',
        '200 {"result":"Hello World"}',
        "500",
        "422",
        '200 {"mean":3.0,"most":6.0}',
        '200 {"total":"2 x tea"}',
        "422",
        '200 ["alpha"]',
        '200 {"number":3,"text":"three"}',
        '200 {"number":3,"was":"three"}',
    ]


def test_a_served_pipeline_calls_its_stages_on_their_own_workers(tmp_path: Path) -> None:
    (line,) = served(
        "pipeline",
        tmp_path,
        ("POST", "/classify", {"text": "a great  day"}),
        path=[PROGRAMS / "mixed_pipeline"],
    )
    assert line == '200 {"label":"positive","score":0.4,"stages":["clean","score","report"]}'


ELSEWHERE = """
from runpod_flash import Endpoint

print(Endpoint(name="p02-hash").runsync({"text": "flash", "algorithm": "md5"}).result(60).output)
print(Endpoint(name="p02-count").runsync({"payload": {"text": "The length of it"}}).result(60).output)
"""


@pytest.mark.usefixtures("endpoint_id")  # a platform that runs
def test_a_program_is_deployed_from_a_shell_and_called_without_it(tmp_path: Path) -> None:
    require("typer")
    (tmp_path / "alias").mkdir()
    (tmp_path / "alias" / "runpod_flash.py").write_text(ALIAS, encoding="utf-8")
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE, encoding="utf-8")
    command = tmp_path / "command.py"
    command.write_text("from flash_plugins.cli import main\n\nmain()\n", encoding="utf-8")
    deployed = run(command, tmp_path, "deploy", str(PROGRAMS / "cpu_worker.py"), path=[tmp_path / "alias"])
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    done = run(tmp_path / "elsewhere.py", tmp_path, path=[tmp_path / "alias"])
    assert done.stdout.splitlines() == ["a3940127", "{'words': 2, 'longest': 'length'}"], done.stderr
