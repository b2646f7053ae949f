# SPDX-License-Identifier: Apache-2.0
"""Which installed distribution a module comes from, and in which version. Never imports a module for that.

It reads the names of the metadata folders beside the module, and their contents only where a module is called
otherwise than its distribution: 1 ms and 20 ms the first time, where `importlib.metadata` takes 60 ms to be imported
and 180 ms to map the modules of 150 distributions.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flash_plugins.code.modules import OWN_PACKAGES, Source, find_source, package_folders

__all__ = ["MACHINERY", "Distribution", "distribution_of", "distributions_of", "normalised", "stated"]

#: Names and version in the name of a metadata folder: `scikit_learn-1.5.1.dist-info`, `foo-1.0-py3.11.egg-info`.
_METADATA = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+?)(-py[\d.]+)?\.(dist|egg)-info")
#: What every pickle of a function refers to, used by us rather than by the function: workers have it anyway.
MACHINERY = frozenset({"cloudpickle"})
#: Levels of a namespace package that are looked through: `google.cloud.storage` is the third.
_NAMESPACE_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Distribution:
    """Something that was installed.

    Attributes:
        name: As registries normalise it: `scikit-learn`.
        version: Its version, with a local part such as `+cu128` if it has one.
        metadata: Its metadata folder on this machine.
    """

    name: str
    version: str
    metadata: str

    @property
    def pin(self) -> str:
        """The requirement of exactly this version, as a registry has it: without the local part."""
        return f"{self.name}=={self.version.partition('+')[0]}"

    def read(self, file: str) -> str | None:
        """Return the text of a metadata file, None if there is none."""
        try:
            with open(os.path.join(self.metadata, file), encoding="utf-8", errors="replace") as content:
                return content.read()
        except OSError:
            return None


def normalised(name: str) -> str:
    """Return the name of a distribution as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions_of(modules: Iterable[str]) -> dict[str, Distribution]:
    """Return the distributions of modules, by the package or module that they are imported by.

    The standard library, our own packages and what is not installed here are left out.
    """
    found = {}
    for name in modules:
        package = _package_of(name)
        if package is not None and package not in found:
            distribution = distribution_of(package)
            if distribution is not None:
                found[package] = distribution
    return found


@functools.lru_cache(maxsize=256)
def stated(modules: frozenset[str]) -> Mapping[str, str]:
    """Return what a call states of the modules that it uses: by package, the pin of its distribution."""
    return {package: distribution.pin for package, distribution in sorted(distributions_of(modules).items())}


def distribution_of(package: str) -> Distribution | None:
    """Return the distribution that a package or single module was installed by; None if it was not installed."""
    source = _source_of(package)
    if source is None:
        return None
    place = source.file or (source.directories[0] if source.directories else "")
    folder = os.path.dirname(place)
    if source.file is not None and source.directories:
        folder = os.path.dirname(folder)
    for _ in range(package.count(".")):
        folder = os.path.dirname(folder)
    return _found(folder, _stamp(folder), package)


def _package_of(module: str) -> str | None:
    """Return the part of a module's name that tells its distribution: the first level that is no namespace."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in OWN_PACKAGES:
        return None
    parts = module.split(".")
    for depth in range(1, min(len(parts), _NAMESPACE_DEPTH) + 1):
        name = ".".join(parts[:depth])
        source = _source_of(name)
        if source is None:
            return None
        if source.file is not None:
            return name
    return None


def _source_of(name: str) -> Source | None:
    loaded = sys.modules.get(name)
    if isinstance(loaded, types.ModuleType):
        namespace = vars(loaded)  # not getattr(): a lazy module would start to import itself
        file = namespace.get("__file__")
        return Source(name, file if isinstance(file, str) else None, package_folders(namespace.get("__path__")))
    return find_source(name)


def _stamp(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=1024)
def _found(folder: str, stamp: int, package: str) -> Distribution | None:
    listed = _listed(folder, stamp)
    same_name = listed.get(normalised(package))
    if same_name is not None and "." not in package:
        return same_name
    path = package.replace(".", "/")
    for distribution in listed.values():
        if _provides(distribution, package, path):
            return distribution
    return None


@functools.lru_cache(maxsize=64)
def _listed(folder: str, stamp: int) -> Mapping[str, Distribution]:
    """Return what is installed in a folder, by normalised name."""
    try:
        entries = os.listdir(folder)
    except OSError:
        return {}
    matches = [match for entry in entries if (match := _METADATA.fullmatch(entry))]
    return {
        normalised(match["name"]): Distribution(
            normalised(match["name"]), match["version"], os.path.join(folder, match[0])
        )
        for match in matches
    }


def _provides(distribution: Distribution, package: str, path: str) -> bool:
    tops = distribution.read("top_level.txt")
    if tops is not None and "." not in package:
        return package in tops.split()
    files = distribution.read("RECORD") or distribution.read("installed-files.txt") or ""
    return any(f"\n{start}" in f"\n{files}" for start in (f"{path}/", f"{path}.py", f"{path}.cpython", f"{path}.abi3"))
