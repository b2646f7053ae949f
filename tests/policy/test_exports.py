# SPDX-License-Identifier: Apache-2.0
"""Every module says what it offers, and everything that it offers is documented."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.policy.source import ADAPTERS, CORE, Source, relative

SOURCES = [*CORE, *(source for sources in ADAPTERS.values() for source in sources)]

#: Modules that offer nothing to import: programs, and what only their own folder uses.
PROGRAMS = ("flash_plugins.worker", "flash_plugins.cli", "flash_plugins.platforms.local")


def _protocol_methods() -> set[str]:
    """Methods that a Protocol documents: those who follow it need not say it again."""
    return {
        member.name
        for source in SOURCES
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
        for member in node.body
        if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(member)
    }


PROTOCOL_METHODS = _protocol_methods()


DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _is_program(source: Source) -> bool:
    return source.path.name == "__main__.py" or f"{source.module}.".startswith(tuple(f"{p}." for p in PROGRAMS))


def _has_code(source: Source) -> bool:
    return any(not isinstance(node, ast.Expr) for node in source.tree.body)


@pytest.mark.parametrize("source", [s for s in SOURCES if _has_code(s)], ids=lambda source: source.module)
def test_every_module_says_what_it_is_for(source: Source) -> None:
    assert ast.get_docstring(source.tree), f"{relative(source.path)} has no docstring"


@pytest.mark.parametrize(
    "source", [s for s in SOURCES if _has_code(s) and not _is_program(s)], ids=lambda source: source.module
)
def test_every_public_module_has_a_sorted_list_of_names_that_exist(source: Source) -> None:
    exported = source.exported
    if exported is None and not any(isinstance(node, DEFINITIONS) for node in source.tree.body):
        return  # constants only: their names are the list
    assert exported is not None, f"{relative(source.path)} has no __all__"
    assert len(set(exported)) == len(exported), f"{relative(source.path)}: a name is twice in __all__"
    missing = set(exported) - _defined(source)
    assert not missing, f"{relative(source.path)}: __all__ names {sorted(missing)}, which are not there"


@pytest.mark.parametrize("source", [s for s in SOURCES if s.exported], ids=lambda source: source.module)
def test_every_exported_name_is_documented(source: Source) -> None:
    exported = set(source.exported or [])
    silent = [f"line {line}: {name}" for name, line in _undocumented(source) if name.partition(".")[0] in exported]
    assert not silent, f"{relative(source.path)}: no docstring or #: comment for {', '.join(silent)}"


def _defined(source: Source) -> set[str]:
    """Names that exist at the top of a module, also those that its `__getattr__` makes from a table."""
    names: set[str] = set()
    for node in ast.walk(source.tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom(names=aliases) | ast.Import(names=aliases):
                names.update(alias.asname or alias.name for alias in aliases)
            case ast.Dict(keys=keys) if source.is_package:  # lazy names: {"Endpoint": "flash_plugins.endpoint"}
                names.update(key.value for key in keys if isinstance(key, ast.Constant) and type(key.value) is str)
    return names


def _undocumented(source: Source) -> Iterator[tuple[str, int]]:
    """Names without a word about them: functions, classes, their public methods, and constants."""
    for position, node in enumerate(source.tree.body):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                if not ast.get_docstring(node) and not _is_overload(node):
                    yield node.name, node.lineno
            case ast.ClassDef():
                if not ast.get_docstring(node):
                    yield node.name, node.lineno
                for member in node.body:
                    if not isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        continue
                    is_public = not member.name.startswith("_")
                    is_silent = is_public and not ast.get_docstring(member) and not _is_inherited(member)
                    if is_silent and member.name not in PROTOCOL_METHODS:
                        yield f"{node.name}.{member.name}", member.lineno
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                if not name.startswith("__") and not _has_comment(source, position):
                    yield name, node.lineno


def _is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)


def _is_inherited(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Documented where it comes from: an override, an overload, a setter."""
    words = ("overload", "override", ".setter")
    return any(word in ast.unparse(decorator) for decorator in node.decorator_list for word in words)


def _has_comment(source: Source, position: int) -> bool:
    """A `#:` line above the constant or above the group of constants it belongs to, or a text below."""
    body = source.tree.body
    line = body[position].lineno - 2
    constants = {node.lineno for node in body if isinstance(node, (ast.Assign, ast.AnnAssign))}
    while line >= 0 and (line + 1 in constants or source.lines[line].startswith("#")):
        if source.lines[line].startswith("#:"):
            return True
        line -= 1
    follows = body[position + 1] if position + 1 < len(body) else None
    return isinstance(follows, ast.Expr) and isinstance(follows.value, ast.Constant)
