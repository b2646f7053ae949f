# SPDX-License-Identifier: Apache-2.0
"""No hook without a plugin that uses it, a page that documents it and a test that is named after it."""

from __future__ import annotations

import ast
import re

import pytest

from tests.policy.source import ADAPTERS, CORE, Source
from tests.support import ROOT

PAGE = ROOT / "docs" / "hooks.md"


def _hooks() -> dict[str, ast.FunctionDef]:
    """The specifications: functions decorated with `hookspec`."""
    spec = next(source for source in CORE if source.module == "flash_plugins.hooks.spec")
    functions = [node for node in spec.tree.body if isinstance(node, ast.FunctionDef)]
    return {
        node.name: node
        for node in functions
        if any("hookspec" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


HOOKS = _hooks()


def _implements(source: Source, hook: str) -> bool:
    return source.module != "flash_plugins.hooks.spec" and any(
        isinstance(node, ast.FunctionDef)
        and node.name == hook
        and any("hookimpl" in ast.unparse(decorator) for decorator in node.decorator_list)
        for node in ast.walk(source.tree)
    )


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_says_when_it_fires_and_what_its_errors_do(hook: str) -> None:
    said = ast.get_docstring(HOOKS[hook]) or ""
    assert re.search(r"\b(Gate|Observer)\b", said), f"{hook}: say whether it is a gate or an observer"
    assert re.search(r"\bCalled\b", said), f"{hook}: say when it is called, how often and in which thread"


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_has_a_plugin_that_uses_it(hook: str) -> None:
    sources = [*CORE, *(source for sources in ADAPTERS.values() for source in sources)]
    assert any(_implements(source, hook) for source in sources), f"nothing that is shipped implements {hook}"


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_tested_by_name(hook: str) -> None:
    tests = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    assert any(re.search(rf"def test_\w*{hook.removeprefix('flash_')}", text) for text in tests), (
        f"no test is named after {hook}: test_…{hook.removeprefix('flash_')}…"
    )


@pytest.mark.skipif(not PAGE.exists(), reason="there is no docs/hooks.md yet")
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_documented(hook: str) -> None:
    assert f"`{hook}" in PAGE.read_text("utf-8"), f"docs/hooks.md does not mention {hook}"
