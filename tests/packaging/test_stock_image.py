# SPDX-License-Identifier: Apache-2.0
"""A worker that starts as it does on Runpod: from nothing but a python and pip, by the command that is sent there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flash_plugins
from flash_plugins import Endpoint
from flash_plugins.platforms import api
from tests.registry import PROBE, keep_installer_caches, require_registry
from tests.support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OURS = f"flash-plugins[worker]=={flash_plugins.__version__}"

#: Seconds for the installation of the official SDK and all that it needs.
DEADLINE_S = 500.0


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a bare python; beside it `dist` with a wheel of ours."""
    require_registry()
    keep_installer_caches(monkeypatch)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "image")], check=True, timeout=120)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    flash_plugins.close()
    yield tmp_path / "image"
    flash_plugins.close()


def test_a_worker_installs_itself_and_then_its_dependencies(image: Path) -> None:
    env = {
        "PATH": os.pathsep.join([str(image / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]),
        "PYTHONPATH": "",
        "XDG_CACHE_HOME": str(image.parent / "cache"),
        api.EXECUTABLE_ENV: "",  # as it is on Runpod
        api.PACKAGE_SPEC_ENV: f"--find-links {image.parent / 'dist'} {OURS}",
    }
    endpoint = Endpoint(name="stock", cpu="cpu5c-4-8", env=env, dependencies=[PROBE], accelerate_downloads=False)

    @endpoint
    def look() -> tuple[str, ...]:
        import runpod
        import six  # type: ignore[import-untyped, unused-ignore]

        import flash_plugins

        return six.__version__, *(str(module.__file__) for module in (six, flash_plugins, runpod))

    version, six, ours, official = look().result(timeout=DEADLINE_S)
    assert f"six=={version}" == PROBE
    assert Path(six).is_relative_to(image.parent / "cache")
    assert Path(ours).is_relative_to(image)
    assert Path(official).is_relative_to(image)
