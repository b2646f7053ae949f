# SPDX-License-Identifier: Apache-2.0
"""On the worker: from an envelope to a call, with what is remembered, what is missing and what was changed."""

from __future__ import annotations

import io
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flash_plugins import EnvelopeError
from flash_plugins.code import activation, dumps
from flash_plugins.objects.digest import digest_of
from flash_plugins.payload import CallEnvelope
from flash_plugins.worker.run import MissingBlobs, Preparer, python_version


def add(a: int, b: int = 1) -> int:
    return a + b


class Counter:
    def __init__(self, start: int, *, step: int = 1) -> None:
        self.value = start
        self.step = step

    def next(self) -> int:
        self.value += self.step
        return self.value


def envelope(
    function: Any,
    *args: Any,
    bundle: bytes | None = None,
    instance: tuple[Any, ...] | None = None,
    method: str | None = None,
    carries: bool = True,
    **kwargs: Any,
) -> CallEnvelope:
    contents = {"code": dumps(function, what="it").data, "bundle": bundle, "instance": None}
    if instance is not None:
        contents["instance"] = dumps((instance, {"step": 2}), what="it").data
    named = {name: None if content is None else digest_of(content) for name, content in contents.items()}
    blobs = {digest_of(content): content for content in contents.values() if content is not None}
    return CallEnvelope(
        code=str(named["code"]),
        args=dumps((args, kwargs), what="it").data,
        python=python_version(),
        bundle=named["bundle"],
        instance=named["instance"],
        method=method,
        blobs=blobs if carries else {},
    )


def result(preparer: Preparer, call: CallEnvelope) -> Any:
    prepared = preparer.prepare(call)
    return prepared.function(*prepared.args, **prepared.kwargs)


@pytest.fixture
def preparer(tmp_path: Path) -> Preparer:
    return Preparer(tmp_path / "cache")


@pytest.fixture
def bundles() -> Iterator[None]:
    """Leave `sys.path` and the modules of bundles as they were."""
    before, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    activation._active.clear()
    for name in set(sys.modules) - modules:
        if name.startswith("bundled"):
            del sys.modules[name]


def bundle_of(**sources: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, source in sorted(sources.items()):
            archive.writestr(zipfile.ZipInfo(f"{name}.py", (1980, 1, 1, 0, 0, 0)), source)
    return buffer.getvalue()


def test_a_call_is_prepared(preparer: Preparer) -> None:
    prepared = preparer.prepare(envelope(add, 1, b=2))
    assert (prepared.args, prepared.kwargs) == ((1,), {"b": 2})
    assert prepared.function(*prepared.args, **prepared.kwargs) == 3


def test_code_that_was_never_sent_is_missing(preparer: Preparer) -> None:
    call = envelope(Counter, method="next", instance=(1,), bundle=bundle_of(bundled_a=""), carries=False)
    with pytest.raises(MissingBlobs) as caught:
        preparer.prepare(call)
    assert set(caught.value.digests) == {call.code, call.instance, call.bundle}


def test_what_is_missing_comes_without_what_is_here(preparer: Preparer) -> None:
    call = envelope(Counter, method="next", instance=(1,))
    code_only = CallEnvelope(
        code=call.code, args=call.args, python=call.python, instance=call.instance, method=call.method,
        blobs={call.code: call.blobs[call.code]},
    )  # fmt: skip
    with pytest.raises(MissingBlobs) as caught:
        preparer.prepare(code_only)
    assert caught.value.digests == (call.instance,)


def test_code_travels_once(preparer: Preparer) -> None:
    assert result(preparer, envelope(add, 1)) == 2
    assert result(preparer, envelope(add, 5, carries=False)) == 6


def test_code_is_found_on_disk_by_another_worker(tmp_path: Path) -> None:
    assert result(Preparer(tmp_path), envelope(add, 1)) == 2
    assert result(Preparer(tmp_path), envelope(add, 5, carries=False)) == 6


def test_code_that_is_loaded_needs_no_disk(preparer: Preparer, tmp_path: Path) -> None:
    call = envelope(add, 1)
    first = preparer.prepare(call).function
    (tmp_path / "cache" / "blobs" / "objects" / call.code).unlink()
    again = preparer.prepare(envelope(add, 5, carries=False))
    assert again.function is first
    assert again.args == (5,)


def test_code_that_was_changed_on_its_way_never_runs(preparer: Preparer, tmp_path: Path) -> None:
    call = envelope(add, 1)
    other = dumps(Counter, what="it").data
    tampered = CallEnvelope(code=call.code, args=call.args, python=call.python, blobs={call.code: other})
    with pytest.raises(EnvelopeError, match="changed on its way"):
        preparer.prepare(tampered)
    with pytest.raises(MissingBlobs):
        preparer.prepare(envelope(add, 1, carries=False))


def test_code_that_was_changed_on_disk_never_runs(tmp_path: Path) -> None:
    call = envelope(add, 1)
    result(Preparer(tmp_path), call)
    (tmp_path / "blobs" / "objects" / call.code).write_bytes(dumps(Counter, what="it").data)
    with pytest.raises(MissingBlobs):
        Preparer(tmp_path).prepare(envelope(add, 1, carries=False))


def test_another_python_is_refused_with_both_versions(preparer: Preparer) -> None:
    call = envelope(add, 1)
    other = CallEnvelope(code=call.code, args=call.args, python="2.7", blobs=call.blobs)
    with pytest.raises(EnvelopeError, match=rf"Python 2\.7 and this worker Python {python_version()}"):
        preparer.prepare(other)
    assert python_version() == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_an_instance_is_made_once_for_equal_arguments(preparer: Preparer) -> None:
    calls = [envelope(Counter, method="next", instance=(start,)) for start in (10, 10, 20)]
    assert [result(preparer, call) for call in calls] == [12, 14, 22]
    instances = [preparer.prepare(call).function.__self__ for call in calls]  # type: ignore[attr-defined]
    assert instances[0] is instances[1]
    assert instances[0] is not instances[2]


def test_an_instance_that_cannot_be_made_is_tried_again(preparer: Preparer, tmp_path: Path) -> None:
    marker = tmp_path / "ready"

    class Fragile:
        def __init__(self, path: str, *, step: int) -> None:
            if not Path(path).exists():
                raise FileNotFoundError(path)

        def ask(self) -> str:
            return "ready"

    call = envelope(Fragile, method="ask", instance=(str(marker),))
    with pytest.raises(FileNotFoundError):
        preparer.prepare(call)
    marker.touch()
    assert result(preparer, call) == "ready"


def test_several_threads_load_code_once(preparer: Preparer) -> None:
    barrier = threading.Barrier(8)
    call = envelope(Counter, method="next", instance=(1,))

    def prepare() -> Any:
        barrier.wait(30)
        return preparer.prepare(call).function.__self__  # type: ignore[attr-defined]

    with ThreadPoolExecutor(8) as pool:
        instances = {id(done.result()) for done in [pool.submit(prepare) for _ in range(8)]}
    assert len(instances) == 1


def use_bundled() -> int:
    import bundled_part  # type: ignore[import-not-found]

    return int(bundled_part.VALUE)


@pytest.mark.usefixtures("bundles")
def test_modules_of_a_bundle_can_be_imported(preparer: Preparer) -> None:
    assert result(preparer, envelope(use_bundled, bundle=bundle_of(bundled_part="VALUE = 1"))) == 1


@pytest.mark.usefixtures("bundles")
def test_a_bundle_of_changed_sources_replaces_what_was_imported(preparer: Preparer) -> None:
    first, second = bundle_of(bundled_part="VALUE = 1"), bundle_of(bundled_part="VALUE = 2")
    assert result(preparer, envelope(use_bundled, bundle=first)) == 1
    assert result(preparer, envelope(use_bundled, bundle=second)) == 2
    assert result(preparer, envelope(use_bundled, bundle=first, carries=False)) == 1


@pytest.mark.usefixtures("bundles")
def test_instances_of_changed_sources_are_made_again(preparer: Preparer) -> None:
    class Holder:
        def __init__(self, number: int, *, step: int) -> None:
            import bundled_part

            self.value = bundled_part.VALUE

        def read(self) -> Any:
            return self.value

    values = [
        result(preparer, envelope(Holder, method="read", instance=(1,), bundle=bundle_of(bundled_part=source)))
        for source in ("VALUE = 1", "VALUE = 1", "VALUE = 2")
    ]
    assert values == [1, 1, 2]


@pytest.mark.usefixtures("bundles")
def test_more_modules_leave_what_was_imported(preparer: Preparer) -> None:
    small = bundle_of(bundled_part="VALUE = object()")
    large = bundle_of(bundled_part="VALUE = object()", bundled_other="VALUE = 5")

    def identity() -> int:
        import bundled_part

        return id(bundled_part.VALUE)

    assert result(preparer, envelope(identity, bundle=small)) == result(preparer, envelope(identity, bundle=large))


@pytest.mark.usefixtures("bundles")
def test_a_bundle_with_an_entry_outside_is_refused(preparer: Preparer, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../planted.py", "x = 1")
    with pytest.raises(EnvelopeError, match="outside its folder"):
        preparer.prepare(envelope(add, 1, bundle=buffer.getvalue()))
    assert not list(tmp_path.rglob("planted.py"))


def test_a_bundle_that_is_no_archive_is_refused(preparer: Preparer) -> None:
    with pytest.raises(EnvelopeError, match="not a zip archive"):
        preparer.prepare(envelope(add, 1, bundle=b"not a zip"))
