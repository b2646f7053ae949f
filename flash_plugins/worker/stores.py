# SPDX-License-Identifier: Apache-2.0
"""The remote store that a call names, as a worker opens it: its volume where that is the bucket, else by its own keys.

What a worker knows it has from its environment; no key ever comes with a call.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..objects.location import S3Access
from ..objects.open import open_store
from ..objects.store import ObjectStore
from ..platforms import api

__all__ = ["mounted_volumes", "open_remote"]


def open_remote(url: str) -> ObjectStore:
    """Return the store at a URL; nothing is asked of it yet.

    Raises:
        ConfigError: The URL cannot be read, or no plugin that is installed here knows its scheme.
        HookError: A plugin failed.
    """
    return open_store(url, access=S3Access.of(os.environ), volumes=mounted_volumes(os.environ), foreign=_ask_plugins)


def mounted_volumes(variables: Mapping[str, str]) -> dict[str, Path]:
    """Return the folder of the network volume that this worker has, by the volume's id."""
    volume_id = variables.get(api.VOLUME_ID_ENV)
    folder = next((folder for folder in _places(variables) if folder.is_dir()), None)
    return {} if volume_id is None or folder is None else {volume_id: folder}


def _places(variables: Mapping[str, str]) -> Iterator[Path]:
    if (
        told := variables.get(api.VOLUME_PATH_ENV)
    ) is not None:  # the local platform, where mounting may not be allowed
        yield Path(told)
    yield Path(api.VOLUME_MOUNT_PATH)


def _ask_plugins(url: str) -> ObjectStore | None:
    from ..hooks import HookManager  # looking for plugins takes longer than a worker needs to begin

    return HookManager().object_store(url)
