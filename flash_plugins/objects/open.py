# SPDX-License-Identifier: Apache-2.0
"""From the URL of a store to the store. Callers and workers open the same one; neither tells the other its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import ConfigError
from .location import S3Access, S3Location
from .remote import RemoteStore
from .store import ObjectStore

__all__ = ["SCHEMES", "check_url", "open_store", "unknown_scheme"]

#: Schemes of URLs that need no plugin.
SCHEMES = ("file", "s3")


def check_url(url: str) -> str:
    """Return the URL of a store in its full form.

    Raises:
        ConfigError: It is none, or has keys in it.
    """
    scheme = urlsplit(url).scheme
    if scheme == "s3":
        return S3Location.parse(url).url
    if scheme == "file":
        return _folder_of(url).as_uri()
    if not scheme:
        raise ConfigError(
            f"object store {url!r} is no URL: write s3://bucket/prefix?endpoint=https://host&region=name, or "
            "file:///folder for one that callers and workers both see"
        )
    return url


def open_store(
    url: str,
    *,
    access: S3Access | None = None,
    volumes: Mapping[str, Path] | None = None,
    foreign: Callable[[str], ObjectStore | None] = lambda _: None,
) -> ObjectStore:
    """Return the store at a URL. Nothing is asked or written yet.

    Args:
        url: `file:///folder`, `s3://bucket/prefix?endpoint=…&region=…`, or what a plugin knows.
        access: Keys of a bucket; None for those that the library finds.
        volumes: Folders where buckets are mounted, by the name of the bucket: then no request and no key is needed.
        foreign: Asked about all other URLs.

    Raises:
        ConfigError: The URL cannot be read, or nobody knows its scheme.
        HookError: A plugin failed.
    """
    scheme = urlsplit(check_url(url)).scheme
    if scheme == "s3":
        location = S3Location.parse(url)
        folder = (volumes or {}).get(location.bucket)
        if folder is not None:
            from .volume import FolderKeys

            return RemoteStore(location.url, FolderKeys(folder / location.prefix))
        from .s3 import BucketKeys

        return RemoteStore(location.url, BucketKeys(location, access))
    if scheme == "file":
        from .volume import FolderKeys

        return RemoteStore(check_url(url), FolderKeys(_folder_of(url)))
    store = foreign(url)
    if store is None:
        raise unknown_scheme(url)
    return store


def unknown_scheme(url: str) -> ConfigError:
    """Return the error for a URL that nobody opens."""
    return ConfigError(
        f"object store {urlsplit(url).scheme}://…: nothing knows this kind; there are {', '.join(SCHEMES)}, and what "
        "plugins add with the hook flash_object_store; is the plugin installed, here and on the workers?"
    )


def _folder_of(url: str) -> Path:
    parts = urlsplit(url)
    folder = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not folder.is_absolute() or parts.query or parts.fragment:
        raise ConfigError(f"object store {url!r} is no folder: write file:///folder, with three slashes")
    return folder
