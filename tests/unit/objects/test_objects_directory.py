# SPDX-License-Identifier: Apache-2.0
"""A folder as a store of objects: whole or not at all, held, evicted, damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flash_plugins import EnvelopeError
from flash_plugins.errors import StoreError
from flash_plugins.objects import ObjectMissing, ObjectStore, Ref, digest_of
from flash_plugins.objects.directory import DirectoryStore
from flash_plugins.objects.holds import HELD_PREFIX, remove_abandoned

MB = 1_000_000


def content_of(number: int, size: int = 1000) -> memoryview:
    return memoryview((b"%d " % number * size)[:size])


def ref_of(content: memoryview) -> Ref:
    return Ref(digest_of(content), content.nbytes)


def stored(store: DirectoryStore, content: memoryview, *, used_s_ago: float = 0) -> Ref:
    ref = ref_of(content)
    store.put(ref, content)
    when = time.time() - used_s_ago
    os.utime(store.root / "objects" / ref.digest, (when, when))
    return ref


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def test_it_is_a_store(store: DirectoryStore) -> None:
    assert isinstance(store, ObjectStore)
    assert store.url == f"local://{store.root}"


@pytest.mark.parametrize("size", [0, 1, 1000, 3 * MB], ids=["empty", "byte", "read", "mapped"])
def test_a_content_is_stored_under_its_name(store: DirectoryStore, size: int) -> None:
    content = content_of(1, size)
    ref = ref_of(content)
    assert not store.has(ref)
    store.put(ref, content)
    store.put(ref, content)
    assert store.has(ref)
    assert store.get(ref) == content
    assert [entry.ref for entry in store.entries()] == [ref]
    assert not list((store.root / "incoming").iterdir())
    store.delete(ref)
    store.delete(ref)
    assert not store.has(ref)


@pytest.mark.parametrize("size", [1000, 3 * MB], ids=["read", "mapped"])
def test_what_is_written_to_a_content_stays_private(store: DirectoryStore, size: int) -> None:
    ref = stored(store, content_of(1, size))
    mine, other = store.get(ref), store.get(ref)
    mine[:3] = b"new"
    assert bytes(other[:3]) == bytes(content_of(1, size)[:3]) == bytes(store.get(ref)[:3])
    assert not mine.readonly


def test_a_mapped_content_outlives_its_file(store: DirectoryStore) -> None:
    content = content_of(1, 3 * MB)
    mapped = store.get(stored(store, content))
    store.delete(ref_of(content))
    assert mapped == content


def test_mappings_keep_no_files_open(store: DirectoryStore) -> None:
    ref = stored(store, content_of(1, 3 * MB))
    before = len(os.listdir("/proc/self/fd"))
    views = [store.get(ref) for _ in range(200)]
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert all(view.nbytes == 3 * MB for view in views)


def test_the_folder_is_the_users_own(store: DirectoryStore) -> None:
    assert store.root.stat().st_mode & 0o777 == 0o700


def test_what_is_not_there_is_named(store: DirectoryStore) -> None:
    ref = ref_of(content_of(1))
    with pytest.raises(ObjectMissing) as caught:
        store.get(ref)
    assert caught.value.refs == (ref,)
    with pytest.raises(ObjectMissing):
        store.hold(ref)


@pytest.mark.parametrize("size", [1000, 3 * MB], ids=["read", "mapped"])
def test_a_file_of_another_size_is_missing_and_stored_again(store: DirectoryStore, size: int) -> None:
    content = content_of(1, size)
    ref = stored(store, content)
    os.truncate(store.root / "objects" / ref.digest, 10)
    with pytest.raises(ObjectMissing):
        store.get(ref)
    store.put(ref, content)
    assert store.get(ref) == content


def test_a_small_file_with_another_content_is_missing(store: DirectoryStore) -> None:
    ref = stored(store, content_of(1))
    (store.root / "objects" / ref.digest).write_bytes(content_of(2))
    with pytest.raises(ObjectMissing):
        store.get(ref)
    assert not store.has(ref)


def test_what_came_from_elsewhere_is_compared_with_its_name(store: DirectoryStore) -> None:
    digest = digest_of(b"content")
    with pytest.raises(EnvelopeError, match="changed on its way"):
        store.add(digest, b"other")
    assert store.read(digest) is None
    assert store.find(digest) is None
    store.add(digest, b"content")
    assert store.find(digest) == Ref(digest, 7)
    assert store.read(digest) == b"content"
    (store.root / "objects" / digest).write_bytes(b"changed")
    assert store.read(digest) is None


def test_a_name_cannot_be_a_file_elsewhere(store: DirectoryStore) -> None:
    (store.root / "secret").write_bytes(b"content")
    for name in ("../secret", "/etc/passwd", "", "f" * 31):
        with pytest.raises(EnvelopeError, match="is no digest"):
            store.read(name)
        with pytest.raises(EnvelopeError):
            store.put(Ref(name, 7), memoryview(b"content"))


def test_many_at_once_store_the_same(tmp_path: Path) -> None:
    stores = [DirectoryStore(tmp_path / "store") for _ in range(4)]
    contents = [content_of(number, 5000) for number in range(50)]

    def put_all(store: DirectoryStore) -> None:
        for content in contents:
            store.keep(ref_of(content), content)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(put_all, store) for store in stores * 2]:
            done.result()
    assert len(list(stores[0].entries())) == 50
    assert all(stores[0].get(ref_of(content)) == content for content in contents)
    for store in stores:
        store.close()


def test_the_least_recently_used_go_first(store: DirectoryStore) -> None:
    refs = [stored(store, content_of(number, 1000), used_s_ago=100 - number) for number in range(10)]
    assert store.has(refs[0])  # counts as a use
    assert store.evict(most_bytes=5000) == 6000
    assert {entry.ref for entry in store.entries()} == {refs[0], *refs[7:]}


def test_what_nobody_used_for_long_goes(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", max_age_s=50)
    old, young = stored(store, content_of(1), used_s_ago=60), stored(store, content_of(2), used_s_ago=40)
    assert store.evict() == old.size
    assert [entry.ref for entry in store.entries()] == [young]


def test_what_is_held_stays(store: DirectoryStore) -> None:
    held, left = stored(store, content_of(1)), stored(store, content_of(2))
    store.hold(held)
    store.hold(held)
    store.release(held)
    assert store.evict(most_bytes=0) == left.size
    assert store.has(held)
    store.release(held)
    assert store.evict(most_bytes=0) == held.size


def test_writing_evicts_what_is_too_much(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", max_bytes=100_000)
    for number in range(300):
        stored(store, content_of(number))
    assert sum(entry.ref.size for entry in store.entries()) <= 110_000


def test_holds_of_other_processes_count_until_they_end(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", holds_in=tmp_path)
    ref = stored(store, content_of(1))
    program = (
        "import os, sys; from pathlib import Path; from flash_plugins.objects import Ref\n"
        "from flash_plugins.objects.directory import DirectoryStore\n"
        "store = DirectoryStore(Path(sys.argv[1]), holds_in=Path(sys.argv[1]).parent)\n"
        "store.hold(Ref(sys.argv[2], int(sys.argv[3])))\n"
        "print('held', flush=True); input(); os._exit(1)"
    )
    command = [sys.executable, "-c", program, str(store.root), ref.digest, str(ref.size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"held\n"
        assert store.evict(most_bytes=0) == 0
        other.stdin.close()
        other.wait()
    assert store.evict(most_bytes=0) == ref.size
    assert not list(tmp_path.glob(HELD_PREFIX.format(os.getuid()) + "*"))


def test_a_folder_of_a_living_process_is_not_abandoned(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", holds_in=tmp_path)
    store.keep(ref_of(content_of(1)), content_of(1))
    remove_abandoned(tmp_path)
    assert len(list(tmp_path.glob(HELD_PREFIX.format(os.getuid()) + "*"))) == 1
    store.release(ref_of(content_of(1)))
    store.close()
    assert not list(tmp_path.glob(HELD_PREFIX.format(os.getuid()) + "*"))


def test_what_somebody_removed_is_put_back_from_what_is_held(store: DirectoryStore) -> None:
    ref = ref_of(content_of(1))
    assert store.keep(ref, content_of(1))
    assert not store.keep(ref, content_of(1))
    store.delete(ref)
    assert store.get(ref) == content_of(1)
    assert not store.has(ref)
    assert store.restore(ref)
    assert store.has(ref)


def test_a_result_is_kept_until_it_is_taken(store: DirectoryStore) -> None:
    ref, content = ref_of(content_of(1)), content_of(1)
    store.leave(ref, content, 1)
    store.leave(ref, content, 2)
    assert store.evict(most_bytes=0) == 0
    store.take(ref, 1)
    store.release(ref)
    assert store.evict(most_bytes=0) == 0
    store.drop_left(ref, 2)
    assert store.evict(most_bytes=0) == ref.size
    with pytest.raises(ObjectMissing):
        store.take(ref, 2)


def test_a_result_that_is_taken_is_held(store: DirectoryStore) -> None:
    ref = ref_of(content_of(1))
    store.leave(ref, content_of(1), 7)
    store.delete(ref)  # the link of its keeper is another one
    store.take(ref, 7)
    assert store.get(ref) == content_of(1)
    assert not list((store.root / "results").iterdir())


def test_a_full_disk_makes_room_first(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    old, written = stored(store, content_of(1)), os.write

    def full(descriptor: int, content: memoryview) -> int:
        if store.has(old):
            raise OSError(28, "No space left on device")
        return written(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    new = stored(store, content_of(2))
    assert store.has(new)
    store.hold(new)

    def always_full(_descriptor: int, _content: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", always_full)
    with pytest.raises(StoreError, match=r"cannot be stored in .*No space left.*make room"):
        stored(store, content_of(3))
    assert not list((store.root / "incoming").iterdir())


@pytest.mark.parametrize("size", [1000, 3 * MB], ids=["read", "mapped"])
def test_a_folder_that_somebody_removed_is_made_again_for_what_is_held(tmp_path: Path, size: int) -> None:
    store, content = DirectoryStore(tmp_path / "store", holds_in=tmp_path), content_of(1, size)
    ref = ref_of(content)
    store.keep(ref, content)
    shutil.rmtree(store.root)
    assert store.restore(ref)
    other = DirectoryStore(tmp_path / "store")
    assert other.get(ref) == content
    other.leave(ref_of(content_of(2)), content_of(2), 7)  # results go there, too
    store.release(ref)
    store.close()
