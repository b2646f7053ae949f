# SPDX-License-Identifier: Apache-2.0
"""Which modules travel with the code that uses them, and how imports are read from source."""

from __future__ import annotations

import importlib
import sys
import textwrap
import types
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from flash_plugins.code import (
    bundle_modules,
    dumps,
    is_local_module,
)
from flash_plugins.code.imports import imports_of_code, imports_of_file
from flash_plugins.code.modules import ModuleKind, module_kind
from flash_plugins.errors import ConfigError, UnpicklableError

WriteFiles = Callable[..., Path]


@pytest.mark.parametrize(
    "name",
    [
        "os",
        "sys",
        "json.decoder",
        "pytest",
        "cloudpickle",
        "flash_plugins.errors",
        "flash_joblib",
        "no_such_module",
        "__main__",
    ],
)
def test_installed_own_and_unknown_modules_are_not_local(name: str) -> None:
    assert not is_local_module(name)


def test_module_with_a_source_file_is_local_whether_imported_or_not(importable: WriteFiles) -> None:
    importable({"local_a.py": "", "local_p/__init__.py": "", "local_p/sub.py": "", "local_n/mod.py": ""})

    names = ["local_a", "local_p", "local_p.sub", "local_n", "local_n.mod"]
    assert all(map(is_local_module, names))
    assert not set(names) & set(sys.modules), "looking must not import"
    assert not is_local_module("local_p.missing")

    for name in names:
        importlib.import_module(name)
    assert all(map(is_local_module, names))


def test_module_is_classified_anew_when_another_takes_its_name(importable: WriteFiles) -> None:
    importable({"changing.py": ""})
    assert module_kind("changing") is ModuleKind.LOCAL

    sys.modules["changing"] = types.ModuleType("changing")

    assert module_kind("changing") is ModuleKind.UNREACHABLE


def test_compiled_extension_beside_the_script_is_refused_only_when_it_is_needed(importable: WriteFiles) -> None:
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    importable(
        {
            f"fast{suffix}": "",
            "careful.py": "try:\n    import fast\nexcept ImportError:\n    fast = None\n",
            "needs.py": "import fast\n",
        }
    )

    assert module_kind("fast") is ModuleKind.COMPILED
    careful = bundle_modules(["careful"])
    assert careful is not None
    assert careful.modules == ("careful",)
    with pytest.raises(ConfigError, match=r"'needs' imports 'fast' \(line 1 of"):
        bundle_modules(["needs"])


def test_object_of_a_compiled_extension_beside_the_script_is_refused(
    importable: WriteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = importable({})
    fast = types.ModuleType("fast")
    fast.__file__ = str(project / f"fast{importlib.machinery.EXTENSION_SUFFIXES[0]}")
    monkeypatch.setitem(sys.modules, "fast", fast)

    with pytest.raises(UnpicklableError, match=r"\['m'\] is a module .*'fast' is a compiled extension"):
        dumps({"m": fast}, what="argument 'x' of f()")


def test_package_with_compiled_parts_is_taken_to_be_installed_on_the_worker(importable: WriteFiles) -> None:
    importable({"mixed/__init__.py": "", f"mixed/_fast{importlib.machinery.EXTENSION_SUFFIXES[0]}": ""})

    assert module_kind("mixed") is ModuleKind.INSTALLED


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Install files: into a folder that comes late on sys.path."""
    site = tmp_path / "site-packages"

    def install(files: dict[str, str]) -> None:
        for name, source in files.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(source)
        monkeypatch.setattr(sys, "path", [*sys.path, str(site)])

    return install


def test_second_copy_of_an_installed_package_does_not_travel(
    importable: WriteFiles, installed: Callable[[dict[str, str]], None], caplog: pytest.LogCaptureFixture
) -> None:
    parts = {"copied/__init__.py": "", "copied/a.py": "", "copied/b/__init__.py": ""}
    installed({**parts, "copied/old.py": ""})
    importable({**parts, "copied/new.py": ""})

    assert module_kind("copied") is ModuleKind.INSTALLED
    assert module_kind("copied.new") is ModuleKind.INSTALLED
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "copied" in caplog.text


def test_second_copy_of_an_installed_module_does_not_travel(
    importable: WriteFiles, installed: Callable[[dict[str, str]], None]
) -> None:
    installed({"six_like.py": "", "six_like-1.0.dist-info/METADATA": "Name: six-like\nVersion: 1.0\n"})
    importable({"six_like.py": ""})

    assert module_kind("six_like") is ModuleKind.INSTALLED


def test_module_of_ones_own_with_the_name_of_an_installed_one_travels(
    importable: WriteFiles, installed: Callable[[dict[str, str]], None], caplog: pytest.LogCaptureFixture
) -> None:
    installed({"helpers/__init__.py": "", "helpers/x.py": "", "helpers/y.py": "", "helpers/z.py": "", "one.py": ""})
    importable({"helpers/__init__.py": "", "helpers/x.py": "", "helpers/mine.py": "", "one.py": ""})

    assert module_kind("helpers.mine") is module_kind("one") is ModuleKind.LOCAL
    assert not caplog.records


def test_every_form_of_import_is_read_from_source(write: WriteFiles) -> None:
    project = write(
        {
            "all.py": """
                import a, b.c as d
                from e import f, g as h
                from . import i
                from ..j import k
                from l import *
                try:
                    import m
                except ImportError:
                    pass
                if a: import n
                def fn():
                    import o
                    class C:
                        import p
                async def fn2():
                    async with a:
                        import q
            """
        }
    )

    found = imports_of_file(str(project / "all.py"))
    names = {name for statement in found for name in statement.modules("top.pkg")}

    assert names == {
        "a", "b.c", "e", "e.f", "e.g", "top.pkg", "top.pkg.i", "top.j", "top.j.k", "l", "m", "n", "o", "p", "q",
    }  # fmt: skip
    assert {s.name for s in found if s.is_certain} == {"a", "b.c", "e", "", "j", "l"}


def test_relative_import_above_the_top_names_nothing(write: WriteFiles) -> None:
    project = write({"bad.py": "from ... import x\n", "syntax.py": "import ("})

    assert [list(s.modules("top")) for s in imports_of_file(str(project / "bad.py"))] == [[]]
    assert imports_of_file(str(project / "syntax.py")) == ()


def test_every_form_of_import_is_read_from_a_function() -> None:
    namespace: dict[str, typing.Any] = {}
    exec(
        textwrap.dedent("""
            def f():
                import a, b.c as d
                from e import f, g as h
                from . import i
                from ..j import k
                return lambda: __import__("x") or [__import__("y")]
            def g():
                def inner():
                    import z
        """),
        namespace,
    )

    def names(function: types.FunctionType) -> set[str]:
        return {name for s in imports_of_code(function.__code__) for name in s.modules("top.pkg")}

    assert names(namespace["f"]) == {
        "a", "b.c", "e", "e.f", "e.g", "top.pkg", "top.pkg.i", "top.j", "top.j.k",
    }  # fmt: skip
    assert names(namespace["g"]) == {"z"}
