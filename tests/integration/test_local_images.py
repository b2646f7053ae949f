# SPDX-License-Identifier: Apache-2.0
"""Images on the local platform: real workers that a configuration file, or a Docker command, stands for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import flash_plugins
from flash_plugins import ConfigError, Endpoint, LocalImage, ServerlessType, hookimpl, process
from flash_plugins.platforms.local.launch import RunningPlatform, launch
from tests.integration.local_support import WORKERS, Client, is_running, wait_for, wait_until_gone

#: Stands in for Docker: an engine that "runs" any image as the echo worker, or as the stub server where
#: it gets a `PORT`, with the variables of `--env` only.
FAKE_DOCKER = """#!PYTHON
import json, os, signal, subprocess, sys

def note(**what):
    with open(__file__ + ".notes", "a") as file:
        file.write(json.dumps(what) + "\\n")

words = sys.argv[1:]
if words[0] == "run":
    names = [words[place + 1] for place, word in enumerate(words) if word == "--env"]
    env = {name: os.environ[name] for name in names if name in os.environ}
    script = "STUB" if "PORT" in env else "ECHO"
    # The engine's child, not the client's: it survives what happens to the client.
    container = subprocess.Popen([sys.executable, script], env=env, start_new_session=True)
    with open(words[words.index("--cidfile") + 1], "x") as file:
        file.write(str(container.pid))
    note(pid=container.pid)
    sys.exit(container.wait())
elif words[0] == "rm":
    note(removed=words[-1])
    os.killpg(int(words[-1]), signal.SIGKILL)
"""


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RunningPlatform]:
    """A platform that the process under test finds running."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    process.close()
    running = launch(detach=True)
    try:
        yield running
    finally:
        process.close()
        running.stop()


def run_job(client: Client, endpoint_id: str, wanted: object) -> None:
    job = client.ok("POST", f"/v2/{endpoint_id}/run", {"input": wanted})
    finished = client.finished(endpoint_id, job["id"])
    assert finished["status"] == "COMPLETED", finished


def served(image: str, **parameters: Any) -> Endpoint:
    return Endpoint(name="served", image=image, cpu="cpu3c-1-2", **parameters)


def queue(image: str, **parameters: Any) -> str:
    """Provision an image that takes jobs and return the endpoint's id."""
    return served(image, **parameters).provision(ServerlessType.QB).result(60).id


def test_a_queue_image_is_a_worker_of_the_official_sdk(platform: RunningPlatform, tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text((WORKERS / "echo.py").read_text())
    (tmp_path / "flash-plugins.toml").write_text("[local.images]\n'acme/echo:*' = 'LEVEL=$LEVEL python handler.py'\n")
    endpoint = served("acme/echo:1.2", env={"LEVEL": "9"})
    job = endpoint.runsync({"x": 3}).result(60)
    assert job.output["echo"] == {"x": 3}
    assert psutil.Process(job.output["pid"]).environ()["LEVEL"] == "9"
    [shown] = Client.of(platform).ok("GET", "/v2/serverless")["endpoints"]
    assert (shown["type"], shown["image"]) == ("QUEUE", "acme/echo:1.2")
    assert "handler.py" in shown["args"]
    assert queue("acme/echo:1.2", env={"LEVEL": "9"}) == shown["id"]


def test_a_load_balanced_image_serves_on_its_port(platform: RunningPlatform, tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text((WORKERS / "openai_stub.py").read_text())
    (tmp_path / "flash-plugins.toml").write_text(
        "[local.images]\n'*' = 'false'\n'vllm/vllm-openai:*' = 'python serve.py --port $PORT'\n"
    )
    vllm = served("vllm/vllm-openai:latest", env={"MODEL": "tiny"})
    assert vllm.get("/v1/models").result(60) == {"data": [{"id": "tiny"}]}
    assert vllm.post("/v1/completions", {"prompt": "hi"}).result(60) == {"choices": [{"text": "echo hi"}]}
    [shown] = Client.of(platform).ok("GET", "/v2/serverless")["endpoints"]
    assert (shown["type"], shown["image"]) == ("LOAD_BALANCER", "vllm/vllm-openai:latest")


class Plugin:
    """Stands for images with the echo worker and variables of its own."""

    @hookimpl
    def flash_local_image(self, image: str) -> LocalImage:
        return LocalImage(["python", str(WORKERS / "echo.py")], env={"LEVEL": "1", "OTHER": image})


def test_flash_local_image_may_add_variables_and_the_endpoints_own_win(platform: RunningPlatform) -> None:
    plugin = Plugin()
    flash_plugins.register(plugin)
    try:
        job = served("acme/echo", env={"LEVEL": "9"}).runsync({"x": 3}).result(60)
    finally:
        flash_plugins.unregister(plugin)
    environment = psutil.Process(job.output["pid"]).environ()
    assert (environment["LEVEL"], environment["OTHER"]) == ("9", "acme/echo")


def test_an_image_that_nothing_stands_for_creates_nothing(
    platform: RunningPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"Docker is not installed.*flash-plugins\.toml"):
        served("acme/echo:1.2").run({"x": 3}).result(60)
    assert Client.of(platform).ok("GET", "/v2/serverless") == {"endpoints": []}


@pytest.fixture
def docker_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake Docker on PATH; returns where it notes what it was asked."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    scripts = {"PYTHON": sys.executable, "ECHO": str(WORKERS / "echo.py"), "STUB": str(WORKERS / "openai_stub.py")}
    text = FAKE_DOCKER
    for name, path in scripts.items():
        text = text.replace(name, path)
    docker.write_text(text)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}{os.pathsep}{os.environ['PATH']}")
    return docker.with_name("docker.notes")


def noted(notes: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def test_docker_runs_an_image_whose_container_ends_with_its_worker(
    docker_notes: Path, platform: RunningPlatform
) -> None:
    endpoint_id = queue("acme/echo:1.2", env={"LEVEL": "9"})
    client = Client.of(platform)
    run_job(client, endpoint_id, {"x": 3})
    container = int(str(noted(docker_notes)[0]["pid"]))
    assert psutil.Process(container).environ()["LEVEL"] == "9"
    client.request("DELETE", f"/v2/serverless/{endpoint_id}")
    wait_until_gone([container])
    wait_for(lambda: {"removed": str(container)} in noted(docker_notes))


def test_docker_serves_http_on_the_port_that_the_platform_chose(docker_notes: Path, platform: RunningPlatform) -> None:
    vllm = served("vllm/vllm-openai:latest")
    assert vllm.post("/v1/completions", {"prompt": "hi"}).result(60) == {"choices": [{"text": "echo hi"}]}
    container = int(str(noted(docker_notes)[0]["pid"]))
    vllm.delete().result(60)
    wait_until_gone([container])


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_docker_containers_end_with_the_platform(docker_notes: Path, platform: RunningPlatform, how: str) -> None:
    endpoint_id = queue("acme/echo:1.2")
    run_job(Client.of(platform), endpoint_id, {"x": 3})
    container = int(str(noted(docker_notes)[0]["pid"]))
    assert is_running(container)
    if how == "stopped":
        platform.stop()
    else:
        psutil.Process(platform.pid).kill()
    wait_until_gone([container])
    wait_for(lambda: {"removed": str(container)} in noted(docker_notes))
    wait_for(lambda: not platform.run_dir.exists())
