# SPDX-License-Identifier: Apache-2.0
"""The sources as the policy tests see them: parsed files, their module names and what they import."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support import ROOT

__all__ = ["ADAPTERS", "CORE", "Import", "Source", "relative", "tracked_files"]


@dataclass(frozen=True)
class Import:
    """One imported module, as an absolute dotted name, with the name taken from it (None: the module)."""

    module: str
    name: str | None
    line: int
    #: Inside a function: it happens when that is called, not when the module is imported.
    is_deferred: bool


@dataclass(frozen=True)
class Source:
    """One Python file."""

    path: Path
    #: Dotted module name, such as `flash_plugins.platforms.api`; a package has that of its folder.
    module: str

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def imports(self) -> list[Import]:
        """Imports that can happen at run time: those under `if TYPE_CHECKING` are left out."""
        return list(self._imports(self.tree, is_deferred=False))

    @cached_property
    def exported(self) -> list[str] | None:
        """The names in `__all__`, None without one."""
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign):
                targets = [node.target]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                assert isinstance(node, (ast.Assign, ast.AnnAssign))
                assert node.value is not None
                return [str(name) for name in ast.literal_eval(node.value)]
        return None

    def _imports(self, node: ast.AST, *, is_deferred: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from self._imports(other, is_deferred=is_deferred)
            elif isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, None, child.lineno, is_deferred)
            elif isinstance(child, ast.ImportFrom):
                base = self._absolute(child)
                for alias in child.names:
                    yield Import(base, alias.name, child.lineno, is_deferred)
            else:
                is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from self._imports(child, is_deferred=is_deferred or is_function)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.module.split(".")
        parts = parts[: len(parts) - node.level + (1 if self.is_package else 0)]
        return ".".join([*parts, *([node.module] if node.module else [])])


def _sources(folder: Path) -> list[Source]:
    """Every Python file of an import package, by its path."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = [folder.name, *path.relative_to(folder).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found.append(Source(path, ".".join(parts)))
    return found


def relative(path: Path) -> str:
    """The path within the checkout."""
    return path.relative_to(ROOT).as_posix()


def tracked_files() -> list[Path]:
    """Files under version control, or all of them where there is none (a source distribution)."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True)
    if listed.returncode:
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


#: Files of the root distribution.
CORE = _sources(ROOT / "flash_plugins")
#: Files of the adapters, by import name.
ADAPTERS = {folder.name: _sources(folder) for folder in sorted(ROOT.glob("plugins/*/flash_*"))}
