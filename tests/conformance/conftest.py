# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the conformance tests: official packages, a platform of the module's own, endpoints on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flash_plugins.platforms.local.launch import launch

from .account import Account, Queue
from .clients import Transcript, play
from .environments import Environment, require
from .webhooks import Webhooks, listening

#: The packages under test. The Flash client brings its own choice of `runpod`.
RUNPOD_1 = "runpod==1.12.0"
RUNPOD_2 = "runpod==2.0.0rc2"
RUNPOD_FLASH = "runpod-flash==1.21.0"


@pytest.fixture(scope="session", params=[RUNPOD_1, RUNPOD_2])
def sdk(request: pytest.FixtureRequest) -> Environment:
    """Each version of the official SDK in turn."""
    return require(request.param)


@pytest.fixture(scope="session")
def runpod_1() -> Environment:
    """The current official SDK."""
    return require(RUNPOD_1)


@pytest.fixture(scope="session")
def runpod_2() -> Environment:
    """The release candidate of the official SDK."""
    return require(RUNPOD_2)


@pytest.fixture(scope="session")
def runpod_flash() -> Environment:
    """The Flash package."""
    return require(RUNPOD_FLASH)


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """A key on a platform that lives as long as the module."""
    platform = launch()
    try:
        with Account(platform.url, platform.key) as account:
            yield account
    finally:
        platform.stop()


@pytest.fixture
def serve(account: Account, sdk: Environment) -> Iterator[Callable[..., Queue]]:
    """Create endpoints with `Account.serve` under the SDK version at hand; they end with the test."""
    served: list[Queue] = []

    def serve(script: str, **options: object) -> Queue:
        served.append(account.serve(script, sdk, **options))  # type: ignore[arg-type]
        return served[-1]

    yield serve
    for queue in served:
        account.delete(queue)


@pytest.fixture(scope="module")
def webhooks() -> Iterator[Webhooks]:
    """A receiver of webhooks."""
    with listening() as webhooks:
        yield webhooks


@pytest.fixture(scope="module")
def jobs(account: Account, runpod_2: Environment) -> Queue:
    """An endpoint for clients: its worker does what the input says, eight jobs at once."""
    return account.serve("for_clients.py", runpod_2)


@pytest.fixture(scope="module")
def streams(account: Account, runpod_2: Environment) -> Queue:
    """An endpoint for clients whose jobs stream."""
    return account.serve("for_streams.py", runpod_2)


@pytest.fixture(scope="module")
def frozen(account: Account, runpod_2: Environment) -> Queue:
    """An endpoint without workers: whatever is sent to it stays in the queue."""
    return account.serve("for_clients.py", runpod_2, workers_max=0)


@pytest.fixture(scope="module")
def play_driver(
    account: Account,
    jobs: Queue,
    streams: Queue,
    frozen: Queue,
    webhooks: Webhooks,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Environment], Transcript]:
    """Run a driver script in an environment, pointed at the module's platform and endpoints."""

    def run(driver: str, environment: Environment) -> Transcript:
        setting = {
            "jobs": jobs.id,
            "streams": streams.id,
            "frozen": frozen.id,
            "webhook": f"{webhooks.url}/from-{driver}",
        }
        folder: Path = tmp_path_factory.mktemp(driver.removesuffix(".py"))
        return play(driver, environment, account, setting, folder)

    return run
