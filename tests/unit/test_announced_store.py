# SPDX-License-Identifier: Apache-2.0
"""Lines about uploads that take long, and none about those that do not."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from flash_plugins.errors import StoreError
from flash_plugins.objects import ObjectStore, Ref
from flash_plugins.objects.announced import AnnouncedStore
from flash_plugins.objects.digest import digest_of
from flash_plugins.objects.open import open_store
from flash_plugins.objects.remote import RemoteStore
from flash_plugins.objects.volume import FolderKeys

CONTENT = b"content" * 1000
REF = Ref(digest_of(CONTENT), len(CONTENT))


class Slow(FolderKeys):
    """A folder that takes contents when it is told."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.go = threading.Event()

    def write(self, key: str, content: memoryview) -> None:
        assert self.go.wait(60)
        super().write(key, content)


def test_it_is_a_store_like_the_one_within(tmp_path: Path) -> None:
    store = AnnouncedStore(open_store(tmp_path.as_uri()), pytest.fail)
    assert isinstance(store, ObjectStore)
    store.put(REF, memoryview(CONTENT))
    store.hold(REF)
    store.release(REF)
    assert store.has(REF)
    assert bytes(store.get(REF)) == CONTENT
    assert [entry.ref for entry in store.entries()] == [REF]
    store.delete(REF)
    assert not store.has(REF)
    assert store.url == tmp_path.as_uri()


def test_long_uploads_are_told_of_until_they_are_done(tmp_path: Path) -> None:
    keys, told, two_lines = Slow(tmp_path), list[str](), threading.Event()

    def tell(line: str) -> None:
        told.append(line)
        if len(told) == 2:
            two_lines.set()

    store = AnnouncedStore(RemoteStore("s3://bucket/p", keys), tell, first_s=0.01, next_s=0.01)
    upload = threading.Thread(target=store.put, args=(REF, memoryview(CONTENT)))
    upload.start()
    assert two_lines.wait(60)
    keys.go.set()
    upload.join(60)
    watcher = store._watcher
    if watcher is not None:
        watcher.join(60)
    assert told[0].startswith("uploading to s3://bucket/p: 0 of 0 MB left after ")
    assert told[0].endswith(", 1 object under way")
    count = len(told)
    store.put(REF, memoryview(CONTENT))
    assert len(told) == count


def test_an_upload_that_fails_is_no_longer_under_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = AnnouncedStore(RemoteStore("s3://b/p", FolderKeys(tmp_path / "file")), lambda _: None)
    with pytest.raises(StoreError):
        store.put(REF, memoryview(CONTENT))
    assert store._under_way == 0
