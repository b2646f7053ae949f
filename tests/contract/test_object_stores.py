# SPDX-License-Identifier: Apache-2.0
"""What every object store does, whoever keeps its contents: a folder, a mounted volume, a bucket of an S3 server."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_plugins.objects import ObjectMissing, ObjectStore, Ref
from flash_plugins.objects.digest import digest_of
from flash_plugins.objects.open import open_store
from tests.s3_server import ACCESS, BUCKET, S3Server, s3_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "buckets") as running:
        yield running


@pytest.fixture(params=["folder", "bucket", "mounted bucket"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """How to open a store that is empty: arguments for `open_store`."""
    if request.param == "folder":
        return {"url": (tmp_path / "store").as_uri()}
    prefix = f"tests/{os.urandom(8).hex()}"
    if request.param == "mounted bucket":
        return {"url": f"s3://{BUCKET}/{prefix}", "volumes": {BUCKET: tmp_path / "volume"}}
    running: S3Server = request.getfixturevalue("server")
    return {"url": running.url(prefix=prefix), "access": ACCESS}


@pytest.fixture
def store(opened: dict[str, Any]) -> ObjectStore:
    return open_store(**opened)


def stored(store: ObjectStore, content: bytes) -> Ref:
    ref = Ref(digest_of(content), len(content))
    store.put(ref, memoryview(content))
    return ref


def test_what_was_put_is_there_for_everybody(store: ObjectStore, opened: dict[str, Any]) -> None:
    ref = stored(store, b"content" * 1000)
    assert store.has(ref)
    other = open_store(**opened)
    assert other.has(ref)
    assert bytes(other.get(ref)) == b"content" * 1000


@pytest.mark.parametrize("size", [0, 1, 65_536, 5_000_001])
def test_contents_of_any_size_come_back_as_they_were(store: ObjectStore, size: int) -> None:
    content = os.urandom(size)
    assert bytes(store.get(stored(store, content))) == content


def test_contents_may_lie_in_memory_that_can_be_written(store: ObjectStore) -> None:
    content = bytearray(b"x" * 100_000)
    ref = Ref(digest_of(content), len(content))
    store.put(ref, memoryview(content))
    content[:] = b"y" * 100_000
    assert bytes(store.get(ref)) == b"x" * 100_000


def test_what_is_written_to_a_content_is_seen_by_nobody(store: ObjectStore) -> None:
    ref = stored(store, b"a" * 100_000)
    mine = store.get(ref)
    mine[0] = ord("b")
    assert bytes(store.get(ref)) == b"a" * 100_000


def test_what_is_not_there_is_missing_by_its_name(store: ObjectStore) -> None:
    ref = Ref(digest_of(b"never stored"), 12)
    assert not store.has(ref)
    with pytest.raises(ObjectMissing, match=ref.digest[:12]) as caught:
        store.get(ref)
    assert caught.value.refs == (ref,)
    with pytest.raises(ObjectMissing):
        store.hold(ref)


def test_an_object_can_be_put_again(store: ObjectStore) -> None:
    ref = stored(store, b"twice")
    assert stored(store, b"twice") == ref
    assert bytes(store.get(ref)) == b"twice"
    assert [entry.ref for entry in store.entries()] == [ref]


def test_entries_are_all_that_is_stored(store: ObjectStore) -> None:
    refs = {stored(store, f"content {number}".encode()) for number in range(12)}
    entries = list(store.entries())
    assert {entry.ref for entry in entries} == refs
    assert len(entries) == 12
    assert all(entry.used_at > 1.7e9 for entry in entries)


def test_a_removed_object_is_gone_and_can_be_put_again(store: ObjectStore) -> None:
    ref = stored(store, b"short-lived")
    store.delete(ref)
    assert not store.has(ref)
    assert list(store.entries()) == []
    store.delete(ref)  # nothing happens
    stored(store, b"short-lived")
    assert bytes(store.get(ref)) == b"short-lived"


def test_holds_are_counted(store: ObjectStore) -> None:
    ref = stored(store, b"held")
    store.hold(ref)
    store.hold(ref)
    store.release(ref)
    assert store.has(ref)
    store.release(ref)
    assert store.has(ref)


def test_many_threads_put_and_get_at_once(store: ObjectStore) -> None:
    contents = [os.urandom(50_000 + number) for number in range(16)]
    got: dict[int, bytes] = {}
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            got[number] = bytes(store.get(stored(store, contents[number])))
        except BaseException as error:  # noqa: BLE001  shown below, in the thread of the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert got == dict(enumerate(contents))


def test_the_url_opens_the_same_store_and_has_no_keys(store: ObjectStore, opened: dict[str, Any]) -> None:
    ref = stored(store, b"by its URL")
    assert bytes(open_store(**{**opened, "url": store.url}).get(ref)) == b"by its URL"
    for shown in (store.url, repr(store), repr(vars(store)), repr(vars(getattr(store, "_keys", store)))):
        assert ACCESS.secret_key not in shown
        assert ACCESS.access_key not in shown
