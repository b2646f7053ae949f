# SPDX-License-Identifier: Apache-2.0
"""Calls that workers make of functions of other endpoints, on the platform that runs them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_plugins import AuthenticationError, Endpoint
from flash_plugins.platforms import api
from flash_plugins.platforms.choice import choose
from flash_plugins.settings import Settings

#: Generous: the box may be busy.
DEADLINE_S = 60.0

inner = Endpoint(name="nested-inner", cpu="cpu5c-4-8", env={"NESTED_TOKEN": "of the inner endpoint"})
outer = Endpoint(name="nested-outer", cpu="cpu5c-4-8")


class TooFar(Exception):
    def __init__(self, steps: int) -> None:
        super().__init__(f"{steps} steps")
        self.steps = steps


@inner
def token(name: str) -> tuple[str | None, int]:
    print("said inside")
    return os.environ.get(name), os.getpid()


@inner
def go(steps: int) -> int:
    if steps > 3:
        raise TooFar(steps)
    return steps


@inner
def nap(seconds: float, begun: str, done: str) -> None:
    Path(begun).touch()
    time.sleep(seconds)
    Path(done).touch()


@Endpoint(name="nested-class", cpu="cpu5c-4-8")
class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def by(self, x: int) -> int:
        return self.factor * x


@Endpoint(name="nested-stream", cpu="cpu5c-4-8")
def count(n: int) -> Iterator[int]:
    yield from range(n)


@outer
def ask_token(name: str) -> tuple[str | None, int, int]:
    value, pid = token(name).result()
    return value, pid, os.getpid()


@outer
async def go_there(steps: int) -> int:
    return await go(steps)


@outer
def nap_there(seconds: float, begun: str, done: str) -> None:
    nap(seconds, begun, done).result()


@outer
async def use_everything(n: int) -> list[int]:
    scale: Any = Scale(3)
    scaled = await asyncio.gather(*(scale.by(i) for i in range(n)))
    return [*scaled, *[value async for value in count(n)]]


def test_row_23_a_worker_calls_a_function_of_another_endpoint(capfd: pytest.CaptureFixture[str]) -> None:
    value, inner_pid, outer_pid = ask_token("NESTED_TOKEN").result(DEADLINE_S)
    assert len({inner_pid, outer_pid, os.getpid()}) == 3
    # The endpoint was created here, where its environment is known, and the worker left it alone.
    assert value == "of the inner endpoint"
    said = capfd.readouterr()
    assert said.out == "said inside\n"
    assert said.err.count("platform local") <= 1


def test_row_23_what_it_raises_arrives_as_itself_through_both_workers() -> None:
    assert go_there(2).result(DEADLINE_S) == 2
    with pytest.raises(TooFar) as caught:
        go_there(5).result(DEADLINE_S)
    assert caught.value.steps == 5


def test_row_23_classes_and_generators_of_other_endpoints() -> None:
    assert use_everything(3).result(DEADLINE_S) == [0, 3, 6, 0, 1, 2]


def test_row_23_cancelling_a_call_cancels_the_one_that_it_waits_for(tmp_path: Path) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    call = nap_there(30.0, str(begun), str(done))
    deadline = time.monotonic() + DEADLINE_S
    while not begun.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started = time.monotonic()
    assert call.cancel()
    # The inner endpoint has one worker: it takes this call once it is done with the nap, or rid of it.
    assert go(1).result(DEADLINE_S) == 1
    assert time.monotonic() - started < 25
    assert not done.exists()


def test_row_23_a_worker_on_runpod_needs_a_key_of_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(api.ENDPOINT_NAME_ENV, "outer")
    monkeypatch.setenv("FLASH_PLATFORM", "local")  # of whoever built the image: it must not start a platform there
    with pytest.raises(AuthenticationError, match=r"env=\{'RUNPOD_API_KEY'"):
        choose(Settings.load()).connect()
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_secret")
    connection = choose(Settings.load()).connect()
    assert (connection.key, connection.api_base, connection.keeps_endpoints) == ("rpa_secret", api.CLOUD_API_BASE, True)
    monkeypatch.setenv(api.PLATFORM_URL_ENV, "http://127.0.0.1:1")
    monkeypatch.setenv(api.PLATFORM_KEY_ENV, "local_secret")
    settings = Settings.load()
    assert choose(settings).connect().api_base == "http://127.0.0.1:1"
    assert "secret" not in repr(settings)
