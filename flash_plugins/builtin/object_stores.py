# SPDX-License-Identifier: Apache-2.0
"""Stores of large objects that need no plugin: folders and buckets. A plugin, asked last."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..hooks import hookimpl
from ..objects.open import SCHEMES, open_store

if TYPE_CHECKING:
    from ..objects.location import S3Access
    from ..objects.store import ObjectStore

__all__ = ["ObjectStores"]


class ObjectStores:
    """Opens `file://` and `s3://`.

    Args:
        access: Returns the keys of buckets; asked for each store.
    """

    def __init__(self, access: Callable[[], S3Access | None]) -> None:
        self._access = access

    @hookimpl
    def flash_object_store(self, url: str) -> ObjectStore | None:
        """Return the store at a URL of a kind that is built in."""
        return open_store(url, access=self._access()) if urlsplit(url).scheme in SCHEMES else None
