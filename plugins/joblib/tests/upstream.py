# SPDX-License-Identifier: Apache-2.0
"""pytest plugin that runs joblib's own shipped tests with one more backend. Loaded with `-p` only.

joblib's tests name their backends in lists. This plugin adds `flash` to every list that has `loky` in it,
then keeps the items that use the backend named by `UPSTREAM_BACKEND`, and writes their outcomes as JSON.

With `UPSTREAM_AS=default` that backend is joblib's default, and all other items are kept: those that name no backend.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import flash_joblib
import joblib
import joblib.testing
import pytest
from joblib.parallel import BACKENDS

#: Seconds for a script. joblib allows 10, which says something about the machine and nothing about a backend.
PATIENCE_S = 50

_BACKEND = os.environ.get("UPSTREAM_BACKEND", flash_joblib.BACKEND_NAME)
_IS_DEFAULT = os.environ.get("UPSTREAM_AS") == "default"
_parametrize = pytest.mark.parametrize


def _with_flash(names: Any, values: Iterable[Any], *args: Any, **kwargs: Any) -> pytest.MarkDecorator:
    values = list(values)
    if isinstance(names, str) and names.endswith("backend") and "loky" in values and "flash" not in values:
        values.append("flash")
    return _parametrize(names, values, *args, **kwargs)


if _IS_DEFAULT:
    joblib.register_parallel_backend(_BACKEND, BACKENDS[_BACKEND], make_default=True)
else:
    joblib.testing.parametrize = _with_flash


def _uses_backend(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    values = callspec.params.values() if callspec else ()
    return any((isinstance(value, str) and value == _BACKEND) or type(value) is BACKENDS[_BACKEND] for value in values)


def _names_a_backend(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    values = callspec.params.items() if callspec else ()
    return any("backend" in name and isinstance(value, str) for name, value in values)


def _stable_name(item: pytest.Item) -> str:
    """The item's name with the backend written as `BACKEND`, so that two runs can be compared."""
    if _IS_DEFAULT:
        return f"{item.module.__name__.rpartition('.')[2]}::{item.name}"  # type: ignore[attr-defined]
    params = {
        name: "BACKEND" if value == _BACKEND or type(value) is BACKENDS[_BACKEND] else str(value)
        for name, value in item.callspec.params.items()  # type: ignore[attr-defined]
    }
    kind = "instance" if any(type(v) is BACKENDS[_BACKEND] for v in item.callspec.params.values()) else "name"  # type: ignore[attr-defined]
    return f"{item.originalname}[{kind} {' '.join(f'{k}={v}' for k, v in sorted(params.items()))}]"  # type: ignore[attr-defined]


def _import_flash_in_scripts(module: Any) -> None:
    """Add the one import that user code needs to the scripts that joblib's tests run, and let them start slowly."""
    for name, text in vars(module).items():
        if name.startswith("UNPICKLABLE_CALLABLE_SCRIPT_TEMPLATE"):
            setattr(module, name, "import flash_joblib\n" + text)
    if (patient := getattr(module, "check_subprocess_call", None)) is None:
        return
    module.check_subprocess_call = lambda *args, timeout, **kwargs: patient(*args, timeout=PATIENCE_S, **kwargs)


class Outcomes:
    """Collects the worst phase of each item."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.found: dict[str, dict[str, str]] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept = (
            [item for item in items if not _names_a_backend(item)]
            if _IS_DEFAULT
            else list(filter(_uses_backend, items))
        )
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
        for module in {item.module for item in kept}:  # type: ignore[attr-defined]
            _import_flash_in_scripts(module)
        self.names = {item.nodeid: _stable_name(item) for item in kept}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        reason = str(report.longrepr).strip().splitlines()[-1:] if report.failed else []
        outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        self.found[self.names[report.nodeid]] = {"outcome": outcome, "reason": "".join(reason)}

    def pytest_sessionfinish(self) -> None:
        if path := os.environ.get("UPSTREAM_OUTCOMES"):
            Path(path).write_text(json.dumps(self.found, indent=1, sort_keys=True))


def pytest_configure(config: pytest.Config) -> None:
    """Register the collector and the marker that joblib's own configuration would."""
    config.addinivalue_line("markers", "thread_unsafe: joblib's own")
    config.addinivalue_line("markers", "no_cover: joblib's own")
    config.pluginmanager.register(Outcomes())
