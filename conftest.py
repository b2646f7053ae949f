# SPDX-License-Identifier: Apache-2.0
"""For all tests of the repository: the local platform, no real key, and nothing left behind.

At the root rather than in `tests/`, because the tests of the plugins need the same.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from tests.support import ROOT, RUN_MARK, end_with_report

#: What could lead a test to a real account, or to another platform than the local one.
ACCOUNT_VARIABLES = (
    "RUNPOD_API_KEY",
    "RUNPOD_API_BASE_URL",
    "RUNPOD_ENDPOINT_BASE_URL",
    "RUNPOD_ENDPOINT_ID",
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the environment safe before anything is imported, and look around after everything has ended."""
    _use_local_platform(os.environ)
    mark = uuid.uuid4().hex
    os.environ[RUN_MARK] = mark
    # Temporary files of ours go where nobody else writes; pytest's own stay where they always are.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="fp-"))
    _guard_home(folder)
    os.environ["TMPDIR"] = str(folder)
    os.environ["XDG_DATA_HOME"] = str(folder / "data")  # the user's network volumes are not ours to touch
    tempfile.tempdir = None
    # Registered first, so it runs last: after whatever our own package does when the interpreter ends.
    atexit.register(_finish, mark, folder, os.getpid())


def _guard_home(folder: Path) -> None:
    """Keep somebody's account out of reach, and caches where they can be written."""
    home = Path(os.path.expanduser("~"))  # Path.home() raises where there is none
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # like the Makefile: pip trusts them too
    if not os.access(home, os.W_OK):
        os.environ.setdefault("UV_CACHE_DIR", str(ROOT / ".cache" / "uv"))
    elif (home / ".runpod" / "config.toml").exists():
        os.environ.setdefault("UV_CACHE_DIR", str(home / ".cache" / "uv"))
        os.environ["HOME"] = str(folder)


def _finish(mark: str, folder: Path, owner: int) -> None:
    if os.getpid() != owner:  # a forked child
        return
    clean = end_with_report(mark, folder)
    shutil.rmtree(folder, ignore_errors=True)
    if not clean:
        sys.stdout.flush()
        os._exit(1)  # the only way for an exit handler to change the exit status


def _use_local_platform(environment: os._Environ[str]) -> None:
    for name in ACCOUNT_VARIABLES:
        environment.pop(name, None)
    environment["FLASH_PLATFORM"] = "local"


@pytest.fixture(autouse=True)
def local_platform_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an earlier test did: the local platform and no account."""
    for name in ACCOUNT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLASH_PLATFORM", "local")
