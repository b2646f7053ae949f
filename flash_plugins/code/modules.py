# SPDX-License-Identifier: Apache-2.0
"""Whether a module is the user's own, and where its source is. Never imports or executes one.

The answer decides how its functions and classes are pickled, see `ModuleKind`.
"""

from __future__ import annotations

import enum
import functools
import importlib.machinery
import logging
import os
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = [
    "ModuleKind",
    "Source",
    "find_source",
    "forget_kinds",
    "is_local_module",
    "local_source",
    "module_kind",
]

_log = logging.getLogger(__name__)

#: Top-level packages of our own distributions: a worker always has them.
OWN_PACKAGES = frozenset({"flash_plugins", "flash_joblib", "flash_ray", "flash_fastapi"})

#: The script itself, and its name in a process that multiprocessing spawned.
_MAIN_NAMES = frozenset({"__main__", "__mp_main__"})

#: Folder names under which pip and the distributions install.
_INSTALL_FOLDERS = frozenset({"site-packages", "dist-packages"})

#: Origins of modules that are part of the interpreter itself.
_INTERPRETER_ORIGINS = frozenset({"built-in", "frozen"})


class ModuleKind(enum.Enum):
    """How the functions and classes of a module travel."""

    #: Standard library, site-packages, our own: by reference, the worker has it.
    INSTALLED = "installed"
    #: A source file that a worker can import by the same name: by reference, and the source goes along.
    LOCAL = "local"
    #: No name under which a worker could import it (script, notebook, test, made at run time): by value.
    UNREACHABLE = "unreachable"
    #: A compiled extension beside the user's sources: cannot travel.
    COMPILED = "compiled"


@dataclass(frozen=True, slots=True)
class Source:
    """Where one module is on this machine.

    Attributes:
        name: Its full dotted name.
        file: Its file; None for a namespace package.
        directories: Where its submodules are searched; empty unless it is a package.
    """

    name: str
    file: str | None
    directories: tuple[str, ...] = ()


_kinds: dict[str, tuple[object, ModuleKind]] = {}


def is_local_module(name: str) -> bool:
    """Whether `name` is a module of the user's own whose source travels with the call."""
    return module_kind(name) is ModuleKind.LOCAL


def module_kind(name: str) -> ModuleKind:
    """How what is defined in module `name` travels; remembered until another module has that name."""
    module = sys.modules.get(name)
    known = _kinds.get(name)
    if known is not None and known[0] is module:
        return known[1]
    kind = _classify(name, module)
    _kinds[name] = (module, kind)
    return kind


def forget_kinds() -> None:
    """Classify every module anew, because sys.path has changed."""
    _kinds.clear()


def local_source(name: str) -> Source | None:
    """Where the source of a local module is; None if the module is of another kind."""
    if module_kind(name) is not ModuleKind.LOCAL:
        return None
    loaded = sys.modules.get(name)
    if isinstance(loaded, types.ModuleType):
        return _loaded_source(name, loaded)
    return find_source(name)


def _classify(name: str, module: object) -> ModuleKind:
    if name in _MAIN_NAMES:
        return ModuleKind.UNREACHABLE
    top = name.partition(".")[0]
    if top in OWN_PACKAGES or name in sys.builtin_module_names:
        return ModuleKind.INSTALLED
    if not isinstance(module, types.ModuleType):
        found = find_source(name)
        return ModuleKind.INSTALLED if found is None else _classify_source(found)
    source = _loaded_source(name, module)
    if source is None:
        return _classify_without_source(name, module)
    kind = _classify_source(source)
    if kind is ModuleKind.LOCAL and not _is_importable_by_name(source, module):
        return ModuleKind.UNREACHABLE
    return kind


def _classify_source(source: Source) -> ModuleKind:
    if source.file is None:
        local = any(not _is_installed(folder) for folder in source.directories)
        return ModuleKind.LOCAL if local else ModuleKind.INSTALLED
    if _is_installed(source.file) or _is_second_copy(source.name.partition(".")[0]):
        return ModuleKind.INSTALLED
    if "." in source.name or source.directories:
        top = source.name.partition(".")[0]
        if _has_compiled_parts(top):
            return ModuleKind.INSTALLED
    if source.file.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
        return ModuleKind.COMPILED
    is_text = source.file.endswith(".py") and os.path.isfile(source.file)
    return ModuleKind.LOCAL if is_text else ModuleKind.UNREACHABLE


def _classify_without_source(name: str, module: types.ModuleType) -> ModuleKind:
    spec = vars(module).get("__spec__")
    if getattr(spec, "origin", None) in _INTERPRETER_ORIGINS:
        return ModuleKind.INSTALLED
    top = name.partition(".")[0]
    if top != name and module_kind(top) is ModuleKind.INSTALLED:
        return ModuleKind.INSTALLED  # six.moves and its like: made by a package that is installed
    return ModuleKind.UNREACHABLE


def _loaded_source(name: str, module: types.ModuleType) -> Source | None:
    # vars(), not getattr(): a lazy module would start to import itself.
    namespace = vars(module)
    spec = namespace.get("__spec__")
    if getattr(spec, "origin", None) in _INTERPRETER_ORIGINS:
        return None
    file = namespace.get("__file__")
    search = namespace.get("__path__")
    if not isinstance(file, str):
        file = None
    if file is None and search is None:
        return None
    return Source(name, file and os.path.abspath(file), package_folders(search))


def find_source(name: str) -> Source | None:
    """Where `name` would be imported from; None if nowhere. Executes neither it nor its parents."""
    parent = name.rpartition(".")[0]
    folders: list[str] | None = None
    if parent:
        loaded = sys.modules.get(parent)
        if isinstance(loaded, types.ModuleType) and "__path__" in vars(loaded):
            folders = list(package_folders(vars(loaded)["__path__"]))
        else:
            found = find_source(parent)
            folders = list(found.directories) if found else []
        if not folders:
            return None
    for finder in _finders():
        try:
            spec = finder.find_spec(name, folders)
        except (ImportError, AttributeError, ValueError, OSError, KeyError, TypeError) as error:
            _log.debug("%r cannot look for module %s: %s", finder, name, error)
            continue
        if spec is not None:
            break
    else:
        return None
    if spec.origin in _INTERPRETER_ORIGINS:
        return None
    file = os.path.abspath(spec.origin) if spec.has_location and spec.origin else None
    search = package_folders(spec.submodule_search_locations)
    return Source(name, file, search) if file or search else None


def _finders() -> Iterator[type[importlib.machinery.PathFinder]]:
    yield importlib.machinery.PathFinder
    for finder in sys.meta_path:
        # Editable installs put finders of their own here. pytest's is no help: it finds what PathFinder does.
        owner = getattr(finder, "__module__", "") or ""
        top = owner.partition(".")[0]
        if top not in {"_frozen_importlib", "_frozen_importlib_external", "_pytest", "_distutils_hack"}:
            yield finder  # type: ignore[misc]


def package_folders(search: object) -> tuple[str, ...]:
    """The folders in the `__path__` of a package, absolute; none for None."""
    # A namespace package that is not imported recomputes its path from parents that are not there.
    raw = getattr(search, "_path", search)
    if not isinstance(raw, (list, tuple)):
        raw = list(raw) if isinstance(raw, Iterable) else ()
    return tuple(os.path.abspath(folder) for folder in raw if isinstance(folder, str))


def _is_importable_by_name(source: Source, module: types.ModuleType) -> bool:
    loader = vars(module).get("__loader__")
    if type(loader).__module__.startswith("_pytest."):
        # A worker would have to import pytest and all that the test module imports for one function of it.
        return False
    found = find_source(source.name)
    if found is None:
        return False
    if source.file is None or found.file is None:
        return source.file is found.file
    return os.path.realpath(found.file) == os.path.realpath(source.file)


@functools.cache
def _has_compiled_parts(top: str) -> bool:
    """Whether a local package holds compiled extensions: then the worker must have it installed.

    Without its compiled parts it could not be imported there, and would hide a complete one that is.
    """
    source = find_source(top)
    if source is None or source.file is None:
        return False
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    for folder in source.directories:
        for parent, _, files in os.walk(folder):
            for file in files:
                if file.endswith(suffixes):
                    path = os.path.join(parent, file)
                    _log.warning(
                        "package %s does not travel: %s is compiled; it must be installed on the worker",
                        top,
                        path,
                    )
                    return True
    return False


@functools.cache
def _is_second_copy(top: str) -> bool:
    """Whether a local package or module is another copy of one that is installed, such as a checkout of joblib.

    A worker that has imported the installed one (we, or what we need, may have) would hold both, with two of
    each class. A module of one's own that only happens to have the name of an installed one travels.
    """
    if top in sys.stdlib_module_names:
        return False
    local = find_source(top)
    folders = [folder for folder in sys.path if folder and _is_installed(os.path.join(os.path.abspath(folder), ""))]
    installed = importlib.machinery.PathFinder.find_spec(top, folders)
    if local is None or local.file is None or installed is None or not installed.origin:
        return False
    parts = _parts_of(package_folders(installed.submodule_search_locations))
    if parts:
        is_copy = len(parts & _parts_of(local.directories)) >= len(parts) / 2
    else:
        is_copy = not local.directories and _is_distribution(top)
    if is_copy:
        _log.warning(
            "%s does not travel, because it is installed too (%s) and workers would hold two copies of it; they "
            "import theirs: on the local platform the one that PYTHONPATH puts first, on Runpod what is installed "
            "there. Remove one of the two if this is not what you want",
            local.file,
            installed.origin,
        )
    return is_copy


def _parts_of(folders: Iterable[str]) -> set[str]:
    """Names of the modules and packages right inside a package."""
    parts: set[str] = set()
    for folder in folders:
        for entry in os.scandir(folder) if os.path.isdir(folder) else ():
            if entry.name.endswith(".py"):
                parts.add(entry.name.removesuffix(".py"))
            elif os.path.isfile(os.path.join(entry.path, "__init__.py")):
                parts.add(entry.name)
    return parts - {"__init__"}


def _is_distribution(name: str) -> bool:
    from importlib import metadata  # here: 15 ms, and hardly ever needed

    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _is_installed(path: str) -> bool:
    return path.startswith(_standard_library()) or not _INSTALL_FOLDERS.isdisjoint(path.split(os.sep))


@functools.cache
def _standard_library() -> tuple[str, ...]:
    folder = os.path.dirname(os.__file__)
    return (folder + os.sep, os.path.realpath(folder) + os.sep)
