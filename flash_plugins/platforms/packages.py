# SPDX-License-Identifier: Apache-2.0
"""What a worker in a stock image has to install. It installs nothing."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection

__all__ = ["ADAPTER_GROUP", "worker_packages"]

#: Entry-point group by which a distribution says that workers need it too; each name is an import package of it.
ADAPTER_GROUP = "flash_plugins.adapters"


def worker_packages(packages: Collection[str]) -> str:
    """Return what `pip install` is given: this package and the adapters among `packages`, in the versions here."""
    try:
        wanted = [f"flash-plugins[worker]=={importlib.metadata.version('flash-plugins')}"]
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that was never installed
        wanted = ["flash-plugins[worker]"]
    for entry in importlib.metadata.entry_points(group=ADAPTER_GROUP):
        if entry.name in packages and entry.dist is not None:
            wanted.append(f"{entry.dist.name}=={entry.dist.version}")
    return " ".join(sorted(set(wanted)))
