# SPDX-License-Identifier: Apache-2.0
"""schemathesis against the REST v2 that the local platform serves, by Runpod's own description where it is at hand.

No server error, no answer that the description does not know, no invalid request that is accepted. Not checked:
that every valid request is accepted, because the description has rules that its schemas do not express.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_plugins.platforms.local.launch import RunningPlatform, launch
from tests.contract.rest_description import description_path

from .clients import DRIVERS
from .environments import Environment, require

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

SCHEMATHESIS = "schemathesis==4.32.5"
#: Paths of the description that the local platform serves, without logs: they end only with their workers.
SERVED = (
    r"^/v2/(serverless|templates|network-volumes|catalog|billing/serverless|registries(?!/delegations))"
    r"(/(?!.*/logs$)|$)"
)
#: Seconds for one run.
RUN_TIMEOUT_S = 500.0


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The description, with one thing put right: it calls `…/status/{job_id}` a URI and means a template."""
    path = description_path()
    if path is None:
        pytest.skip("Runpod's description of REST v2 is not at hand: set RUNPOD_OPENAPI to its path")
    document = json.loads(path.read_text())
    for url in document["components"]["schemas"]["QueueBasedRequestUrls"]["properties"].values():
        url["format"] = "uri-template"
    corrected = tmp_path_factory.mktemp("description") / "openapi.json"
    corrected.write_text(json.dumps(document))
    return corrected


@pytest.fixture(scope="module")
def schemathesis() -> Environment:
    return require(SCHEMATHESIS)


@pytest.fixture
def platform() -> Iterator[RunningPlatform]:
    """A platform that starts no worker, however many an endpoint wants, and counts no quota that could be met."""
    platform = launch(faults={"is_workerless": True, "rest_per_minute": 10_000_000})
    yield platform
    assert platform.is_alive(), platform.exit_reason()
    platform.stop()


@pytest.mark.parametrize("phase", ["examples,coverage", "fuzzing", "stateful"])
def test_generated_requests_keep_to_the_description(
    phase: str, platform: RunningPlatform, schemathesis: Environment, description: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "seen.json"
    command = [
        *(str(schemathesis.folder / "bin" / "st"), "run", str(description), "--url", platform.url),
        *("--header", f"Authorization: Bearer {platform.key}", "--include-path-regex", SERVED),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
        *("--phases", phase, "--max-examples", "40", "--seed", "1", "--no-color", "--warnings", "off"),
        *("--request-timeout", "30", "--suppress-health-check", "all"),
    ]
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        "PYTHONPATH": str(DRIVERS),
        "PLATFORM_URL": platform.url,
        "PLATFORM_KEY": platform.key,
        "DESCRIPTION": str(description),
        "SEEN": str(seen),
    }
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    answers: dict[str, Any] = json.loads(seen.read_text())
    statuses: dict[str, set[int]] = {label: set() for label in operations(description)}
    for answer in answers:
        label, _, status = answer.rpartition(" ")
        statuses[label].add(int(status))
    assert max(status for found in statuses.values() for status in found) < 500
    if phase == "fuzzing":  # the others leave values as they are that no hook can put right
        refused = {label for label, found in statuses.items() if not any(status < 300 for status in found)}
        assert not refused, "no request of these was ever accepted: the test says little about them"


def operations(description: Path) -> list[str]:
    """The operations that are tested, in schemathesis's words."""
    paths = json.loads(description.read_text())["paths"]
    methods = ("get", "post", "patch", "delete")
    return [f"{m.upper()} {path}" for path in paths if re.match(SERVED, path) for m in methods if m in paths[path]]
