# SPDX-License-Identifier: Apache-2.0
"""Debian packages that an endpoint asks for, installed in the worker's container. Never on somebody's own machine."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Sequence

from .installer import InstallFailed, run_installer

__all__ = ["install_system_packages"]

logger = logging.getLogger(__name__)

#: Seconds for the question what is installed.
_QUERY_TIMEOUT_S = 30.0


def install_system_packages(names: Sequence[str], *, deadline: float) -> None:
    """Install what is not there yet.

    Args:
        names: As `apt-get install` takes them; the caller has checked that none is an option.
        deadline: `time.monotonic()` at which to give up.

    Raises:
        InstallFailed: The image has no `apt-get`, this process may not use it, or it failed.
    """
    missing = [name for name in names if not _is_installed(name)]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise InstallFailed("the worker's image has no apt-get, so it is none of Debian or Ubuntu: use one that is")
    if os.geteuid() != 0:
        raise InstallFailed(
            f"apt-get takes root, and this worker runs as user {os.geteuid()}: use an image that has them"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    quietly = ("apt-get", "-qq", "-o", "Acquire::Retries=3")
    logger.info("installing %s", ", ".join(missing))
    run_installer([*quietly, "update"], deadline, what="apt-get update", environment=environment)
    command = [*quietly, "install", "--yes", "--no-install-recommends", *missing]
    run_installer(command, deadline, what="apt-get install", environment=environment)


def _is_installed(name: str) -> bool:
    """Return whether a package is there in any version; one of a certain version is left to `apt-get`."""
    if "=" in name or shutil.which("dpkg-query") is None:
        return False
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}\n", name]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0 and "installed" in asked.stdout.split()
