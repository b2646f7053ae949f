# SPDX-License-Identifier: Apache-2.0
"""Cells with calls in real kernels, as Jupyter and VS Code run them: what is displayed, and in which cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

from .environments import require

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

DRIVER = Path(__file__).parent / "drivers" / "notebook.py"


@pytest.mark.parametrize("kernel", ["ipykernel==6.31.0", "ipykernel==7.4.0"])
def test_each_cell_shows_the_progress_of_its_calls(kernel: str) -> None:
    environment = require(kernel)
    (packages,) = environment.folder.glob("lib/python*/site-packages")
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "FLASH_PROGRESS")}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "plugins" / "joblib"), str(packages)])
    done = subprocess.run(
        [sys.executable, str(DRIVER)], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    mapped, joblib, *rest = json.loads(done.stdout)
    for cell, label in ((mapped, "nap"), (joblib, "nap")):
        assert cell.pop("stdout") == "45\n"
        cell.pop("stderr", None)  # which platform it is
        (display,) = _displays(cell)
        assert display["text/plain"].startswith(f"{label}: 10/10 tasks done · ")
        assert '<progress value="10" max="10"' in display["text/html"]
    assert not any(_displays(cell) for cell in rest)


def _displays(cell: dict[str, Any]) -> list[dict[str, str]]:
    assert "error" not in cell, cell["error"]
    return list(cell.values())
