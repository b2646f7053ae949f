# SPDX-License-Identifier: Apache-2.0
"""Packs the sources of the user's own modules into one deterministic archive. Runs on the caller only."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from flash_plugins.code.imports import Stamp, imports_of_file, imports_of_main, stamp_of
from flash_plugins.code.modules import ModuleKind, Source, local_source, module_kind
from flash_plugins.errors import ConfigError, PayloadTooLarge
from flash_plugins.objects.digest import digest_of

__all__ = ["MAX_BUNDLE_BYTES", "SourceBundle", "bundle_modules"]

#: Sources in one bundle, uncompressed: they travel inside a call, of which Runpod takes 10 MB of JSON.
MAX_BUNDLE_BYTES = 8 * 1024 * 1024

#: Bundles remembered; a process has as many as it has combinations of modules in its calls.
_CACHE_LIMIT = 64

#: Folders in a package that are not part of it.
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages"})


@dataclass(frozen=True, slots=True)
class SourceBundle:
    """The sources that a call needs on the worker.

    Attributes:
        digest: Hash of `data`. The same sources give the same digest.
        data: A zip archive, laid out so that its root can go on sys.path.
        modules: Full names of the modules in it, sorted.
        size_bytes: Size of the sources, uncompressed.
        installed: Full names of the other modules that they import, the standard library's among them.
    """

    digest: str
    data: bytes
    modules: tuple[str, ...]
    size_bytes: int
    installed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Cached:
    bundle: SourceBundle | None
    stamps: tuple[tuple[str, Stamp], ...]

    def is_current(self) -> bool:
        return all(stamp_of(path) == stamp for path, stamp in self.stamps)


_cache: dict[frozenset[str], _Cached] = {}


def bundle_modules(names: Iterable[str]) -> SourceBundle | None:
    """The sources of the local modules among `names`, and of all that they import; None if there are none.

    Imports are followed in functions too. A package comes with every .py file in it, as it may import its
    parts by computed names. The script itself (`__main__`) never goes in, only what it imports. Nothing is
    imported or executed for this. Repeated calls cost one `stat` a file, and see edited files.

    Raises:
        PayloadTooLarge: The sources are larger than `MAX_BUNDLE_BYTES` together.
        ConfigError: A module needs a compiled extension that lies beside it, or a file cannot be read.
    """
    wanted = frozenset(names)
    if not wanted:
        return None
    known = _cache.get(wanted)
    if known is not None and known.is_current():
        return known.bundle
    collector = _Collector()
    for name in sorted(wanted):
        if name == "__main__":
            for imported in sorted(imports_of_main()):
                collector.add(imported)
        else:
            collector.add(name)
    stamps = tuple((path, stamp_of(path)) for path in collector.watched)
    bundle = _pack(collector.files, collector.installed) if collector.files else None
    if len(_cache) >= _CACHE_LIMIT:
        _cache.clear()
    _cache[wanted] = _Cached(bundle, stamps)
    return bundle


@dataclass
class _Collector:
    """Follows imports from module to module and gathers the files."""

    #: Path in the archive -> path on this machine.
    files: dict[str, str] = field(default_factory=dict)
    #: Files and folders whose change makes another bundle.
    watched: set[str] = field(default_factory=set)
    #: Module -> whether it is local.
    visited: dict[str, bool] = field(default_factory=dict)
    #: Packages whose folders are in `files` as a whole.
    whole: set[str] = field(default_factory=set)
    #: Modules that do not travel.
    installed: set[str] = field(default_factory=set)

    def add(self, name: str) -> None:
        """Take one module, its parents and, in turn, what they import."""
        pending = [name]
        while pending:
            wanted = pending.pop()
            parts = wanted.split(".")
            for end in range(1, len(parts) + 1):
                prefix = ".".join(parts[:end])
                is_local = self.visited.get(prefix)
                if is_local is None:
                    source = local_source(prefix)
                    is_local = self.visited[prefix] = source is not None
                    if source is not None:
                        pending += self._take(source)
                if not is_local:
                    self.installed.add(wanted)
                    break

    def _take(self, source: Source) -> list[str]:
        if source.file is None:
            return []  # a namespace package: only those of its modules that are imported
        self.watched.add(source.file)
        path = source.name.replace(".", "/")
        is_package = bool(source.directories)
        parent = source.name.rpartition(".")[0]
        if parent in self.whole:
            self.whole.add(source.name)
        elif is_package:
            self.whole.add(source.name)
            for folder in source.directories:
                self._take_folder(path, folder)
        self.files[f"{path}/__init__.py" if is_package else f"{path}.py"] = source.file
        return list(self._imported_by(source, source.name if is_package else parent))

    def _take_folder(self, prefix: str, folder: str) -> None:
        for parent, folders, files in os.walk(folder, followlinks=False):
            if parent != folder and "pyvenv.cfg" in files:
                folders.clear()
                continue
            folders[:] = [f for f in folders if f not in _SKIPPED_FOLDERS and not f.startswith(".")]
            self.watched.add(parent)
            below = os.path.relpath(parent, folder).replace(os.sep, "/")
            base = prefix if below == "." else f"{prefix}/{below}"
            for file in files:
                if file.endswith(".py") or file == "py.typed":
                    path = os.path.join(parent, file)
                    self.files.setdefault(f"{base}/{file}", path)
                    self.watched.add(path)

    def _imported_by(self, source: Source, package: str) -> Iterator[str]:
        assert source.file is not None
        for statement in imports_of_file(source.file):
            for name in statement.modules(package):
                if statement.is_certain and module_kind(name) is ModuleKind.COMPILED:
                    raise ConfigError(
                        f"module {source.name!r} imports {name!r} (line {statement.line} of {source.file}), "
                        "a compiled extension beside your sources, which cannot travel; build a wheel of it "
                        "and list that in dependencies"
                    )
                yield name


def _pack(files: dict[str, str], installed: Iterable[str]) -> SourceBundle:
    import zipfile  # here: 8 ms, and most calls have no bundle

    contents: dict[str, bytes] = {}
    for name in sorted(files):
        try:
            with open(files[name], "rb") as file:
                contents[name] = file.read()
        except OSError as error:
            raise ConfigError(
                f"source file {files[name]} cannot be read ({error.strerror}); the call needs its module"
            ) from error
    size = sum(map(len, contents.values()))
    if size > MAX_BUNDLE_BYTES:
        raise _too_large(contents, files, size)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, wherever it is made: the bytes must not depend on it
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    packed = target.getvalue()
    return SourceBundle(digest_of(packed), packed, _module_names(contents), size, frozenset(installed))


def _module_names(paths: Iterable[str]) -> tuple[str, ...]:
    stems = (path.removesuffix(".py").removesuffix("/__init__") for path in paths if path.endswith(".py"))
    return tuple(sorted(stem.replace("/", ".") for stem in stems))


def _too_large(contents: dict[str, bytes], files: dict[str, str], size: int) -> PayloadTooLarge:
    largest = sorted(contents, key=lambda name: len(contents[name]), reverse=True)[:5]
    listed = ", ".join(f"{files[name]} ({len(contents[name]) / 1e6:.1f} MB)" for name in largest)
    return PayloadTooLarge(
        f"the local modules of this call are {size / 1e6:.1f} MB of source in {len(contents)} files, over "
        f"the limit of {MAX_BUNDLE_BYTES / 1e6:.1f} MB; the largest are {listed}; install them as "
        "a package and list that in dependencies, or import less",
        size_bytes=size,
        limit_bytes=MAX_BUNDLE_BYTES,
    )
