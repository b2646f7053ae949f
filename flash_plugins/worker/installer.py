# SPDX-License-Identifier: Apache-2.0
"""Builds one virtual environment over the interpreter that a worker was started with, with uv or pip.

The environment holds only what the base lacks or has in another version. A `.pth` file appends the base's own
folders to its path, so packages of the environment win and everything else is found in the base.

uv takes no notice of packages on such a path, so it is asked twice: to resolve, with the versions of the base as
its preferences, and to install of that what the base does not have (see `lacking`). pip sees the base by itself.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import base

__all__ = ["InstallFailed", "build", "lacking", "run_installer"]

logger = logging.getLogger(__name__)

#: Last lines of an installer that an error shows, without what only says where it looked. A conflict takes about ten,
#: and the local platform shows the last 20 lines of a worker's log.
_TAIL_LINES = 14
_NO_NEWS = ("Looking in ", "WARNING: Location ", "Requirement already satisfied")
#: The file that leads from the environment to the base.
_PTH = "_flash_plugins_base.pth"
#: Variables that would lead an installer elsewhere than into the environment.
_NOT_FOR_PIP = frozenset({"PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV"})
_NOT_FOR_UV = frozenset({"PYTHONPATH", "VIRTUAL_ENV", "UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_TARGET", "UV_PREFIX"})
#: Settings of pip that uv knows by other names.
_PIP_SETTINGS_OF_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}


class InstallFailed(Exception):
    """The installer refused, failed or took too long; the message ends with its own last lines."""


def build(
    requirements: Sequence[str], folder: Path, final: Path, *, extras: str, accelerate: bool, deadline: float
) -> None:
    """Make an environment in the empty `folder` that will be renamed to `final`.

    Args:
        requirements: As pip takes them.
        folder: Where to build.
        final: What the scripts of the environment are told to be in.
        extras: Extras of flash-plugins that the worker needs.
        accelerate: Use uv where there is one.
        deadline: `time.monotonic()` at which to give up.

    Raises:
        InstallFailed: It could not be built.
    """
    venv.EnvBuilder(symlinks=True).create(folder)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    lines = [f"import site; site.addsitedir({path!r})" for path in base.folders()]
    (site_packages / _PTH).write_text("\n".join(lines) + "\n")
    with tempfile.TemporaryDirectory(prefix="install-") as scratch:
        limits = Path(scratch, "limits.txt")
        limits.write_text("\n".join(base.limits(extras)) + "\n")
        uv, has_pip = _find_uv(), importlib.util.find_spec("pip") is not None
        if uv is not None and (accelerate or not has_pip):
            try:
                _install_with_uv(uv, requirements, folder, Path(scratch), limits, deadline)
            except InstallFailed:
                if not has_pip:
                    raise
                # pip has a configuration of its own, and may reach a registry that uv does not know of.
                logger.info("uv cannot install that; trying pip")
                _install_with_pip(requirements, folder, limits, deadline)
        elif has_pip:
            _install_with_pip(requirements, folder, limits, deadline)
        else:
            raise InstallFailed(
                f"{sys.executable} has neither uv nor pip: add one of them to the worker's image or environment"
            )
    _check_worker(folder, is_http="http" in extras.split(","), deadline=deadline)
    _correct_scripts(folder, final)


def run_installer(command: Sequence[str], deadline: float, *, what: str, environment: Mapping[str, str]) -> None:
    """Run an installer; its output goes to the worker's log as it comes.

    Args:
        command: Its command line.
        deadline: `time.monotonic()` at which it is killed.
        what: Names it in the error.
        environment: Its environment.

    Raises:
        InstallFailed: It did not end well, or not in time.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    started_at = time.monotonic()
    try:
        process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise InstallFailed(f"{command[0]} cannot be run: {error}") from error
    timer = threading.Timer(max(0.0, deadline - started_at), process.kill)
    timer.start()
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            sys.stderr.write(line)
            if line.strip() and not line.startswith(_NO_NEWS):
                tail.append(line.rstrip())
    has_timed_out = not timer.is_alive()
    timer.cancel()
    timer.join()
    if process.returncode == 0:
        return
    words = "\n".join(tail) or "it said nothing"
    if has_timed_out:
        words += f"\nand was stopped after {time.monotonic() - started_at:.0f} s"
    raise InstallFailed(f"{what} failed with exit code {process.returncode}:\n{words}")


def _install_with_uv(
    uv: str, requirements: Sequence[str], folder: Path, scratch: Path, limits: Path, deadline: float
) -> None:
    python = str(folder / "bin" / "python")
    here = base.installed()
    wanted, resolved, remaining = (scratch / name for name in ("wanted.txt", "resolved.txt", "remaining.txt"))
    wanted.write_text("\n".join(requirements) + "\n")
    # An output file that exists already holds the versions that uv prefers.
    resolved.write_text("".join(f"{name}=={version}\n" for name, version in here.items()))
    environment = _environment_of_uv()
    run_installer(
        [uv, "pip", "compile", "--quiet", "--no-header", "--annotation-style", "line", "--python", python,
         "--constraint", str(limits), "--output-file", str(resolved), str(wanted)],
        deadline, what="uv pip compile", environment=environment,
    )  # fmt: skip
    missing = lacking(resolved.read_text().splitlines(), here)
    if missing:
        remaining.write_text("\n".join(missing) + "\n")
        run_installer(
            [uv, "pip", "install", "--no-deps", "--no-progress", "--python", python, "--requirement", str(remaining)],
            deadline, what="uv pip install", environment=environment,
        )  # fmt: skip


def lacking(resolved: Sequence[str], here: Mapping[str, str]) -> list[str]:
    """Return of what was resolved what is to be installed over the base.

    Left out is what the base has in that version, and what only such packages need: as they are in the base they do
    without it. Torch for CPUs, for one, is resolved as the torch of that version that needs 3 GB of CUDA.

    Args:
        resolved: Lines of `uv pip compile` with annotations: `idna==3.6  # via anyio, -r wanted.txt`.
        here: Versions in the base, by normalised name.
    """
    lines = [line.partition("  # via ") for line in resolved if line.strip() and not line.startswith("#")]
    wanted = {requirement.strip(): via.split(", ") for requirement, _, via in lines}
    missing = [requirement for requirement in wanted if not _is_here(requirement, here)]
    needed: dict[str, str] = {}

    def is_needed(requirement: str) -> bool:
        name = _name_of(requirement)
        return any(
            parent.startswith("-r ") or parent in needed or (parent in here and base.needs_for_an_extra(parent, name))
            for parent in wanted[requirement]
        )

    while found := {_name_of(one): one for one in missing if _name_of(one) not in needed and is_needed(one)}:
        needed.update(found)
    return [requirement for requirement in missing if _name_of(requirement) in needed]


def _is_here(requirement: str, here: Mapping[str, str]) -> bool:
    name, _, version = requirement.partition("==")
    return bool(version) and here.get(name) == version.partition("+")[0]


def _name_of(requirement: str) -> str:
    return requirement.partition(" @ ")[0].partition("==")[0]


def _install_with_pip(requirements: Sequence[str], folder: Path, limits: Path, deadline: float) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_PIP}
    run_installer(
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input",
         "--progress-bar=off", "--root-user-action=ignore", "--constraint", str(limits), *requirements],
        deadline, what="pip install", environment={**environment, "PIP_USER": "0"},
    )  # fmt: skip


def _check_worker(folder: Path, *, is_http: bool, deadline: float) -> None:
    """Import what a worker is made of: packages that were installed over the base's may not get on with the rest."""
    modules = (
        "flash_plugins.worker.http, fastapi, uvicorn" if is_http else "flash_plugins.worker.queue, runpod.serverless"
    )
    command = [str(folder / "bin" / "python"), "-c", f"import {modules}"]
    try:
        run_installer(command, deadline, what=f"import of {modules}", environment=os.environ)
    except InstallFailed as error:
        raise InstallFailed(f"with these dependencies the worker itself cannot start: {error}") from error


def _find_uv() -> str | None:
    beside_python = Path(sys.executable).with_name("uv")
    return str(beside_python) if os.access(beside_python, os.X_OK) else shutil.which("uv")


def _environment_of_uv() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_UV}
    for theirs, ours in _PIP_SETTINGS_OF_UV.items():
        if theirs in environment:
            environment.setdefault(ours, environment[theirs])
    environment.setdefault("UV_SYSTEM_CERTS", "1")  # the certificates that pip trusts
    return environment


def _correct_scripts(folder: Path, final: Path) -> None:
    """Put the final path in place of the temporary one, which installers write into the first lines of scripts."""
    old, new = os.fsencode(folder), os.fsencode(final)
    for path in (folder / "bin").iterdir():
        if path.is_file() and not path.is_symlink() and old in (content := path.read_bytes()):
            path.write_bytes(content.replace(old, new))
