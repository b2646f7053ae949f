# SPDX-License-Identifier: Apache-2.0
"""Stores that are far away: what they are asked, how uses are written down, what damage does, and what errors say."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flash_plugins.errors import ConfigError, MissingDependencyError, StoreError
from flash_plugins.objects import ObjectMissing, Ref, s3
from flash_plugins.objects.digest import digest_of
from flash_plugins.objects.location import S3Access, S3Location, runpod_location
from flash_plugins.objects.open import open_store
from flash_plugins.objects.parallel import side_by_side
from flash_plugins.objects.remote import MIN_AGE_S, REFRESH_S, TRUST_S, RemoteStore
from flash_plugins.objects.s3 import BucketKeys
from flash_plugins.objects.volume import FolderKeys
from flash_plugins.worker.stores import open_remote
from tests.s3_server import ACCESS, BUCKET, S3Server, s3_server

CONTENT = b"some content" * 100
REF = Ref(digest_of(CONTENT), len(CONTENT))
PLACE = f"{REF.digest[:2]}/{REF.digest}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "buckets") as running:
        yield running


@pytest.fixture
def location(server: S3Server) -> S3Location:
    return S3Location.parse(server.url(prefix=os.urandom(8).hex()))


class Clocks:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def store(self, location: S3Location) -> RemoteStore:
        return RemoteStore(location.url, BucketKeys(location, ACCESS), now=lambda: self.now, monotonic=lambda: self.now)


def test_objects_are_the_files_that_a_worker_sees_in_the_volume(server: S3Server, location: S3Location) -> None:
    store = open_store(location.url, access=ACCESS)
    store.put(REF, memoryview(CONTENT))
    mounted = server.folder / BUCKET  # what is `/runpod-volume` in a worker
    assert (mounted / location.prefix / "objects" / PLACE).read_bytes() == CONTENT
    on_worker = open_store(location.url, volumes={BUCKET: mounted})
    assert bytes(on_worker.get(REF)) == CONTENT
    result = b"a result" * 1000
    ref = Ref(digest_of(result), len(result))
    on_worker.put(ref, memoryview(result))
    assert bytes(store.get(ref)) == result
    assert {entry.ref for entry in store.entries()} == {REF, ref}


def test_a_large_content_travels_in_parts_and_ranges(
    server: S3Server, location: S3Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "SINGLE_MAX_BYTES", 6 * 1024 * 1024)
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 1024 * 1024)
    content = os.urandom(17 * 1024 * 1024 + 7)
    ref = Ref(digest_of(content), len(content))
    store = open_store(location.url, access=ACCESS)
    before = len(server.requests())
    store.put(ref, memoryview(content))
    assert bytes(store.get(ref)) == content
    asked = [request for request in server.requests()[before:] if ref.digest in request]
    assert sum(request.startswith("PUT") and "partNumber" in request for request in asked) == 4
    assert sum(request.startswith("GET") for request in asked) == 4


def test_an_upload_in_parts_that_fails_leaves_no_parts(
    server: S3Server, location: S3Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "SINGLE_MAX_BYTES", 6 * 1024 * 1024)
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 1024 * 1024)
    keys = BucketKeys(location, ACCESS)
    content = memoryview(os.urandom(7 * 1024 * 1024))
    monkeypatch.setattr(
        keys._client, "complete_multipart_upload", lambda **_: (_ for _ in ()).throw(OSError("cable pulled"))
    )
    with pytest.raises(StoreError, match="cable pulled"):
        keys.write("objects/x", content)
    assert not keys._client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")
    assert keys.look_up("objects/x") is None


def test_an_object_that_was_seen_is_not_asked_about_again(server: S3Server, location: S3Location) -> None:
    clocks = Clocks()
    store = clocks.store(location)
    store.put(REF, memoryview(CONTENT))
    before = len(server.requests())
    assert all(store.has(REF) for _ in range(100))
    assert server.requests()[before:] == []
    clocks.now += TRUST_S + 1
    assert store.has(REF)
    assert len(server.requests()[before:]) == 1


def test_a_use_is_written_down_when_the_last_one_is_hours_ago(server: S3Server, location: S3Location) -> None:
    clocks = Clocks()
    store = clocks.store(location)
    store.put(REF, memoryview(CONTENT))
    stored_at = next(iter(store.entries())).used_at

    def marks() -> int:
        return sum(f"PUT /{BUCKET}/{location.prefix}/used/" in request for request in server.requests())

    for _ in range(5):
        clocks.now += REFRESH_S / 10
        assert store.has(REF)
    assert marks() == 0
    clocks.now += REFRESH_S
    for _ in range(5):
        assert store.has(REF)
        store.get(REF)
    assert marks() == 1
    (entry,) = store.entries()
    assert entry.used_at >= stored_at
    assert (server.folder / BUCKET / location.prefix / "used" / PLACE).exists()


def test_the_least_age_for_eviction_is_beyond_the_life_of_a_job_and_of_a_noted_use() -> None:
    assert MIN_AGE_S >= 7 * 86400 + REFRESH_S


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT + b"!", b"?" + CONTENT[1:], b""])
def test_a_damaged_object_is_missing_until_it_is_put_again(
    server: S3Server, location: S3Location, damage: bytes
) -> None:
    mounted = server.folder / BUCKET
    keys = BucketKeys(location, ACCESS)
    for store in (open_store(location.url, access=ACCESS), open_store(location.url, volumes={BUCKET: mounted})):
        store.put(REF, memoryview(CONTENT))
        keys.write(f"objects/{PLACE}", memoryview(damage))
        with pytest.raises(ObjectMissing, match="damaged"):
            store.get(REF)
        store.put(REF, memoryview(CONTENT))
        assert bytes(store.get(REF)) == CONTENT


def test_an_object_of_the_right_name_and_another_length_is_not_there(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put(REF, memoryview(CONTENT))
    (tmp_path / "objects" / PLACE).write_bytes(CONTENT[:100])
    assert not open_store(tmp_path.as_uri()).has(REF)


@pytest.mark.parametrize("size", [100_000, 7 * 1024 * 1024])
def test_a_shorter_content_is_damage_for_ranges_too(
    location: S3Location, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(s3, "SINGLE_MAX_BYTES", 50_000)
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 1024 * 1024)
    content = os.urandom(size)
    ref = Ref(digest_of(content), size)
    store = open_store(location.url, access=ACCESS)
    keys = BucketKeys(location, ACCESS)
    for left in (size - 1, 10):
        keys.write(f"objects/{ref.digest[:2]}/{ref.digest}", memoryview(content[:left]))
        with pytest.raises(ObjectMissing, match="damaged"):
            store.get(ref)


WRONG = {
    "secret": (S3Access(ACCESS.access_key, "wrong-secret-key"), {}, "secret key does not belong"),
    "access key": (S3Access("wrong-access-key", ACCESS.secret_key), {}, "access key is not known"),
    "bucket": (ACCESS, {"bucket": "elsewhere"}, "no such bucket"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_key_or_bucket_is_named_without_the_keys(location: S3Location, what: str) -> None:
    access, change, words = WRONG[what]
    wrong = replace(location, **change)
    acts: list[Callable[[RemoteStore], object]] = [
        lambda store: store.put(REF, memoryview(CONTENT)),
        lambda store: store.get(REF),
        lambda store: list(store.entries()),
        lambda store: store.delete(REF),
    ]
    for act in acts:
        store = RemoteStore(wrong.url, BucketKeys(wrong, access))  # an error before a body is read ends a connection
        with pytest.raises(StoreError, match=words) as caught:
            act(store)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__cause__.__dict__)
        assert access.secret_key not in shown
        assert access.access_key not in shown
        assert wrong.bucket in str(caught.value)


def test_asking_with_a_wrong_key_says_why_though_the_answer_has_no_body(location: S3Location) -> None:
    store = open_store(location.url, access=S3Access(ACCESS.access_key, "wrong"))
    with pytest.raises(StoreError, match="FLASH_PLUGINS_S3_SECRET_KEY"):
        store.has(REF)


def test_no_keys_at_all_names_what_to_set(
    location: S3Location, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="needs keys and there are none: set FLASH_PLUGINS_S3_ACCESS_KEY"):
        open_store(location.url).put(REF, memoryview(CONTENT))


def test_keys_of_aws_variables_are_taken_where_none_are_given(
    location: S3Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ACCESS.secret_key)
    store = open_store(location.url)
    store.put(REF, memoryview(CONTENT))
    assert store.has(REF)


def test_a_server_that_is_down_is_an_error_and_one_that_comes_back_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_plugins.objects.s3client.ATTEMPTS", 2)
    with s3_server(tmp_path / "buckets") as server:
        store = open_store(server.url(), access=ACCESS)
        store.put(REF, memoryview(CONTENT))
        server.stop()
        with pytest.raises(StoreError, match="cannot be reached"):
            store.get(REF)
        server.start()
        assert bytes(store.get(REF)) == CONTENT


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written to"):
        FolderKeys(tmp_path / "file").write("objects/x", memoryview(b"1"))
    assert FolderKeys(tmp_path / "file").look_up("objects/x") is None


def test_a_missing_library_names_the_command(location: S3Location, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("botocore", "botocore.exceptions"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'flash-plugins\[s3\]'"):
        open_store(location.url, access=ACCESS).has(REF)


def test_a_forked_child_makes_connections_of_its_own(location: S3Location) -> None:
    store = open_store(location.url, access=ACCESS)
    store.put(REF, memoryview(CONTENT))
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if bytes(store.get(REF)) == CONTENT else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bytes(store.get(REF)) == CONTENT


URLS = {
    "s3://b1c2": S3Location("b1c2"),
    "s3://b1c2/": S3Location("b1c2"),
    "s3://b1c2/some/where/": S3Location("b1c2", "some/where"),
    "s3://b1c2/p?endpoint=https://s3.example.com/&region=EU-RO-1": S3Location(
        "b1c2", "p", "https://s3.example.com", "EU-RO-1"
    ),
}


@pytest.mark.parametrize("url", URLS)
def test_the_url_of_a_bucket_is_read_and_written(url: str) -> None:
    assert S3Location.parse(url) == URLS[url]
    assert S3Location.parse(S3Location.parse(url).url) == URLS[url]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://", "no bucket"),
        ("s3://a/b#c", "no bucket"),
        ("s3://bucket?regoin=x", "'regoin' is no option"),
        ("s3://bucket?endpoint=s3.example.com", "is no URL"),
        ("s3://bucket?region=a%20b", "is no name"),
        ("bucket", "is no URL"),
        ("file://host/folder", "three slashes"),
        ("file:folder", "three slashes"),
        ("gs://bucket", "nothing knows this kind"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_store(url)


def test_keys_in_a_url_are_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="FLASH_PLUGINS_S3_ACCESS_KEY") as caught:
        open_store("s3://user_1:rps_2@bucket/prefix")
    assert "rps_2" not in str(caught.value)


def test_a_volume_of_runpod_is_a_bucket_of_its_data_center() -> None:
    assert runpod_location("vol1", "EU-RO-1").url == (
        "s3://vol1/flash-plugins?endpoint=https://s3api-eu-ro-1.runpod.io&region=EU-RO-1"
    )


def test_side_by_side_keeps_the_order_and_raises_what_failed() -> None:
    assert side_by_side([lambda n=n: n * n for n in range(20)], at_once=4) == [n * n for n in range(20)]  # type: ignore[misc]
    assert side_by_side([], at_once=4) == []
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError):  # noqa: PT011  the class is what matters
        side_by_side([lambda n=n: fail(n) for n in range(1000)], at_once=2)  # type: ignore[misc]
    assert len(begun) <= 2


def test_a_worker_with_the_volume_reads_files_and_any_other_needs_keys(
    server: S3Server, location: S3Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "FLASH_PLUGINS_S3"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    open_store(location.url, access=ACCESS).put(REF, memoryview(CONTENT))
    before = len(server.requests())
    monkeypatch.setenv("RUNPOD_VOLUME_ID", BUCKET)
    monkeypatch.setenv("FLASH_PLUGINS_VOLUME_PATH", str(server.folder / BUCKET))
    assert bytes(open_remote(location.url).get(REF)) == CONTENT
    assert server.requests()[before:] == []
    monkeypatch.setenv("RUNPOD_VOLUME_ID", "another")
    with pytest.raises(StoreError, match=r"for workers in the endpoint's env="):
        open_remote(location.url).get(REF)
    monkeypatch.setenv("FLASH_PLUGINS_S3_ACCESS_KEY", ACCESS.access_key)
    monkeypatch.setenv("FLASH_PLUGINS_S3_SECRET_KEY", ACCESS.secret_key)
    assert bytes(open_remote(location.url).get(REF)) == CONTENT
