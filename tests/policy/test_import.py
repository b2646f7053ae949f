# SPDX-License-Identifier: Apache-2.0
"""Importing the package does nothing and loads little: measured in fresh interpreters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

#: Packages that a plain import must not load: servers, clients, SDKs, command lines and adapters' frameworks.
HEAVY = (
    "httpx", "aiohttp", "httpx_aiohttp", "starlette", "uvicorn", "uvloop", "httptools", "runpod", "boto3",
    "requests", "typer", "click", "rich", "joblib", "sklearn", "numpy", "ray", "fastapi", "pydantic",
    "flash_joblib", "flash_ray", "flash_fastapi",
    "flash_plugins.cli", "flash_plugins.worker", "flash_plugins.platforms.local", "flash_plugins.testing",
)  # fmt: skip

#: Beyond any sensible figure, in seconds: it catches a framework that was loaded, not a busy machine. The
#: figures themselves are in benchmarks/.
CEILING_S = 1.5

PROBE = """
import atexit, json, logging, os, signal, sys, threading, time, warnings

def state():
    return {
        "environment": dict(os.environ),
        "handlers": [repr(handler) for handler in logging.getLogger().handlers],
        "level": logging.getLogger().level,
        "threads": threading.active_count(),
        "signals": [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())
                    if number not in (signal.SIGKILL, signal.SIGSTOP)],
        "path": list(sys.path),
        "filters": len(warnings.filters),
        "files": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else [],
        "hook": repr(sys.excepthook),
    }

before = state()
modules = set(sys.modules)
started = time.perf_counter()
exec(sys.argv[1], {})
elapsed_s = time.perf_counter() - started
new = sorted(set(sys.modules) - modules)
print(json.dumps({"before": before, "after": state(), "modules": new, "elapsed_s": elapsed_s}))
"""

STATEMENTS = ["import flash_plugins"]
if (ROOT / "flash_plugins" / "endpoint.py").exists() or (ROOT / "flash_plugins" / "endpoint").exists():
    STATEMENTS.append("from flash_plugins import Endpoint")


def _probe(statement: str, folder: Path) -> dict[str, Any]:
    """Run a statement in a fresh interpreter whose home, temporary folder and working folder are `folder`."""
    environment = {
        **os.environ, "HOME": str(folder), "TMPDIR": str(folder), "XDG_CACHE_HOME": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROBE, statement],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 1, f"{statement} prints: {lines[:-1]}"
    found: dict[str, Any] = json.loads(lines[0])
    return found


@pytest.mark.parametrize("statement", STATEMENTS)
def test_import_has_no_side_effects(statement: str, tmp_path: Path) -> None:
    found = _probe(statement, tmp_path)
    assert found["after"] == found["before"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("statement", STATEMENTS)
def test_import_loads_no_framework(statement: str, tmp_path: Path) -> None:
    loaded = _probe(statement, tmp_path)["modules"]
    heavy = sorted({name for name in HEAVY for module in loaded if f"{module}.".startswith(f"{name}.")})
    assert heavy == []


@pytest.mark.parametrize("statement", STATEMENTS)
def test_import_is_quick(statement: str, tmp_path: Path) -> None:
    fastest_s = min(_probe(statement, tmp_path)["elapsed_s"] for _ in range(3))
    print(f"{statement}: {fastest_s * 1000:.1f} ms")  # pytest -rP shows it
    assert fastest_s < CEILING_S


@pytest.mark.skipif(len(STATEMENTS) < 2, reason="there is no Endpoint yet")
def test_every_public_name_can_be_had(tmp_path: Path) -> None:
    statement = "import flash_plugins\nfor name in flash_plugins.__all__: getattr(flash_plugins, name)"
    _probe(statement, tmp_path)
    dir_has_all = "import flash_plugins\nassert set(flash_plugins.__all__) <= set(dir(flash_plugins))"
    _probe(dir_has_all, tmp_path)
