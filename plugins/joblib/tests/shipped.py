# SPDX-License-Identifier: Apache-2.0
"""pytest plugin that runs somebody else's shipped tests with a joblib backend as the default. Loaded with `-p` only.

Around each item, `joblib.parallel_config(backend=…, n_jobs=2)` is active, as users have it around their code: what
says nothing of `n_jobs` runs two tasks at once, and what says a number keeps it. Outcomes are written as JSON.

Environment: `SHIPPED_BACKEND` (`flash`), `SHIPPED_ITEMS` (a JSON file with the names of the items to keep; all), and
`SHIPPED_OUTCOMES` (where to write; nowhere).
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path

import flash_joblib
import joblib
import pytest

#: Tasks at once where the tests do not say. With 1, joblib uses no backend at all.
N_JOBS = 2

_BACKEND = os.environ.get("SHIPPED_BACKEND", flash_joblib.BACKEND_NAME)


def _name(item: pytest.Item) -> str:
    """Return the item's name with its module: paths depend on where Python's packages are."""
    return f"{item.module.__name__}::{item.name}"  # type: ignore[attr-defined]


class Outcomes:
    """Runs each item with the backend, and collects the worst phase of each."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.found: dict[str, dict[str, str | int]] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if path := os.environ.get("SHIPPED_ITEMS"):
            wanted = set(json.loads(Path(path).read_text()))
            config.hook.pytest_deselected(items=[item for item in items if _name(item) not in wanted])
            items[:] = [item for item in items if _name(item) in wanted]
        self.names = {item.nodeid: _name(item) for item in items}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        with joblib.parallel_config(backend=_BACKEND, n_jobs=N_JOBS) as context:
            result = yield
        backend = context["backend"]
        tasks = backend.stats().tasks if isinstance(backend, flash_joblib.FlashBackend) else 0
        self.found.setdefault(_name(item), {"outcome": "none", "reason": ""})["tasks"] = tasks
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        reason = str(report.longrepr).strip().splitlines()[-1:] if report.failed else []
        outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        self.found[self.names[report.nodeid]] = {"outcome": outcome, "reason": "".join(reason)}

    def pytest_sessionfinish(self) -> None:
        if path := os.environ.get("SHIPPED_OUTCOMES"):
            Path(path).write_text(json.dumps(self.found, indent=1, sort_keys=True))


def pytest_configure(config: pytest.Config) -> None:
    """Register the collector."""
    config.pluginmanager.register(Outcomes())
