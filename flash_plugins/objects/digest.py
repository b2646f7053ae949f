# SPDX-License-Identifier: Apache-2.0
"""The name of a content: its hash. The same for blobs of code, bundles of sources and objects."""

from __future__ import annotations

import re
import weakref
from typing import Any

import xxhash

__all__ = ["DIGEST", "Hashing", "digest_of", "digest_of_view"]

#: What a name looks like.
DIGEST = re.compile(r"[0-9a-f]{32}")

#: By id: views of bytes that were hashed, as long as they live; nothing can change those.
_fixed: dict[int, tuple[weakref.ref[Any], int, str]] = {}


def digest_of(content: bytes | bytearray | memoryview) -> str:
    """Return the name of a content: its XXH3 hash of 128 bits, 32 hex digits. 100 MB take 4 ms."""
    return xxhash.xxh3_128_hexdigest(content)


class Hashing:
    """The name of a content that comes in pieces."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def update(self, piece: bytes) -> None:
        """Take the next piece."""
        self._hash.update(piece)

    def digest(self) -> str:
        """Return the name of all that came, as `digest_of` does."""
        return self._hash.hexdigest()


def digest_of_view(view: memoryview) -> str:
    """As `digest_of`, remembered for an array that shows `bytes`: those never change."""
    if not view.readonly:
        return digest_of(view)
    owner = view.obj
    known = _fixed.get(id(owner))
    if known is not None and known[0]() is owner and known[1] == view.nbytes:
        return known[2]
    digest = digest_of(view)
    if _shows_bytes(owner):
        key = id(owner)
        _fixed[key] = (weakref.ref(owner, lambda _: _fixed.pop(key, None)), view.nbytes, digest)
    return digest


def _shows_bytes(owner: Any) -> bool:
    """Whether it is an array of NumPy whose memory is that of a `bytes` object, which nobody can make writable.

    Of an array that is only marked read-only, or that maps a file, the content can change.
    """
    if type(owner).__module__ != "numpy":
        return False
    while owner is not None and type(owner) is not bytes:
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return owner is not None
