# SPDX-License-Identifier: Apache-2.0
"""joblib's own shipped `test_parallel.py`: what loky passes, `flash` passes, but for what is listed here.

Run with `-m conformance`. The items are those that name a backend; see `upstream.py` for how they are found.
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

#: Items that `flash` does not pass, by the beginning of their name: about pools on this machine, each with why.
NOT_OURS = {
    "test_auto_memmap_on_arrays_from_generator": "asserts that tasks get an np.memmap of a file on this machine",
    "test_memmapping_leaks": "asserts on files in joblib's temporary folder for memory maps",
    "test_dispatch_multiprocessing": "talks to a multiprocessing.Manager, which only child processes may do",
    "test_initializer_context": "talks to a multiprocessing.Manager, which only child processes may do",
    "test_initializer_parallel": "talks to a multiprocessing.Manager, which only child processes may do",
    "test_nested_loop[name child_backend=BACKEND parent_backend=loky": "loky's children never imported flash_joblib",
    "test_backend_nesting_level[name context=<class 'joblib.parallel.parallel_config'> inner_backend=BACKEND "
    "outer_backend=loky": "loky's children never imported flash_joblib",
    "test_backend_nesting_level[name context=<class 'joblib.parallel.parallel_backend'> inner_backend=BACKEND "
    "outer_backend=loky": "loky's children never imported flash_joblib",
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
        "httpx",
        "httpx-aiohttp",
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


def run_upstream(python: str, backend: str, folder: Path) -> dict[str, dict[str, str]]:
    """Run joblib's items for `backend` in a process of their own and return their outcomes by stable name."""
    outcomes = folder / f"{backend}.json"
    command = [python, "-m", "pytest", "--pyargs", "joblib.test.test_parallel", "-p", "upstream"]
    options = ["-c", os.devnull, f"--rootdir={folder}", "-p", "no:cacheprovider", "--timeout=60", "-q", "--tb=no"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(TESTS), str(TESTS.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
        ).rstrip(os.pathsep),
        "UPSTREAM_BACKEND": backend,
        "UPSTREAM_OUTCOMES": str(outcomes),
    }
    done = subprocess.run(
        command + options, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert outcomes.exists(), done.stdout + done.stderr
    return cast("dict[str, dict[str, str]]", json.loads(outcomes.read_text()))


@pytest.mark.conformance
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version or "newest")
def test_flash_passes_what_loky_passes_of_joblibs_own_tests(version: str, tmp_path: Path) -> None:
    python = python_with(version)
    flash = run_upstream(python, "flash", tmp_path)
    loky = run_upstream(python, "loky", tmp_path)
    passed = {name for name, item in flash.items() if item["outcome"] in GOOD}
    beyond_loky = {name for name, item in loky.items() if item["outcome"] not in GOOD}
    failed = flash.keys() - passed - beyond_loky
    print(
        f"\njoblib {version or metadata.version('joblib')}, items that name a backend: "
        f"flash passes {len(passed)} of {len(flash)}, loky {len(loky) - len(beyond_loky)} of {len(loky)}"
    )
    assert len(flash) > 140, "the harness finds joblib's items no more"
    assert not {name: flash[name]["reason"] for name in failed if not name.startswith(tuple(NOT_OURS))}
    unneeded = [start for start in NOT_OURS if not any(name.startswith(start) for name in failed)]
    assert version or not unneeded, "these pass now: take them off the list"


@pytest.mark.conformance
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", VERSIONS[1:])
def test_cached_functions_use_the_callers_cache_in_older_versions_too(version: str) -> None:
    command = [python_with(version), "-m", "pytest", "-q", "-c", os.devnull, f"--rootdir={ROOT}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(ROOT)])}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(TESTS / "test_joblib_memory.py")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
