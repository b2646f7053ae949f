# SPDX-License-Identifier: Apache-2.0
"""Caller → S3 API of a volume → worker that has the volume → S3 API → caller: what Runpod does, put together here.

The platform takes requests as Runpod does, so it has no store of its own; the S3 server serves the folder that workers
see as their volume, under the volume's id.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flash_plugins
from flash_plugins import Endpoint, NetworkVolume, process
from flash_plugins.errors import PayloadTooLarge
from flash_plugins.objects import location
from flash_plugins.platforms import api
from flash_plugins.testing import SimulatedRunpod, simulated_runpod
from tests.s3_server import ACCESS, S3Server, s3_server

#: Generous: the machine may be busy.
DEADLINE_S = 90.0

Array = np.ndarray[Any, np.dtype[np.float64]]

endpoint = Endpoint(
    name="with-volume", cpu="cpu5c-4-8", workers=(0, 1), volume=NetworkVolume(name="objects", datacenter="EU-RO-1")
)
bare = Endpoint(name="without-volume", cpu="cpu5c-4-8", workers=(0, 1))
scale = np.full(20_000, 3.0)


@endpoint
def scaled(x: Array) -> Array:
    y: Array = x * scale[0]
    return y


@endpoint
def ramp(count: int) -> Array:
    return np.arange(float(count))


@endpoint
class Model:
    def __init__(self, weights: Array) -> None:
        self.weights = weights

    def total(self) -> float:
        return float(self.weights.sum())


@bare
def size(x: Array) -> int:
    return x.size


def create_volume(runpod: SimulatedRunpod, base: Path, bucket_of: Path) -> str:
    """Make the volume, whose files are the bucket of its id; returns the id."""
    body = json.dumps({"name": "objects", "size": 10, "dataCenter": "EU-RO-1"}).encode()
    headers = {"Authorization": f"Bearer {runpod.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{runpod.url}{api.VOLUMES_PATH}", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        volume_id = str(json.load(answer)["id"])
    bucket = bucket_of / volume_id
    bucket.mkdir(parents=True)
    [files] = base.glob("flash-plugins/volumes/*/files")
    files.rmdir()
    files.symlink_to(bucket)
    return volume_id


@pytest.fixture(scope="module")
def runpod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedRunpod]:
    flash_plugins.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        with simulated_runpod(round_trip_s=0, cold_start_s=0, rest_per_minute=6_000) as running:
            yield running
            flash_plugins.close()


@pytest.fixture(scope="module")
def volume(runpod: SimulatedRunpod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, str]]:
    """The S3 API of the data center, and the id of the volume."""
    with s3_server(tmp_path_factory.mktemp("s3") / "buckets", buckets=()) as server:
        yield server, create_volume(runpod, Path(os.environ["XDG_DATA_HOME"]), server.folder)


@pytest.fixture(autouse=True)
def account(runpod: SimulatedRunpod, volume: tuple[S3Server, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform is Runpod, and there are keys; workers were given none."""
    for name, value in runpod.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(api.OBJECTS_ENV, raising=False)
    monkeypatch.setenv(api.S3_ACCESS_KEY_ENV, ACCESS.access_key)
    monkeypatch.setenv(api.S3_SECRET_KEY_ENV, ACCESS.secret_key)
    monkeypatch.setattr(location, "_RUNPOD_ENDPOINT", volume[0].endpoint)


def test_the_volume_of_an_endpoint_is_the_store_of_its_calls(volume: tuple[S3Server, str]) -> None:
    x: Array = np.random.default_rng(1).random(2_000_000)  # more than fits into a job, each way
    assert (scaled(x).result(DEADLINE_S) == x * 3).all()
    server, volume_id = volume
    asked = server.requests()
    assert sum(request.startswith(f"PUT /{volume_id}/flash-plugins/objects/") for request in asked) == 2  # x, scale
    assert sum(request.startswith(f"GET /{volume_id}/flash-plugins/objects/") for request in asked) == 1  # the result
    stored = {path.stat().st_size for path in server.folder.glob("*/flash-plugins/objects/*/*")}
    assert x.nbytes in stored
    assert process.session().objects_url(endpoint.config) is not None


def test_a_large_result_of_small_arguments_comes_through_the_volume() -> None:
    assert (ramp(2_000_000).result(DEADLINE_S) == np.arange(2_000_000.0)).all()


def test_arguments_of_a_constructor_go_through_the_volume() -> None:
    weights: Array = np.random.default_rng(2).random(2_000_000)
    total: Any = Model(weights).total()  # a call
    assert total.result(DEADLINE_S) == pytest.approx(weights.sum())


def test_an_endpoint_without_a_volume_has_no_store() -> None:
    assert size(np.zeros(20_000)).result(DEADLINE_S) == 20_000
    with pytest.raises(PayloadTooLarge, match="large objects"):
        size(np.random.default_rng(3).random(2_000_000))
