# SPDX-License-Identifier: Apache-2.0
"""Rules of CONTRIBUTING.md that a reader of one file can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.policy.source import ADAPTERS, CORE, Source, relative, tracked_files
from tests.support import ROOT

SOURCES = [*CORE, *(source for sources in ADAPTERS.values() for source in sources)]

#: Longest module, in lines.
MAX_LINES = 600

#: Where the environment may be read. The last ones are the exceptions, each with its reason.
ENVIRONMENT_READERS = (
    "flash_plugins/settings.py",
    "flash_plugins/cli/",
    "flash_plugins/worker/",  # the platform speaks to a worker through its environment
    "flash_plugins/platforms/local/",  # it hands its environment on to the workers
    "flash_plugins/testing.py",
    "plugins/joblib/flash_joblib/threads.py",  # the thread limits of BLAS and OpenMP are variables
)

#: What a tracked file must not contain: places of one machine, hosts of one registry. Put together here, so
#: that this file does not contain them either.
FORBIDDEN = ("/wo" + "rk/", "fa" + "rm", "python" + "hosted", "/simp" + "le/", "pypi" + ".org")

#: A comment for the linter that gives no reason.
NOQA = re.compile(r"noqa(: ?[A-Z0-9, ]+)?")

every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.module)


@every_source
def test_only_the_command_line_prints(source: Source) -> None:
    if relative(source.path).startswith("flash_plugins/cli/"):
        return
    wrong = [
        f"line {node.lineno}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "pprint")
    ]
    assert not wrong, f"{relative(source.path)} prints: {', '.join(wrong)}; log, or leave it to cli/"


@every_source
def test_the_environment_is_read_in_few_places(source: Source) -> None:
    if relative(source.path).startswith(ENVIRONMENT_READERS):
        return
    wrong = [f"line {line}" for line in _environment_uses(source.tree)]
    assert not wrong, f"{relative(source.path)} reads the environment: {', '.join(wrong)}; pass the value down"


@every_source
def test_a_catch_all_says_why(source: Source) -> None:
    wrong = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and _catches_all(node):
            near = source.lines[node.lineno - 1 : node.body[0].lineno]
            comments = [text.strip() for line in near for text in line.split("#")[1:]]
            comments = [text for text in comments if not NOQA.fullmatch(text)]
            is_raised = isinstance(node.body[-1], ast.Raise)  # tidied up after, or translated
            if not is_raised and not any(len(text.split()) > 2 for text in comments):
                wrong.append(f"line {node.lineno}")
    assert not wrong, f"{relative(source.path)}: catch-all without a comment that says why: {', '.join(wrong)}"


@every_source
def test_nothing_is_caught_and_forgotten(source: Source) -> None:
    wrong = [
        f"line {node.lineno}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler) and len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
    ]
    assert not wrong, f"{relative(source.path)}: `except …: pass` in {', '.join(wrong)}"


@every_source
def test_modules_are_short(source: Source) -> None:
    assert len(source.lines) <= MAX_LINES, f"{relative(source.path)} has {len(source.lines)} lines: split it"


def test_every_python_file_carries_its_licence() -> None:
    wrong = [
        relative(path)
        for path in tracked_files()
        if path.suffix == ".py" and "SPDX-License-Identifier: Apache-2.0" not in "\n".join(_head(path))
    ]
    assert not wrong, f"no SPDX line at the top of {', '.join(wrong)}"


def test_no_file_names_a_machine_or_a_registry() -> None:
    wrong = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = [word for word in FORBIDDEN if word in text.lower()]
        if found:
            wrong.append(f"{relative(path)} ({', '.join(found)})")
    assert not wrong, f"names of one machine or registry in {'; '.join(wrong)}"


def test_no_two_test_files_have_the_same_name_as_one_of_another_distribution() -> None:
    core = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for path in ROOT.glob("plugins/*/tests/**/test_*.py"):
        plugin = path.relative_to(ROOT / "plugins").parts[0]
        assert path.name.startswith(f"test_{plugin}_"), f"call {relative(path)} test_{plugin}_….py"
        assert path.name not in core


def _environment_uses(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv" | "putenv"):
                yield node.lineno
            case ast.ImportFrom(module="os", names=names):
                if any(alias.name in ("environ", "environb", "getenv", "putenv") for alias in names):
                    yield node.lineno


def _catches_all(node: ast.ExceptHandler) -> bool:
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    names = {ast.unparse(kind) for kind in caught if kind is not None}
    return node.type is None or bool(names & {"Exception", "BaseException"})


def _head(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()[:3]
