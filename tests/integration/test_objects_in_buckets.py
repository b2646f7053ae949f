# SPDX-License-Identifier: Apache-2.0
"""Caller → bucket → worker → bucket → caller, with a real S3 server and real workers."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import flash_plugins
from flash_plugins import Endpoint, process
from flash_plugins.errors import StoreError
from flash_plugins.objects import Ref
from flash_plugins.objects.open import open_store
from flash_plugins.objects.remote import RemoteStore
from flash_plugins.platforms import api
from tests.integration.cli_support import flash, flash_json
from tests.s3_server import ACCESS, BUCKET, S3Server, s3_server

#: Generous: the machine may be busy.
DEADLINE_S = 90.0

Array = np.ndarray[Any, np.dtype[np.float64]]

plain = Endpoint(name="bucket-plain", cpu="cpu5c-4-8", workers=(0, 1))
wrong_key = Endpoint(
    name="bucket-wrong-key", cpu="cpu5c-4-8", workers=(0, 1), env={api.S3_SECRET_KEY_ENV: "not-the-secret-key"}
)


@plain
def doubled(x: Array) -> Array:
    return x * 2


@plain
def total(x: Array) -> float:
    return float(x.sum())


@wrong_key
def never(x: Array) -> float:
    return float(x.sum())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "buckets") as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def session(server: S3Server) -> Iterator[None]:
    """A platform of this module's own, whose workers have the keys from their environment."""
    flash_plugins.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(api.OBJECTS_ENV, server.url())
        patch.setenv(api.S3_ACCESS_KEY_ENV, ACCESS.access_key)
        patch.setenv(api.S3_SECRET_KEY_ENV, ACCESS.secret_key)
        yield
        flash_plugins.close()


def array(seed: int, count: int = 100_000) -> Array:
    return np.random.default_rng(seed).random(count)


def uploads(server: S3Server) -> int:
    return sum(bool(re.match(f"PUT /{BUCKET}/tests/objects/", request)) for request in server.requests())


def test_argument_and_result_travel_through_the_bucket_once(server: S3Server) -> None:
    x = array(1)
    assert (doubled(x).result(DEADLINE_S) == x * 2).all()
    before = uploads(server)
    assert [total(x.copy()).result(DEADLINE_S) for _ in range(5)] == pytest.approx([x.sum()] * 5)
    assert uploads(server) == before
    store = open_store(server.url(), access=ACCESS)
    assert {entry.ref.size for entry in store.entries()} >= {x.nbytes}


def test_an_object_that_was_removed_meanwhile_is_sent_again(server: S3Server) -> None:
    assert total(array(2)).result(DEADLINE_S) > 0  # there is a worker
    y = array(3, 2_000_000)  # more than fits into a job
    space = process.session().objects.space()
    ref, _ = space.keep(memoryview(y.tobytes()))
    for upload in space.uploads([ref]):
        upload.result(DEADLINE_S)
    store = open_store(server.url(), access=ACCESS)
    assert store.has(ref)
    store.delete(ref)  # as `flash-plugins objects --delete-all` does
    assert total(y).result(DEADLINE_S) == pytest.approx(y.sum())
    assert open_store(server.url(), access=ACCESS).has(ref)
    space.release([ref])


def test_a_call_that_is_cancelled_while_its_objects_go_up_is_not_sent(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go = threading.Event()
    put = RemoteStore.put

    def slow(self: RemoteStore, ref: Ref, content: memoryview) -> None:
        assert may_go.wait(DEADLINE_S)
        put(self, ref, content)

    monkeypatch.setattr(RemoteStore, "put", slow)
    x = array(6)
    cancelled, kept = total(x), total(x)
    assert cancelled.cancel()
    assert cancelled.cancelled()
    assert not kept.done()
    may_go.set()
    assert kept.result(DEADLINE_S) == pytest.approx(x.sum())
    assert cancelled.job_id is None


def test_a_worker_with_a_wrong_key_is_an_error_that_says_so(server: S3Server) -> None:
    with pytest.raises(StoreError, match="secret key does not belong") as caught:
        never(array(4)).result(DEADLINE_S)
    shown = f"{caught.value}{caught.value.__cause__}"
    assert "not-the-secret-key" not in shown
    assert ACCESS.access_key not in shown


def test_a_server_that_is_down_ends_the_call_and_a_later_one_works(server: S3Server) -> None:
    x = array(5)
    server.stop()
    try:
        with pytest.raises(StoreError, match="cannot be reached"):
            total(x).result(DEADLINE_S)
    finally:
        server.start()
    assert total(x).result(DEADLINE_S) == pytest.approx(x.sum())


def test_doctor_says_whether_the_store_answers(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {finding["topic"]: finding for finding in flash_json("doctor")}
    assert found["objects"]["state"] == "ok"
    assert found["objects"]["said"] == f"{server.url()} answers; set by FLASH_PLUGINS_OBJECTS"
    monkeypatch.setenv(api.S3_SECRET_KEY_ENV, "wrong-secret")
    done = flash("doctor", code=1)
    assert "the secret key does not belong to the access key" in done.stdout
    assert "wrong-secret" not in done.stdout + done.stderr
