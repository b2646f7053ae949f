# SPDX-License-Identifier: Apache-2.0
"""Bundles of source files: made, installed and activated."""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import typing
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flash_plugins.code import (
    activate_bundle,
    activation,
    bundle_modules,
    dumps,
    install_bundle,
)
from flash_plugins.code.bundle import MAX_BUNDLE_BYTES
from flash_plugins.errors import EnvelopeError, PayloadTooLarge
from flash_plugins.objects.digest import digest_of

WriteFiles = Callable[..., Path]


def test_no_local_modules_make_no_bundle() -> None:
    assert bundle_modules([]) is None
    assert bundle_modules(["os", "pytest", "no_such_module"]) is None


def test_bundle_is_deterministic_and_cached(importable: WriteFiles) -> None:
    importable({"one.py": "import two\n", "two.py": "import one\n"})

    first, again, other = bundle_modules(["one"]), bundle_modules(iter(["one"])), bundle_modules(["two"])

    assert first is not None
    assert other is not None
    assert again is first
    assert other.digest == first.digest == digest_of(first.data)
    assert first.size_bytes == len("import two\n") + len("import one\n")


def test_bundle_sees_edited_and_added_and_removed_files(importable: WriteFiles) -> None:
    project = importable({"grows/__init__.py": "", "grows/a.py": "A = 1\n"})

    def modules_and_digest() -> tuple[tuple[str, ...], str]:
        bundle = bundle_modules(["grows"])
        assert bundle is not None
        return bundle.modules, bundle.digest

    seen = [modules_and_digest()]
    (project / "grows/a.py").write_text("A = 22\n")
    seen.append(modules_and_digest())
    (project / "grows/b.py").write_text("")
    seen.append(modules_and_digest())
    (project / "grows/b.py").unlink()
    seen.append(modules_and_digest())

    assert [names for names, _ in seen] == [
        ("grows", "grows.a"), ("grows", "grows.a"), ("grows", "grows.a", "grows.b"), ("grows", "grows.a"),
    ]  # fmt: skip
    assert seen[1] == seen[3]
    assert len({digest for _, digest in seen}) == 3


def test_bundle_leaves_out_what_is_not_source(importable: WriteFiles) -> None:
    importable(
        {
            "app/__init__.py": "",
            "app/py.typed": "",
            "app/data.bin": "x",
            "app/.hidden/secret.py": "",
            "app/__pycache__/old.py": "",
            "app/node_modules/x.py": "",
            "app/venv/pyvenv.cfg": "",
            "app/venv/lib/y.py": "",
        }
    )

    bundle = bundle_modules(["app"])

    assert bundle is not None
    assert zipfile.ZipFile(io.BytesIO(bundle.data)).namelist() == ["app/__init__.py", "app/py.typed"]


def test_bundle_over_the_limit_names_the_largest_files(importable: WriteFiles) -> None:
    importable({"huge.py": "#" * (MAX_BUNDLE_BYTES + 1), "tiny.py": "import huge\n"})

    with pytest.raises(PayloadTooLarge, match=r"huge\.py \(8\.4 MB\)") as caught:
        bundle_modules(["tiny"])

    assert caught.value.limit_bytes == MAX_BUNDLE_BYTES
    assert caught.value.size_bytes > MAX_BUNDLE_BYTES


def _archive(entries: dict[str, str]) -> tuple[str, bytes]:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, source in entries.items():
            archive.writestr(name, source)
    return digest_of(target.getvalue()), target.getvalue()


def test_bundle_is_installed_once_by_many_at_a_time(tmp_path: Path) -> None:
    digest, packed = _archive({"m.py": "X = 1\n", "p/__init__.py": "", "p/q.py": ""})
    root = tmp_path / "not" / "there"

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: install_bundle(digest, packed, root), range(32)))

    assert folders == {root / digest}
    assert [p.name for p in root.iterdir()] == [digest], "no temporary folder stays"
    assert sorted(str(p.relative_to(root / digest)) for p in (root / digest).rglob("*.py")) == [
        "m.py", "p/__init__.py", "p/q.py",
    ]  # fmt: skip


@pytest.mark.parametrize("entry", ["../evil.py", "/evil.py", "a/../../evil.py", "c:\\evil.py", "..\\evil.py"])
def test_entry_outside_the_folder_is_refused(tmp_path: Path, entry: str) -> None:
    digest, packed = _archive({"ok.py": "", entry: ""})

    with pytest.raises(EnvelopeError):
        install_bundle(digest, packed, tmp_path / "root")

    assert list((tmp_path / "root").iterdir()) == []
    assert not list(tmp_path.rglob("evil.py"))


def test_damaged_or_misnamed_bundle_is_refused(tmp_path: Path) -> None:
    digest, packed = _archive({"ok.py": ""})
    no_zip = b"no zip"

    with pytest.raises(EnvelopeError, match="damaged"):
        install_bundle(digest, packed + b"!", tmp_path)
    with pytest.raises(EnvelopeError, match="which is none"):
        install_bundle("../" + digest, packed, tmp_path)
    with pytest.raises(EnvelopeError, match="not a zip"):
        install_bundle(digest_of(no_zip), no_zip, tmp_path)


@pytest.fixture
def activate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], bool]]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(activation, "_active", [])
    before = set(sys.modules)

    def install_and_activate(entries: dict[str, str]) -> bool:
        digest, packed = _archive(entries)
        return activate_bundle(install_bundle(digest, packed, tmp_path / "bundles"))

    yield install_and_activate
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_activated_bundle_is_first_on_the_path_once(activate: Callable[[dict[str, str]], bool]) -> None:
    before = len(sys.path)

    assert [activate({"m1.py": "X = 1\n"}) for _ in range(3)] == [False, False, False]

    assert importlib.import_module("m1").X == 1
    assert len(sys.path) == before + 1


def test_edited_module_is_imported_again(activate: Callable[[dict[str, str]], bool]) -> None:
    activate({"m2.py": "from n2 import X\n", "n2.py": "X = 1\n"})
    assert importlib.import_module("m2").X == 1

    assert activate({"m2.py": "from n2 import X\n", "n2.py": "X = 2\n"})

    assert importlib.import_module("m2").X == 2


def test_bundle_with_more_modules_leaves_what_is_imported_alone(activate: Callable[[dict[str, str]], bool]) -> None:
    activate({"m3.py": "class C: pass\n", "only3.py": "Y = 1\n"})
    cls = importlib.import_module("m3").C

    assert not activate({"m3.py": "class C: pass\n", "n3.py": "X = 3\n"})

    assert importlib.import_module("m3").C is cls
    assert importlib.import_module("n3").X == 3
    assert importlib.import_module("only3").Y == 1


def test_package_that_got_a_part_is_imported_again(activate: Callable[[dict[str, str]], bool]) -> None:
    activate({"p4/__init__.py": "", "p4/a.py": ""})
    importlib.import_module("p4.a")

    assert activate({"p4/__init__.py": "", "p4/a.py": "", "p4/b.py": "B = 4\n"})

    assert importlib.import_module("p4.b").B == 4


def test_edited_module_of_a_namespace_package_is_imported_again(activate: Callable[[dict[str, str]], bool]) -> None:
    activate({"ns5/a.py": "X = 1\n"})
    exec("from ns5 import a")

    assert activate({"ns5/a.py": "X = 2\n"})

    namespace: dict[str, typing.Any] = {}
    exec("from ns5 import a", namespace)
    assert namespace["a"].X == 2


def test_module_of_the_same_name_from_elsewhere_gives_way(
    activate: Callable[[dict[str, str]], bool], importable: WriteFiles
) -> None:
    importable({"m6.py": "X = 'elsewhere'\n"})
    assert importlib.import_module("m6").X == "elsewhere"

    assert activate({"m6.py": "X = 'bundle'\n"})

    assert importlib.import_module("m6").X == "bundle"


def test_bundle_never_replaces_the_standard_library(activate: Callable[[dict[str, str]], bool]) -> None:
    before = sys.modules["queue"] if "queue" in sys.modules else importlib.import_module("queue")

    activate({"queue.py": "", "flash_plugins/__init__.py": ""})

    assert sys.modules["queue"] is before
    assert "flash_plugins.errors" in sys.modules


def test_pickle_needs_nothing_but_cloudpickle_and_this_package() -> None:
    """The other end may have any version of ours that has these two functions."""

    class Local:
        pass

    names = {
        argument
        for opcode, argument, _ in pickletools_of(dumps(Local(), what="x").data)
        if opcode == "SHORT_BINUNICODE" and isinstance(argument, str) and argument.startswith("flash_plugins")
    }
    assert names <= {"flash_plugins.code.pickling", __name__}


def pickletools_of(data: bytes) -> Iterator[tuple[str, object, int | None]]:
    import pickletools

    for opcode, argument, position in pickletools.genops(data):
        yield opcode.name, argument, position


assert pickle.HIGHEST_PROTOCOL >= 5
