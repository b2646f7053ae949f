# SPDX-License-Identifier: Apache-2.0
"""Projects of files for tests of how code travels, and processes that run them."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_SAMPLES = Path(__file__).parent.parent / "code_samples"

WriteFiles = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteFiles:
    """Write files, given by path and source, into the folder of a project."""
    project = tmp_path / "project"
    project.mkdir()

    def write_files(files: dict[str, str]) -> Path:
        for name, source in files.items():
            file = project / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(source))
        return project

    return write_files


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run a script in a process of its own; return what it printed."""
    installed = tmp_path / "site-packages"
    installed.mkdir()
    shutil.copy(_SAMPLES / "shipping.py", installed)
    (tmp_path / "elsewhere").mkdir()

    def run_script(folder: Path, *command: str, python_path: str = "") -> str:
        paths = os.pathsep.join(filter(None, [str(installed), python_path]))
        finished = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths, "SHIPPING_WORKER_FOLDER": str(tmp_path / "elsewhere")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.strip()

    return run_script


@pytest.fixture
def importable(write: WriteFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteFiles]:
    """Like `write`, with the folder on sys.path; what was imported from it is forgotten at the end."""
    before = set(sys.modules)

    def write_importable(files: dict[str, str]) -> Path:
        project = write(files)
        if str(project) not in sys.path:
            monkeypatch.syspath_prepend(project)
        importlib.invalidate_caches()
        return project

    yield write_importable
    for name in set(sys.modules) - before:
        del sys.modules[name]
