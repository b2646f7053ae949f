# SPDX-License-Identifier: Apache-2.0
"""joblib's own shipped tests: what loky passes, `flash` passes, but for what is listed here.

Run with `-m conformance`. First the items of `test_parallel.py` that name a backend, then those of all files that name
none, with `flash` as joblib's default; see `upstream.py` for how they are found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import cast

import pytest

from tests.conformance.environments import require
from tests.support import ROOT

TESTS = Path(__file__).parent

_NO_IMPORT = "loky's children import what their tasks refer to, and the tests' module never imports flash_joblib"

#: Items that `flash` does not pass, by the beginning of their name: about pools on this machine, each with why.
NOT_OURS = {
    "test_auto_memmap_on_arrays_from_generator": "asserts that tasks get an np.memmap of a file on this machine",
    "test_memmapping_leaks": "asserts on files in joblib's temporary folder for memory maps",
    "test_nested_loop[name child_backend=BACKEND parent_backend=loky": _NO_IMPORT,
    "test_backend_nesting_level[name context=<class 'joblib.parallel.parallel_config'> inner_backend=BACKEND "
    "outer_backend=loky": _NO_IMPORT,
    "test_backend_nesting_level[name context=<class 'joblib.parallel.parallel_backend'> inner_backend=BACKEND "
    "outer_backend=loky": _NO_IMPORT,
}

#: Files of joblib's tests that make `Parallel` calls, of which some name no backend.
MODULES = ("parallel", "config", "memory", "store_backends", "func_inspect", "memmapping", "backports")

#: Items that fail with `flash` as default, likewise.
NOT_AS_DEFAULT = {
    "test_parallel::test_effective_n_jobs_None": "asserts that one job runs where nobody says how many; all workers do",
    "test_parallel::test_backend_hinting_and_constraints": "asserts that the default is LokyBackend",
    "test_config::test_parallel_config_no_backend": "asserts that the default is LokyBackend",
    "test_config::test_parallel_config_params_explicit_set": "asserts that the default is LokyBackend",
}

#: An item that is expected to fail by joblib's authors, and does, is as good as one that passes.
GOOD = ("passed", "xfailed")


#: joblib of this environment, and the oldest and the last of the minor versions before it, each in one of its own.
VERSIONS = ("", "1.4.0", "1.5.3")

#: What such an environment holds beside joblib, in the versions of this one: what we need, NumPy, and the runner.
PACKAGES = (
    *(
        "pluggy",
        "cloudpickle",
        "xxhash",
        "aiohttp",
        "runpod",
        "starlette",
        "uvicorn",
        "httptools",
        "uvloop",
    ),
    *("numpy", "threadpoolctl", "pytest", "pytest-timeout"),
)


def python_with(version: str) -> str:
    """Return an interpreter that has this joblib; ours comes by PYTHONPATH."""
    if not version:
        return sys.executable
    return str(require(f"joblib=={version}", *(f"{name}=={metadata.version(name)}" for name in PACKAGES)).python)


def run_upstream(python: str, backend: str, folder: Path, *, is_default: bool = False) -> dict[str, dict[str, str]]:
    """Run joblib's items for `backend` in a process of their own and return their outcomes by stable name."""
    outcomes = folder / f"{backend}.json"
    modules = [f"joblib.test.test_{name}" for name in (MODULES if is_default else MODULES[:1])]
    command = [python, "-m", "pytest", "--pyargs", *modules, "-p", "upstream"]
    options = ["-c", os.devnull, f"--rootdir={folder}", "-p", "no:cacheprovider", "--timeout=60", "-q", "--tb=no"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(TESTS), str(TESTS.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
        ).rstrip(os.pathsep),
        "UPSTREAM_BACKEND": backend,
        "UPSTREAM_AS": "default" if is_default else "named",
        "UPSTREAM_OUTCOMES": str(outcomes),
    }
    done = subprocess.run(
        command + options, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert outcomes.exists(), done.stdout + done.stderr
    return cast("dict[str, dict[str, str]]", json.loads(outcomes.read_text()))


def check(
    flash: dict[str, dict[str, str]], loky: dict[str, dict[str, str]], listed: dict[str, str], *, version: str
) -> None:
    """Assert that flash passes what loky passes, but for what is listed; the newest joblib needs all of that."""
    passed = {name for name, item in flash.items() if item["outcome"] in GOOD}
    skipped = {name for name, item in flash.items() if item["outcome"] == "skipped"}
    beyond_loky = {name for name, item in loky.items() if item["outcome"] not in GOOD}
    failed = flash.keys() - passed - beyond_loky
    print(
        f"\njoblib {version or metadata.version('joblib')}: flash passes {len(passed)} of {len(flash)} and "
        f"skips {len(skipped)}, loky passes {len(loky) - len(beyond_loky)} of {len(loky)}"
    )
    assert not {name: flash[name]["reason"] for name in failed if not name.startswith(tuple(listed))}
    unneeded = [start for start in listed if not any(name.startswith(start) for name in failed)]
    assert version or not unneeded, "these pass now: take them off the list"


@pytest.mark.conformance
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version or "newest")
def test_flash_passes_what_loky_passes_of_joblibs_own_tests(version: str, tmp_path: Path) -> None:
    python = python_with(version)
    flash, loky = (run_upstream(python, backend, tmp_path) for backend in ("flash", "loky"))
    assert len(flash) > 140, "the harness finds joblib's items no more"
    check(flash, loky, NOT_OURS, version=version)


@pytest.mark.conformance
@pytest.mark.timeout(1200)
def test_flash_as_default_passes_what_loky_passes(tmp_path: Path) -> None:
    flash, loky = (run_upstream(sys.executable, backend, tmp_path, is_default=True) for backend in ("flash", "loky"))
    assert len(flash) > 300, "the harness finds joblib's items no more"
    assert flash.keys() == loky.keys()
    check(flash, loky, NOT_AS_DEFAULT, version="")
