# SPDX-License-Identifier: Apache-2.0
"""Every example runs as a user would run it: from anywhere, on the local platform, to a good end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env={**os.environ, "FLASH_PLATFORM": "local"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"{example.name} fails:\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [], "it leaves files in the folder it was started in"
