# SPDX-License-Identifier: Apache-2.0
"""Makes the endpoint's dependencies importable before a worker serves: `enter()`. It never serves anything.

    python -m flash_plugins.worker ── what does the endpoint ask for? ── nothing: go on
                                          │
                                          ▼ an environment over this interpreter: cached, or built now
    the same command, with the environment's python ◄── exec

Environments are kept under `$XDG_CACHE_HOME/flash-plugins/environments` (default `~/.cache`), on Runpod thus on the
container's own disk: a network volume takes longer for ten thousand small files than downloading them again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from ..platforms import api

__all__ = ["cache_root", "enter", "temporary_root"]

logger = logging.getLogger(__name__)

#: Variable that a worker sets for what it becomes: the environment it has entered.
ENTERED_ENV = "FLASH_PLUGINS_ENVIRONMENT"
#: Seconds before the platform's own limit for the start of a worker at which an installation is given up.
_MARGIN_S = 30.0
#: What to do about an installation that failed.
_REMEDY = (
    "correct `dependencies` or `system_dependencies` of the endpoint, or give its workers what the lines above ask "
    "for; a (constraint) in them is what the worker itself needs"
)
#: Faster downloads from the Hugging Face hub: switch, and the package without which it is an error.
_FAST_HUB = {"HF_XET_HIGH_PERFORMANCE": "hf_xet", "HF_HUB_ENABLE_HF_TRANSFER": "hf_transfer"}


def enter() -> str | None:
    """Install what the endpoint asks for and become the worker that has it.

    Returns:
        None where this process is that worker; else why nothing could be installed, in the words of the installer.
    """
    wanted, system = _listed(api.DEPENDENCIES_ENV), _listed(api.SYSTEM_DEPENDENCIES_ENV)
    if api.EXECUTABLE_ENV in os.environ:
        system = []  # this is somebody's own machine, and its caller is told
    reason = None
    if (wanted or system) and os.environ.get(ENTERED_ENV) != sys.prefix:
        reason = _installed(wanted, system)
    _hasten_downloads()
    return reason


def _installed(wanted: list[str], system: list[str]) -> str | None:
    """Install, and become the worker that has it; returns why that cannot be, None if there is nothing to become."""
    from . import base  # here: most workers install nothing, and start 30 ms sooner
    from .installer import InstallFailed
    from .overlays import BuildTimeout
    from .system_packages import install_system_packages

    started_at = time.monotonic()
    limit_s = float(os.environ.get(api.INIT_TIMEOUT_ENV, api.WORKER_INIT_TIMEOUT_S))
    deadline = started_at + max(_MARGIN_S, limit_s - _MARGIN_S)
    missing = system
    try:
        install_system_packages(system, deadline=deadline)
        missing = wanted
        if not all(map(base.has, wanted)):
            folder = _provided(wanted, deadline)
            logger.info("dependencies are ready after %.1f s in %s", time.monotonic() - started_at, folder)
            _become(folder)
    except (InstallFailed, BuildTimeout, OSError) as error:
        logger.error("%s: %s", api.DEPENDENCIES_FAILED_LOG, error)
        return f"{api.DEPENDENCIES_FAILED_PREFIX}{', '.join(missing)}: {error}\n{_REMEDY}"
    return None


def _become(folder: Path) -> NoReturn:
    """Run the command of this process again, with the python of the environment."""
    python = folder / "bin" / "python"
    path = os.pathsep.join(filter(None, [str(python.parent), os.environ.get("PATH")]))
    environment = {**os.environ, ENTERED_ENV: str(folder), "VIRTUAL_ENV": str(folder), "PATH": path}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(python, [str(python), *sys.orig_argv[1:]], environment)


def cache_root() -> Path:
    """Return the folder of all environments: in the user's cache, or where only temporary files can be written."""
    base_folder = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    root = Path(base_folder, "flash-plugins", "environments")
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        logger.debug("%s cannot be made: %s", root, error)
    if os.access(root, os.W_OK | os.X_OK):
        return root
    return temporary_root()


def temporary_root() -> Path:
    """Return the folder of environments that may vanish with the next start of the machine."""
    return Path(tempfile.gettempdir(), f"flash-plugins-{os.getuid()}", "environments")


def _provided(wanted: list[str], deadline: float) -> Path:
    from . import base
    from .installer import build
    from .overlays import provide

    is_http = os.environ.get(api.HANDLER_ENV) in (api.HANDLER_HTTP, api.HANDLER_CALLS)
    is_accelerated = os.environ.get(api.ACCELERATE_ENV) != "0"
    # What the environment leaves to the base is part of what it is: packages removed there would be missing.
    place = [sys.version, sysconfig.get_platform(), sys.prefix, base.folders(), base.listing()]
    key = hashlib.sha256(json.dumps([wanted, is_http, place]).encode()).hexdigest()[:24]

    def fill(folder: Path, final: Path) -> None:
        logger.info("installing %s", ", ".join(wanted))
        extras = "worker,http" if is_http else "worker"
        build(wanted, folder, final, extras=extras, accelerate=is_accelerated, deadline=deadline)

    root = cache_root()
    try:
        return provide(root, key, fill, deadline=deadline)
    except OSError as error:  # a full quota, or a network file system without locks
        if root == temporary_root():
            raise
        logger.warning("environments cannot be kept in %s (%s), so this one is temporary", root, error)
        return provide(temporary_root(), key, fill, deadline=deadline)


def _listed(variable: str) -> list[str]:
    text = os.environ.get(variable)
    return [str(entry) for entry in json.loads(text)] if text else []


def _hasten_downloads() -> None:
    """Switch on what makes downloads from the Hugging Face hub faster, where the packages for it are there."""
    if os.environ.get(api.ACCELERATE_ENV) == "0":
        return
    for switch, package in _FAST_HUB.items():
        if importlib.util.find_spec(package) is not None:
            os.environ.setdefault(switch, "1")
