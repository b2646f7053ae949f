# SPDX-License-Identifier: Apache-2.0
"""What a store of objects is: contents by their hash. Callers and workers open the same one by its URL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..errors import PayloadError

__all__ = ["ContentChanged", "ObjectEntry", "ObjectMissing", "ObjectStore", "Ref"]


@dataclass(frozen=True, slots=True)
class Ref:
    """The name of an object.

    Attributes:
        digest: Hash of its content, 32 hex digits (XXH3, 128 bits).
        size: Length of its content, bytes.
    """

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """An object that is stored.

    Attributes:
        ref: Its name.
        used_at: When it was last stored or used, seconds since 1970.
    """

    ref: Ref
    used_at: float


class ObjectMissing(PayloadError, LookupError):
    """A store does not have an object.

    Attributes:
        refs: The names of those that it lacks.
    """

    def __init__(self, message: str, refs: tuple[Ref, ...] = ()) -> None:
        super().__init__(message)
        self.refs = refs


class ContentChanged(PayloadError):
    """Somebody wrote to a content while it was stored: what would be there is not what its name says."""


@runtime_checkable
class ObjectStore(Protocol):
    """Contents by their hash. Methods block and may be called from any thread, and from several processes at once."""

    @property
    def url(self) -> str:
        """Where it is, as workers open it; without secrets."""

    def has(self, ref: Ref) -> bool:
        """Return whether the object is there, and count that as a use of it."""

    def put(self, ref: Ref, content: memoryview) -> None:
        """Store an object, whole or not at all; one that is there already stays as it is.

        Raises:
            StoreError: It cannot be stored; the message says why and what to do.
        """

    def get(self, ref: Ref) -> memoryview:
        """Return the content, and count that as a use. What is written to it is seen by nobody else.

        Raises:
            ObjectMissing: It is not there, or was damaged.
            StoreError: The store cannot be read.
        """

    def hold(self, ref: Ref) -> None:
        """Keep an object, which is there, from eviction until `release`. Each `hold` needs one.

        Raises:
            ObjectMissing: It is not there.
        """

    def release(self, ref: Ref) -> None:
        """Let go of an object."""

    def delete(self, ref: Ref) -> None:
        """Remove an object; nothing if it is not there."""

    def entries(self) -> Iterator[ObjectEntry]:
        """Iterate what is stored."""
