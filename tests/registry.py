# SPDX-License-Identifier: Apache-2.0
"""For tests that install something: a package registry in reach, and caches of their own environments only."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import ROOT

__all__ = ["PROBE", "keep_installer_caches", "require_registry"]

#: A package that every registry has: one file, no dependencies, no new release for years.
PROBE = "six==1.16.0"


def require_registry() -> None:
    """Skip the test where no registry can be reached, and fail it in continuous integration."""
    reason = _unreachable()
    if reason is not None and os.environ.get("CI"):
        pytest.fail(f"{PROBE} cannot be downloaded: {reason}", pytrace=False)
    if reason is not None:
        pytest.skip(f"no package registry in reach: {reason}")


def keep_installer_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let uv and pip go on using the caches of this machine although XDG_CACHE_HOME is about to move."""
    home = Path(os.path.expanduser("~"))
    caches = home / ".cache" if os.access(home, os.W_OK) else ROOT / ".cache"
    for variable, name in (("UV_CACHE_DIR", "uv"), ("PIP_CACHE_DIR", "pip")):
        if variable not in os.environ:
            monkeypatch.setenv(variable, str(caches / name))


@functools.cache
def _unreachable() -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PROBE]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            return "it did not answer within 60 s"
    return None if done.returncode == 0 else done.stderr[-500:]
