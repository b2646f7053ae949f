# SPDX-License-Identifier: Apache-2.0
"""What a source file or a compiled function imports, read without executing it."""

from __future__ import annotations

import dis
import os
import sys
import time
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

from flash_plugins.code.modules import ModuleKind, module_kind

__all__ = ["Import", "Stamp", "imports_of_code", "imports_of_file", "imports_of_main", "stamp_of"]

#: Modification time in ns and size in bytes of a file or folder; None if it is gone.
Stamp = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement.

    Attributes:
        name: The module named in it, empty in `from . import x`.
        members: What follows `import` in a `from` statement; each may be a submodule.
        level: Leading dots.
        line: Line number, 0 if not known.
        is_certain: It runs whenever the module is imported: not inside `try`, `if` or a function.
    """

    name: str
    members: tuple[str, ...] = ()
    level: int = 0
    line: int = 0
    is_certain: bool = False

    def modules(self, package: str | None) -> Iterator[str]:
        """Absolute names of the modules it may import, seen from inside `package`."""
        base = self.name
        if self.level:
            parents = (package or "").split(".")
            if not package or self.level > len(parents):
                return
            parents = parents[: len(parents) - self.level + 1]
            base = ".".join([*parents, self.name] if self.name else parents)
        yield base
        for member in self.members:
            if member != "*":
                yield f"{base}.{member}"


def stamp_of(path: str) -> Stamp:
    """What changes when a file is edited, or a folder gets or loses an entry."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size)


_of_file: dict[str, tuple[Stamp, tuple[Import, ...]]] = {}
_of_code: weakref.WeakKeyDictionary[types.CodeType, tuple[Import, ...]] = weakref.WeakKeyDictionary()
_of_main: tuple[str, Stamp, frozenset[str]] | None = None
_of_main_at = 0.0  # when the file was last looked at

#: Seconds for which the running script counts as unchanged. A look gives up the interpreter's lock, at each call of a
#: function of the script: 0.2 ms where another thread is busy.
_MAIN_LOOK_S = 1.0


def imports_of_file(path: str) -> tuple[Import, ...]:
    """Every import statement of a source file, in functions too; none if it has a syntax error."""
    stamp = stamp_of(path)
    known = _of_file.get(path)
    if known is None or known[0] != stamp:
        known = (stamp, _parse(path))
        _of_file[path] = known
    return known[1]


def _parse(path: str) -> tuple[Import, ...]:
    import ast  # here: 4 ms, and a worker never needs it

    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
    except (OSError, SyntaxError, ValueError):
        return ()  # the interpreter reports it, better than we could, where it is imported
    found: list[Import] = []
    pending: list[tuple[ast.AST, bool]] = [(tree, True)]
    while pending:
        node, is_certain = pending.pop()
        if isinstance(node, ast.Import):
            found += [Import(a.name, line=node.lineno, is_certain=is_certain) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            members = tuple(a.name for a in node.names)
            found.append(Import(node.module or "", members, node.level, node.lineno, is_certain))
        elif not isinstance(node, ast.expr):
            inside = is_certain and isinstance(node, (ast.Module, ast.ClassDef, ast.With))
            pending += [(child, inside) for child in ast.iter_child_nodes(node)]
    return tuple(found)


def imports_of_code(code: types.CodeType) -> tuple[Import, ...]:
    """Every import statement in a function and in the functions inside it."""
    known = _of_code.get(code)
    if known is None:
        known = tuple(_scan(code))
        _of_code[code] = known
    return known


def _scan(code: types.CodeType) -> Iterator[Import]:
    # `level` and the tuple of members are the two constants pushed before IMPORT_NAME.
    constants: list[object] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith("LOAD_"):
            constants = [*constants[-1:], instruction.argval]
        elif instruction.opname == "IMPORT_NAME" and len(constants) == 2:
            level, members = constants
            yield Import(
                str(instruction.argval),
                members if isinstance(members, tuple) else (),
                level if isinstance(level, int) else 0,
            )
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _scan(constant)


def imports_of_main() -> frozenset[str]:
    """Local modules that the running script imports anywhere; empty in a notebook or without a file."""
    global _of_main, _of_main_at
    namespace = vars(sys.modules["__main__"])
    file = namespace.get("__file__")
    if not isinstance(file, str) or not file.endswith(".py"):
        return frozenset()
    now = time.monotonic()
    if _of_main is not None and _of_main[0] == file and now < _of_main_at + _MAIN_LOOK_S:
        return _of_main[2]
    stamp, _of_main_at = stamp_of(file), now
    if _of_main is None or _of_main[:2] != (file, stamp):
        package = namespace.get("__package__")
        names = (name for found in imports_of_file(file) for name in found.modules(package))
        local = frozenset(name for name in names if module_kind(name) is ModuleKind.LOCAL)
        _of_main = (file, stamp, local)
    return _of_main[2]
