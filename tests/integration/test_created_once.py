# SPDX-License-Identifier: Apache-2.0
"""Processes that want the same endpoint, or the same volume, at the same moment end with one, and their calls run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flash_plugins.platforms.local.launch import RunningPlatform, launch
from tests.support import ROOT

pytestmark = pytest.mark.timeout(180)

PROCESSES = 4

#: A user's program that creates at the very moment at which the others do.
PROGRAM = """
import asyncio, os, pathlib, sys
from flash_plugins import Endpoint, NetworkVolume
from flash_plugins.platforms.rest import RestClient

here, most = pathlib.Path(sys.argv[1]), int(sys.argv[2])


def together(create, what):
    async def wait_and_create(*args, **options):
        (here / f"{what}-{os.getpid()}").touch()
        while len(list(here.glob(f"{what}-*"))) < most:
            await asyncio.sleep(0.01)
        return await create(*args, **options)

    return wait_and_create


RestClient.create_endpoint = together(RestClient.create_endpoint, "endpoint")
RestClient.create_volume = together(RestClient.create_volume, "volume")


@Endpoint(name="shared", cpu="cpu5c-4-8", workers=2, volume=NetworkVolume(name="made-at-once", size=10))
def square(x):
    return x * x


print(square(7).result(120))
"""


@pytest.fixture
def platform() -> Iterator[RunningPlatform]:
    running = launch(key="rpa_ONCE")
    yield running
    running.stop()


def test_processes_that_want_the_same_at_once_end_with_one(platform: RunningPlatform, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "FLASH_PLATFORM": "runpod",
        "RUNPOD_API_BASE_URL": platform.url,
        "RUNPOD_ENDPOINT_BASE_URL": f"{platform.url}/v2",
        "RUNPOD_API_KEY": platform.key,
    }
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    # when
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), str(meeting), str(PROCESSES)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(PROCESSES)
    ]  # fmt: skip
    ended = [process.communicate(timeout=150) for process in processes]
    # then
    assert [out for out, _ in ended] == ["49\n"] * PROCESSES, "\n".join(err for _, err in ended)
    assert len(list(meeting.glob("endpoint-*"))) == len(list(meeting.glob("volume-*"))) == PROCESSES
    headers = {"Authorization": f"Bearer {platform.key}"}
    (endpoint,) = httpx.get(f"{platform.url}/v2/serverless", headers=headers).json()["endpoints"]
    volumes = httpx.get(f"{platform.url}/v2/network-volumes", headers=headers).json()["networkVolumes"]
    (volume,) = [volume for volume in volumes if volume["name"] == "made-at-once"]  # others outlive their platforms
    assert endpoint["name"] == "shared"
    assert endpoint["networkVolumes"] == [volume["id"]]
    httpx.delete(f"{platform.url}/v2/serverless/{endpoint['id']}", headers=headers)
    httpx.delete(f"{platform.url}/v2/network-volumes/{volume['id']}", headers=headers)
