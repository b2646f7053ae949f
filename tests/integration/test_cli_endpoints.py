# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins endpoints` and `doctor` against a platform that a person left running."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flash_plugins.platforms.local.launch import RunningPlatform, launch
from tests.integration.cli_support import flash, flash_json
from tests.integration.local_support import WORKERS, Client, wait_for

ECHO = f"{sys.executable} {WORKERS / 'echo.py'}"


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No platform runs, and home is empty."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def platform(empty: None) -> Iterator[RunningPlatform]:
    running = launch(detach=True)
    yield running
    running.stop()


def test_without_a_platform_commands_say_how_to_start_one(empty: None) -> None:
    for command in (["list"], ["show", "x"], ["delete", "x", "--yes"]):
        done = flash("endpoints", *command, code=1)
        assert "platform start --detach" in done.stderr
        assert not done.stdout


def test_endpoints_are_listed_shown_and_deleted(platform: RunningPlatform) -> None:
    client = Client.of(platform)
    assert "no endpoints" in flash("endpoints", "list").stdout
    assert flash_json("endpoints", "list") == []
    endpoint = client.create(ECHO, name="echo", env={"TOKEN": "hf_secret"}, workers={"min": 1, "max": 2})
    other = client.create(ECHO, name="other")

    table = flash("endpoints", "list").stdout
    assert [line.split()[:2] for line in table.splitlines()[1:]] == [["echo", endpoint], ["other", other]]
    listed = flash_json("endpoints", "list")
    assert [entry["name"] for entry in listed] == ["echo", "other"]

    wait_for(lambda: client.workers(endpoint))
    for name_or_id in ("echo", endpoint):
        shown = flash("endpoints", "show", name_or_id).stdout
        assert f"/v2/{endpoint}/runsync" in shown
        assert "worker " in shown
        assert "TOKEN" in shown
        assert "hf_secret" not in shown
        assert platform.key not in shown
    as_json = flash_json("endpoints", "show", "echo")
    assert (as_json["id"], as_json["env"], len(as_json["workersNow"])) == (endpoint, ["TOKEN"], 1)

    refused = flash("endpoints", "delete", "echo", code=2)
    assert "--yes" in refused.stderr
    assert flash_json("endpoints", "delete", "echo", "--yes") == {"deleted": [{"id": endpoint, "name": "echo"}]}
    assert other in flash("endpoints", "delete", other, "-y").stdout
    assert client.ok("GET", "/v2/serverless") == {"endpoints": []}
    missing = flash("endpoints", "show", "echo", code=1)
    assert missing.stderr.splitlines()[-1] == "flash-plugins: there is no endpoint 'echo'; there are: none"


def states(findings: list[dict[str, str]]) -> dict[str, str]:
    return {finding["topic"]: finding["state"] for finding in findings}


def said(findings: list[dict[str, str]], topic: str) -> str:
    return next(finding["said"] for finding in findings if finding["topic"] == topic)


def test_doctor_is_content_with_a_fresh_machine(empty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLASH_PLATFORM")
    findings = flash_json("doctor")
    assert "wrong" not in states(findings).values()
    assert said(findings, "key") == "no Runpod API key is configured"
    assert said(findings, "platform").startswith("local: no Runpod API key")
    assert "none runs now" in said(findings, "local platform")
    assert "✓  python" in flash("doctor").stdout


def test_doctor_names_what_is_wrong_and_never_the_key(
    platform: RunningPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "rpa_S3CRETS3CRETS3CRET"
    monkeypatch.setenv("FLASH_PLATFORM", "runpod")
    monkeypatch.setenv("RUNPOD_API_KEY", key)
    monkeypatch.setenv("RUNPOD_API_BASE_URL", platform.url)
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", "http://127.0.0.1:1/v2")
    (tmp_path / "flash-plugins.toml").write_text("[locale]\n")
    done = flash("doctor", code=1)
    assert key not in done.stdout + done.stderr
    findings = flash_json("doctor", code=1)
    wrong = [finding["topic"] for finding in findings if finding["state"] == "wrong"]
    assert wrong == ["configuration", "key", "job API"]
    assert said(findings, "platform").endswith(f"at {platform.url}, set by RUNPOD_API_BASE_URL")
    assert "401" in said([finding for finding in findings if finding["state"] == "wrong"], "key")


def test_doctor_names_a_platform_that_does_not_exist(empty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_PLATFORM", "moon")
    findings = flash_json("doctor", code=1)
    assert states(findings)["platform"] == "wrong"
    assert "'moon'" in said(findings, "platform")


def test_doctor_finds_stuck_endpoints_and_says_why(platform: RunningPlatform) -> None:
    client = Client.of(platform)
    broken = f"{sys.executable} -c \"import time; print('no model', flush=True); time.sleep(600)\""
    endpoints = {
        "stuck": client.create(ECHO, name="stuck", workers={"min": 0, "max": 0}),
        "slow": client.create(broken, name="slow"),
    }
    client.create(ECHO, name="idle")
    for endpoint in endpoints.values():
        client.ok("POST", f"/v2/{endpoint}/run", {"input": {"x": 1}})
    wait_for(lambda: client.workers(endpoints["slow"]))
    findings = flash_json("doctor", code=1)
    assert states(findings)["management"] == states(findings)["job API"] == "ok"
    assert states(findings)["endpoint stuck"] == "wrong"
    assert "1 job waits: workers.max is 0" in said(findings, "endpoint stuck")
    assert states(findings)["endpoint slow"] == "note"  # it may still come
    assert "no model" in said(findings, "endpoint slow")
    assert "endpoint idle" not in states(findings)
