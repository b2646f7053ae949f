# SPDX-License-Identifier: Apache-2.0
"""Virtual environments that hold one official package each. It installs; it never runs what it installed.

An environment lives in `.cache/envs/<name-version>-<hash>`, keyed by its requirements and this Python.
Whoever asks first builds it while holding a lock file beside it; everybody else waits and finds it ready:

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

#: Kept between runs and left out of version control.
CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "envs"

#: Seconds for one installation; the largest (runpod-flash) takes about half a minute with nothing cached.
INSTALL_TIMEOUT_S: Final = 600.0

#: Written last: a folder without it was left by a build that was interrupted.
COMPLETE_MARK: Final = "complete"


class EnvironmentUnavailable(Exception):
    """The packages could not be installed: no registry in reach, or a package is gone."""


@dataclass(frozen=True, slots=True)
class Environment:
    """One ready virtual environment."""

    name: str
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter, absolute and not resolved (a resolved link would leave the environment)."""
        return self.folder / "bin" / "python"


def provide(requirements: Sequence[str], *, cache: Path = CACHE) -> Environment:
    """Return the environment of `requirements`, building it when this machine has none yet.

    Blocks while another process builds the same one.

    Args:
        requirements: Pinned, such as `runpod==1.12.0`; the first one names the environment.
        cache: Folder of all environments.

    Raises:
        EnvironmentUnavailable: The installer failed; its last lines are the message.
    """
    name = requirements[0].replace("==", "-")
    key = hashlib.sha256("\n".join([sys.version, *sorted(requirements)]).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{folder.name}.lock"):
        if not (folder / COMPLETE_MARK).exists():
            _build(folder, requirements)
    return Environment(name, folder)


def require(requirement: str, *more: str) -> Environment:
    """Return the environment of one package, and what it needs; without it skip the test here, and fail it in CI.

    `CI` is the variable by which continuous integration services make themselves known.
    """
    try:
        return provide([requirement, *more])
    except EnvironmentUnavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"{requirement} cannot be installed: {error}", pytrace=False)
        pytest.skip(f"{requirement} cannot be installed here: {error}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The kernel drops the lock with its holder, so a killed test run blocks nobody.
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(folder: Path, requirements: Sequence[str]) -> None:
    uv = _find_uv()
    try:
        if uv is None:
            _build_with_pip(folder, requirements)
        else:
            _build_with_uv(uv, folder, requirements)
    except EnvironmentUnavailable:
        if uv is None:
            raise
        # pip has a configuration of its own and may reach a registry that uv does not know of.
        _build_with_pip(folder, requirements)
    (folder / COMPLETE_MARK).touch()


def _build_with_uv(uv: str, folder: Path, requirements: Sequence[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _install([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    _install([uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *requirements])


def _build_with_pip(folder: Path, requirements: Sequence[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _install([sys.executable, "-m", "venv", str(folder)])
    _install([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements])


def _find_uv() -> str | None:
    beside_python = Path(sys.executable).with_name("uv")
    return str(beside_python) if beside_python.exists() else shutil.which("uv")


def _install(command: Sequence[str]) -> None:
    env = dict(os.environ)
    if index := env.get("PIP_INDEX_URL"):
        env.setdefault("UV_DEFAULT_INDEX", index)
    if certificates := env.get("PIP_CERT"):
        env.setdefault("SSL_CERT_FILE", certificates)
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EnvironmentUnavailable(f"{command[:3]} took more than {INSTALL_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise EnvironmentUnavailable(f"{list(command)} failed:\n{done.stderr[-2000:]}")
