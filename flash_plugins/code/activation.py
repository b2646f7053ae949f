# SPDX-License-Identifier: Apache-2.0
"""Unpacks a source bundle on the worker and makes its modules importable there.

Several workers may share the folder of bundles: each unpacks into a folder of its own, and the first one
that renames it into place wins. A folder that has its final name is complete.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import threading
import types
from pathlib import Path, PurePosixPath

from flash_plugins.code import modules
from flash_plugins.errors import EnvelopeError
from flash_plugins.objects.digest import DIGEST, digest_of

__all__ = ["activate_bundle", "install_bundle"]

#: Bytes that an archive may unpack to; twice what a caller may pack.
_MAX_UNPACKED_BYTES = 16 * 1024 * 1024

_lock = threading.Lock()
#: Bundles on sys.path, newest first.
_active: list[Path] = []


def install_bundle(digest: str, data: bytes, root: Path) -> Path:
    """Unpack a bundle once, into the folder `root/digest`, whichever process comes first.

    Raises:
        EnvelopeError: `data` is not what `digest` names, or an archive that would write elsewhere.
    """
    if not DIGEST.fullmatch(digest):
        raise EnvelopeError(f"source bundle has the digest {digest[:80]!r}, which is none")
    target = root / digest
    if target.is_dir():
        return target
    import shutil  # here: most workers get no bundle
    import tempfile

    actual = digest_of(data)
    if actual != digest:
        raise EnvelopeError(
            f"source bundle {digest} arrived damaged ({len(data)} bytes of digest {actual}); send it again"
        )
    root.mkdir(parents=True, exist_ok=True)
    unpacked = Path(tempfile.mkdtemp(prefix=f".{digest[:12]}-", dir=root))
    try:
        _unpack(digest, data, unpacked)
        os.rename(unpacked, target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return target


def _unpack(digest: str, data: bytes, folder: Path) -> None:
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > _MAX_UNPACKED_BYTES:
                raise EnvelopeError(f"source bundle {digest} unpacks to more than {_MAX_UNPACKED_BYTES} bytes")
            for entry in entries:
                path = PurePosixPath(entry.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
                    raise EnvelopeError(f"source bundle {digest} has an entry outside its folder: {entry.filename!r}")
                file = folder.joinpath(*path.parts)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(archive.read(entry))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise EnvelopeError(f"source bundle {digest} is not a zip archive: {error}") from error


def activate_bundle(path: Path) -> bool:
    """Put an installed bundle first on sys.path.

    When it has another version of a package or module than an earlier bundle from which that was imported,
    everything imported from earlier bundles is forgotten, so that the new version is imported. When it
    merely has more or other modules, what is imported stays: a class must not exist twice.

    Returns:
        Whether modules were forgotten. What was unpickled before then refers to their old versions.
    """
    path = Path(os.path.abspath(path))
    with _lock:
        if _active and _active[0] == path and sys.path[:1] == [str(path)]:
            return False
        forgotten = _forget_others(path)
        if any(_differs(path, earlier) for earlier in _active if earlier != path):
            forgotten |= _forget_imported(_active)
            for earlier in _active:
                _leave_path(earlier)
            _active.clear()
        if path in _active:
            _active.remove(path)
        _leave_path(path)
        _active.insert(0, path)
        sys.path.insert(0, str(path))
        importlib.invalidate_caches()
        modules.forget_kinds()
        return forgotten


def _leave_path(folder: Path) -> None:
    while str(folder) in sys.path:
        sys.path.remove(str(folder))


def _differs(new: Path, old: Path) -> bool:
    """Whether something imported from `old` has another version in `new`."""
    tops = {name.partition(".")[0] for name, module in list(sys.modules.items()) if _is_from(module, old)}
    for top in tops:
        for file in (new / f"{top}.py", *(new / top).rglob("*.py")):
            if not file.is_file():
                continue
            counterpart = old / file.relative_to(new)
            if counterpart.is_file():
                if counterpart.read_bytes() != file.read_bytes():
                    return True
            elif (counterpart.parent / "__init__.py").is_file():
                return True  # the imported package would not find its new part
    return False


def _forget_imported(bundles: list[Path]) -> bool:
    names = [n for n, module in list(sys.modules.items()) if any(_is_from(module, b) for b in bundles)]
    for name in names:
        del sys.modules[name]
    return bool(names)


def _forget_others(bundle: Path) -> bool:
    """Forget modules of the same names that the worker imported from elsewhere before, if not its own."""
    tops = {entry.name.removesuffix(".py") for entry in bundle.iterdir() if entry.name != "__pycache__"}
    forgotten = False
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        if top not in tops or any(_is_from(module, b) for b in (bundle, *_active)):
            continue
        file = _file_of(module)
        if top in sys.stdlib_module_names or top in modules.OWN_PACKAGES or file is None:
            continue  # a namespace package has no file and finds the new folder by itself
        del sys.modules[name]
        forgotten = True
    return forgotten


def _file_of(module: object) -> str | None:
    file = vars(module).get("__file__") if isinstance(module, types.ModuleType) else None
    return file if isinstance(file, str) else None


def _is_from(module: object, bundle: Path) -> bool:
    file = _file_of(module)
    below = f"{bundle}{os.sep}"
    if file is not None or not isinstance(module, types.ModuleType):
        return file is not None and file.startswith(below)
    # A namespace package keeps its modules as attributes, so it has to be forgotten with them.
    return any(folder.startswith(below) for folder in modules.package_folders(vars(module).get("__path__")))
