# SPDX-License-Identifier: Apache-2.0
"""What a worker has to install, as variables of its endpoint. It installs nothing."""

from __future__ import annotations

import importlib.metadata
import json

from ..config import EndpointConfig
from . import api

__all__ = ["ADAPTER_GROUP", "installation_env", "worker_packages"]

#: Entry-point group by which a distribution says that workers need it too; each name is an import package of it.
ADAPTER_GROUP = "flash_plugins.adapters"


def worker_packages(config: EndpointConfig, *, is_balanced: bool = False) -> str:
    """Return what `pip install` is given: this package and the adapters in use, in the versions here.

    Args:
        config: The endpoint; where it has dependencies, uv comes along to install those.
        is_balanced: Whether its workers serve routes.
    """
    extras = "worker,http" if is_balanced else "worker"
    try:
        wanted = [f"flash-plugins[{extras}]=={importlib.metadata.version('flash-plugins')}"]
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that was never installed
        wanted = [f"flash-plugins[{extras}]"]
    for entry in importlib.metadata.entry_points(group=ADAPTER_GROUP):
        if entry.name in config.packages and entry.dist is not None:
            wanted.append(f"{entry.dist.name}=={entry.dist.version}")
    if config.dependencies and config.accelerate_downloads:
        wanted.append("uv")
    return " ".join(sorted(set(wanted)))


def installation_env(config: EndpointConfig) -> dict[str, str]:
    """Return the variables that tell workers what to install before they serve; none where that is nothing."""
    env = {}
    if config.dependencies:
        env[api.DEPENDENCIES_ENV] = json.dumps(config.dependencies)
    if config.system_dependencies:
        env[api.SYSTEM_DEPENDENCIES_ENV] = json.dumps(config.system_dependencies)
    if env and api.INIT_TIMEOUT_ENV not in config.env:
        env[api.INIT_TIMEOUT_ENV] = f"{api.WORKER_INSTALL_TIMEOUT_S:.0f}"
    if not config.accelerate_downloads:
        env[api.ACCELERATE_ENV] = "0"
    return env
