# SPDX-License-Identifier: Apache-2.0
"""Virtual environments of the peers, one each, kept in `.cache/envs`. It installs; it never runs what it installed.

process A ── lock ── build ── mark complete ── unlock
process B ── lock (waits) ─────────────────────┴── complete → use it
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["ROOT", "EnvironmentUnavailable", "provide"]

#: The checkout.
ROOT: Final = Path(__file__).resolve().parent.parent

#: Kept between runs and left out of version control.
CACHE: Final = ROOT / ".cache" / "envs"

#: Seconds for one installation; Ray is the largest.
INSTALL_TIMEOUT_S: Final = 900.0

#: Written last: a folder without it was left by a build that was interrupted.
COMPLETE_MARK: Final = "complete"


class EnvironmentUnavailable(Exception):
    """The packages could not be installed: no registry in reach, or a package is gone."""


def provide(requirements: Sequence[str]) -> Path:
    """Return the python of an environment that holds `requirements`, building it when there is none yet.

    Args:
        requirements: Pinned, such as `ray==2.60.0`; the first one names the environment.

    Raises:
        EnvironmentUnavailable: The installer failed; its last lines are the message.
    """
    key = hashlib.sha256("\n".join([sys.version, *sorted(requirements)]).encode()).hexdigest()[:12]
    folder = CACHE / f"{requirements[0].replace('==', '-')}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    # The kernel drops the lock with its holder, so a killed run blocks nobody.
    with (CACHE / f"{folder.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / COMPLETE_MARK).exists():
            print(f"installing {' '.join(requirements)}", file=sys.stderr)
            _build(folder, requirements)
    return folder / "bin" / "python"


def _build(folder: Path, requirements: Sequence[str]) -> None:
    uv = Path(sys.executable).with_name("uv")
    python = str(folder / "bin" / "python")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        _install([str(uv), "venv", "--quiet", "--python", sys.executable, str(folder)])
        _install([str(uv), "pip", "install", "--quiet", "--python", python, *requirements])
    except (OSError, EnvironmentUnavailable):
        # pip has a configuration of its own and may reach a registry that uv does not know of.
        shutil.rmtree(folder, ignore_errors=True)
        _install([sys.executable, "-m", "venv", str(folder)])
        _install([python, "-m", "pip", "install", "--quiet", *requirements])
    (folder / COMPLETE_MARK).touch()


def _install(command: Sequence[str]) -> None:
    env = {"UV_SYSTEM_CERTS": "1", **os.environ}
    if index := env.get("PIP_INDEX_URL"):
        env.setdefault("UV_DEFAULT_INDEX", index)
    if certificates := env.get("PIP_CERT"):
        env.setdefault("SSL_CERT_FILE", certificates)
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EnvironmentUnavailable(f"{command[:3]} took more than {INSTALL_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise EnvironmentUnavailable(f"{' '.join(command[:4])} failed: {done.stderr[-1000:]}")
