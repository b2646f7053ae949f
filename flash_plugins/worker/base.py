# SPDX-License-Identifier: Apache-2.0
"""What the interpreter that a worker was started with already holds, and what the worker's code needs of that."""

from __future__ import annotations

import os
import site
from importlib import metadata

__all__ = ["folders", "has", "installed", "limits", "listing", "needs_for_an_extra"]


def folders() -> list[str]:
    """Return the folders that this interpreter's packages are installed in."""
    found = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    return [folder for folder in found if os.path.isdir(folder)]


def listing() -> list[str]:
    """Return what is installed as names of metadata folders, quickly: they change with every installation."""
    return sorted(
        name for folder in folders() for name in os.listdir(folder) if name.endswith((".dist-info", ".egg-info"))
    )


def installed() -> dict[str, str]:
    """Return versions by normalised name, without the local part (`+cu128`), which no index has."""
    from packaging.utils import canonicalize_name

    return {
        canonicalize_name(found.name): found.version.partition("+")[0]
        for found in metadata.distributions(path=folders())
        if found.name  # None for a damaged metadata folder
    }


def has(requirement: str) -> bool:
    """Return whether this interpreter meets a requirement, or need not: then there is nothing to install.

    What asks for extras, or for something at an address, is left to the installer.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(requirement)
    except InvalidRequirement:  # an address without a name
        return False
    if wanted.marker is not None and not wanted.marker.evaluate():
        return True
    if wanted.extras or wanted.url is not None:
        return False
    try:
        return wanted.specifier.contains(metadata.version(wanted.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def needs_for_an_extra(name: str, need: str) -> bool:
    """Return whether an installed distribution names `need` under one of its extras only."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        needs = [Requirement(text) for text in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        return False
    found = [one for one in needs if canonicalize_name(one.name) == need]
    return bool(found) and all(one.marker is not None and "extra" in str(one.marker) for one in found)


def limits(extras: str) -> list[str]:
    """Return the versions that the worker's own code accepts of what it imports, as lines of a constraints file.

    Args:
        extras: Extras of flash-plugins that this kind of worker needs, such as `worker`.
    """
    from packaging.requirements import Requirement

    try:
        texts = metadata.requires("flash-plugins") or []
    except metadata.PackageNotFoundError:  # a source tree that was never installed
        return []
    needs = [Requirement(text) for text in texts]
    return [
        f"{need.name}{need.specifier}"
        for need in needs
        if need.specifier
        and (need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras.split(",")))
    ]
