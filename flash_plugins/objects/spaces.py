# SPDX-License-Identifier: Apache-2.0
"""Opens the space of a process: on the caller for its platform's store, on a worker for the store that a call names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .directory import SCHEME, DirectoryStore
from .holds import OwnFolder, remove_abandoned
from .space import ObjectSpace
from .store import ObjectStore

__all__ = ["MEMORY", "caller_space", "folder_of", "local_base", "worker_space"]

#: The folder that is memory, where there is one.
MEMORY = Path("/dev/shm")
#: Least memory, free there, for objects to be kept in it: containers have 64 MB of it unless told otherwise.
_MEMORY_MIN_BYTES = 1024**3
#: How the name of a caller's own folder begins, see `holds`.
_CACHE_PREFIX = "flash-plugins-cache-{}-"

#: Opens the remote store of a URL.
OpenStore = Callable[[str], ObjectStore]


def local_base(otherwise: Path) -> Path:
    """Return where folders for objects are made: in memory if there is enough, else where told."""
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return otherwise
    is_large = found.f_bavail * found.f_frsize >= _MEMORY_MIN_BYTES
    return MEMORY if is_large and os.access(MEMORY, os.W_OK | os.X_OK) else otherwise


def folder_of(url: str) -> Path | None:
    """Return the folder of this machine that a URL names, None if it names something else."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == SCHEME else None


def caller_space(url: str | None, open_store: OpenStore, *, max_bytes: int | None = None) -> ObjectSpace:
    """Return the space of a process that makes calls.

    Args:
        url: The store that its calls use, None if there is none: then contents travel with the calls.
        open_store: For a store that is not of this machine.
        max_bytes: How much may be in a folder of this machine; None for the default.
    """
    folder = None if url is None else folder_of(url)
    if folder is not None:
        return ObjectSpace(DirectoryStore(folder, holds_in=folder.parent, max_bytes=max_bytes), url=url)
    base = local_base(Path(tempfile.gettempdir()))
    remove_abandoned(base, _CACHE_PREFIX)
    own = OwnFolder(base, _CACHE_PREFIX)
    remote = None if url is None else open_store(url)
    cache = DirectoryStore(Path(own.path) / "store", max_bytes=max_bytes)
    return ObjectSpace(cache, remote, url=url, own=own)


def worker_space(
    url: str | None, cache_folder: Path, open_store: OpenStore, *, max_bytes: int | None = None
) -> ObjectSpace:
    """Return the space of a worker for the calls that name this store.

    Args:
        url: As the call says; None if its objects come with it.
        cache_folder: A folder that the workers of this machine share.
        open_store: For a store that is not of this machine.
        max_bytes: How much may be in the folder; None for the default.
    """
    folder = None if url is None else folder_of(url)
    if folder is not None and folder.is_dir():
        return ObjectSpace(DirectoryStore(folder, holds_in=folder.parent, max_bytes=max_bytes), url=url)
    remote = None if url is None or folder is not None else open_store(url)  # a container sees no folder of its host
    return ObjectSpace(DirectoryStore(cache_folder / "store", max_bytes=max_bytes), remote, url=url)
