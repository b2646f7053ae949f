# SPDX-License-Identifier: Apache-2.0
"""Other people's clients on a load-balanced endpoint: runpod-flash 1.21, runpod 2.0, curl."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .account import WORKERS, Account
from .clients import Transcript, play
from .edge import DOMAIN, Edge, edge_to
from .environments import Environment

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

ITEMS = [
    {"item": 1, "body": None},
    {"item": 2, "body": {"a": 1}},
    {"item": 3, "body": {"a": 2}},
    {"item": 4, "body": None},
]


@pytest.fixture(scope="module")
def balanced(account: Account) -> dict[str, Any]:
    """A load-balanced endpoint whose worker is a FastAPI application, as REST v2 shows it."""
    body = {
        "name": "routes",
        "type": "LOAD_BALANCER",
        "image": "python:3.12-slim",
        "args": shlex.join([sys.executable, str(WORKERS / "routes.py")]),
        "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
        "scaling": {"type": "REQUEST_COUNT", "requestCount": 100},
        "workers": {"min": 0, "max": 1, "idleTimeout": 300},
    }
    answer = account.http.post("/v2/serverless", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


@pytest.fixture(scope="module")
def edge(account: Account, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with edge_to(account.url, tmp_path_factory.mktemp("edge")) as edge:
        yield edge


@pytest.fixture(scope="module")
def drive(
    account: Account, balanced: dict[str, Any], edge: Edge, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Environment], Transcript]:
    """Run a driver that finds endpoints by host name."""

    def run(driver: str, environment: Environment) -> Transcript:
        folder: Path = tmp_path_factory.mktemp(driver.removesuffix(".py"))
        return play(driver, environment, account, {"balanced": balanced["id"]}, folder, more=edge.environment)

    return run


@pytest.fixture(scope="module")
def flash(drive: Callable[[str, Environment], Transcript], runpod_flash: Environment) -> Transcript:
    """What the client of runpod-flash saw."""
    return drive("flash_balanced.py", runpod_flash)


@pytest.fixture(scope="module")
def apps(drive: Callable[[str, Environment], Transcript], runpod_2: Environment) -> Transcript:
    """What the clients of runpod 2.0 saw."""
    return drive("apps_balanced.py", runpod_2)


class TestFlash:
    """`Endpoint(id=…)` of runpod-flash."""

    def test_post(self, flash: Transcript) -> None:
        assert flash.result("post") == {"generated": "HELLO"}

    def test_other_verbs(self, flash: Transcript) -> None:
        assert flash.result("other_verbs") == ITEMS

    def test_errors_keep_their_status(self, flash: Transcript) -> None:
        assert flash.result("error_of_the_worker")["status"] == 404
        assert flash.result("unknown_endpoint")["status"] == 404


class TestApps:
    """`runpod.Api` of runpod 2.0, and the client it stands on."""

    @pytest.mark.parametrize("operation", ["post_by_name", "post_by_id", "post_without_a_loop", "at_its_own_address"])
    def test_post(self, apps: Transcript, operation: str) -> None:
        assert apps.result(operation) == {"generated": "HELLO"}

    def test_other_verbs(self, apps: Transcript) -> None:
        assert apps.result("other_verbs") == ITEMS

    def test_unknown_name(self, apps: Transcript) -> None:
        assert apps.result("unknown_name")["type"] == "EndpointNotFound"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
class TestCurl:
    """The tutorial's calls."""

    def curl(self, *arguments: str) -> Any:
        done = subprocess.run(["curl", "-sS", "--noproxy", "*", *arguments], capture_output=True, check=True)
        return json.loads(done.stdout)

    def test_by_path(self, account: Account, balanced: dict[str, Any]) -> None:
        key, kind = f"Authorization: Bearer {account.key}", "Content-Type: application/json"
        base = balanced["requestUrls"]["base"]
        answer = self.curl("-X", "POST", f"{base}/generate", "-H", key, "-H", kind, "-d", '{"prompt": "Hello!"}')
        assert answer == {"generated": "HELLO!"}
        assert self.curl(balanced["requestUrls"]["health"], "-H", key) == {"status": "healthy"}

    def test_by_host_name(self, account: Account, balanced: dict[str, Any], edge: Edge) -> None:
        host = f"{balanced['id']}.{DOMAIN}"
        where = ["--resolve", f"{host}:{edge.port}:127.0.0.1", "--cacert", str(edge.certificate)]
        key = f"Authorization: Bearer {account.key}"
        assert self.curl(f"https://{host}:{edge.port}/items/7", "-H", key, *where) == {"item": 7, "body": None}
