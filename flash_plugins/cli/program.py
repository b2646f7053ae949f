# SPDX-License-Identifier: Apache-2.0
"""Imports a user's program as if it were run, without what stands below `if __name__ == "__main__":`.

It becomes this process's `__main__`, so that its functions are the very same as when it runs: what `deploy` sends is
what the program itself would send, and neither replaces the other's.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["import_program"]

#: The command's own main module, which must live as long as the process.
_commands: list[ModuleType] = []


def import_program(path: Path) -> ModuleType:
    """Run the top level of a program and return it.

    Raises:
        OSError: The file cannot be read.
        SyntaxError: It is no Python program.
        BaseException: Whatever it raises.
    """
    tree = _WithoutMain().visit(ast.parse(path.read_bytes(), filename=str(path)))
    code = compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True)
    module = ModuleType("__main__")
    module.__file__ = str(path)
    module.__package__ = None
    _commands.append(sys.modules["__main__"])
    sys.modules["__main__"] = module
    sys.path[:0] = [str(path.parent)]
    sys.argv[:] = [str(path)]
    exec(code, vars(module))
    return module


class _WithoutMain(ast.NodeTransformer):
    """Makes `__name__ == "__main__"` False at the top level, though it would be True."""

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        sides = [node.left, *node.comparators]
        names = [side.id for side in sides if isinstance(side, ast.Name)]
        texts = [side.value for side in sides if isinstance(side, ast.Constant)]
        if len(sides) == 2 and names == ["__name__"] and texts == ["__main__"]:
            return ast.copy_location(ast.Constant(isinstance(node.ops[0], ast.NotEq)), node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AsyncFunctionDef:
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        return node
