# SPDX-License-Identifier: Apache-2.0
"""A store on the far side of a network: objects and the marks of their use, as contents with names. It never evicts.

    <prefix>/objects/ab/abcdef…   an object, named by its digest
    <prefix>/used/ab/abcdef…      empty; its time says when the object was last used, if that is later than its own
    <prefix>/notes/…              empty; its time says when something was last done to the whole store

A use is written down only when the last one that is known is hours old, so that a thousand calls over one array cost
one mark. Nothing can hold an object in such a store: it is kept by its age, which `MIN_AGE_S` sets beyond the longest
life of a job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from ..errors import StoreError
from .digest import digest_of
from .store import ObjectEntry, ObjectMissing, Ref

__all__ = ["MIN_AGE_S", "KeyInfo", "KeySpace", "RemoteStore"]

logger = logging.getLogger(__name__)

#: Seconds without a use after which an object may go: a job lives at most 7 days (`ttl` of Runpod), and the last use
#: may have been written down up to `REFRESH_S` before it happened. One day for clocks and for results not yet fetched.
MIN_AGE_S: Final = 8 * 86400.0

#: Seconds after which a use is written down again: a store is asked to write at most four times a day for one object.
REFRESH_S: Final = 6 * 3600.0

#: Seconds for which an object that was seen counts as there without a question. `delete_all` of somebody else is what
#: may happen meanwhile; then its reader says that it is missing, and it is stored again.
TRUST_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What is stored under a key.

    Attributes:
        key: The key, without the prefix of the store.
        size: Bytes.
        modified_at: When it was written, seconds since 1970, by the clock of whoever keeps it.
    """

    key: str
    size: int
    modified_at: float


class KeySpace(Protocol):
    """Contents by key, whole or not at all. Methods block, from any thread; they raise StoreError when they cannot."""

    def look_up(self, key: str) -> KeyInfo | None:
        """Return what is there, None for nothing."""

    def write(self, key: str, content: memoryview) -> None:
        """Store a content, over whatever was there."""

    def read(self, key: str, size: int) -> memoryview | None:
        """Return the content in memory of its own, of another length than `size` if it is; None if it is not there."""

    def remove(self, key: str) -> None:
        """Remove a content; nothing if it is not there."""

    def walk(self, folder: str) -> Iterator[KeyInfo]:
        """Iterate what is stored under keys that begin with `folder` and a slash."""


@dataclass(slots=True)
class _Seen:
    """What this process knows of an object: when it was last seen there (monotonic), when a use was last noted."""

    at: float
    noted_at: float


class RemoteStore:
    """An object store over a key space. Thread-safe; may be used by many processes and machines at once.

    Args:
        url: Where it is, without secrets.
        keys: What keeps the contents.
        now: Clock of ages, seconds since 1970.
        monotonic: Clock of `TRUST_S`.
    """

    def __init__(
        self,
        url: str,
        keys: KeySpace,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._keys = keys
        self._now = now
        self._monotonic = monotonic
        self._seen: dict[str, _Seen] = {}
        self._holds: dict[str, int] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    @property
    def url(self) -> str:
        """Where it is, as workers open it; without secrets."""
        return self._url

    def has(self, ref: Ref) -> bool:
        """Return whether the object is there, and count that as a use of it.

        Raises:
            StoreError: The store cannot be asked.
        """
        seen = self._seen.get(ref.digest)
        if seen is None or self._monotonic() - seen.at > TRUST_S:
            found = self._keys.look_up(_object_key(ref.digest))
            if found is None or found.size != ref.size:
                self._seen.pop(ref.digest, None)
                return False
            seen = self._note_seen(ref, found.modified_at)
        self._note_use(ref, seen)
        return True

    def put(self, ref: Ref, content: memoryview) -> None:
        """Store an object, whole or not at all. It is sent even if it is there, where it then stays as it is.

        Raises:
            StoreError: It cannot be stored; the message says why and what to do.
        """
        self._keys.write(_object_key(ref.digest), content if content.format == "B" else content.cast("B"))
        self._note_seen(ref, self._now())

    def get(self, ref: Ref) -> memoryview:
        """Return the content, in memory of its own, and count that as a use.

        Raises:
            ObjectMissing: It is not there, or was damaged, or is being written; `put` mends it.
            StoreError: The store cannot be read.
        """
        content = self._keys.read(_object_key(ref.digest), ref.size)
        if content is None or len(content) != ref.size or digest_of(content) != ref.digest:
            self._seen.pop(ref.digest, None)
            raise _missing(ref, self._url, content)
        try:
            self._note_use(ref, self._seen.get(ref.digest) or self._note_seen(ref, 0.0))
        except StoreError as error:  # a key that may only read: who stored it keeps it young
            logger.info("the use of object %s was not written down: %s", ref.digest[:12], error)
        return content

    def hold(self, ref: Ref) -> None:
        """Note that the object is in use: it has at least `MIN_AGE_S` to live from now.

        Raises:
            ObjectMissing: It is not there.
            StoreError: The store cannot be asked.
        """
        if not self.has(ref):
            raise _missing(ref, self._url, None)
        with self._lock:
            self._holds[ref.digest] = self._holds.get(ref.digest, 0) + 1

    def release(self, ref: Ref) -> None:
        """Let go of an object."""
        with self._lock:
            count = self._holds.get(ref.digest, 0) - 1
            if count > 0:
                self._holds[ref.digest] = count
            else:
                self._holds.pop(ref.digest, None)

    def is_held(self, ref: Ref) -> bool:
        """Return whether this process holds the object; nobody knows of others."""
        return ref.digest in self._holds

    def delete(self, ref: Ref) -> None:
        """Remove an object; nothing if it is not there.

        Raises:
            StoreError: It cannot be removed.
        """
        self._seen.pop(ref.digest, None)
        self._keys.remove(_object_key(ref.digest))
        self._keys.remove(_mark_key(ref.digest))

    def noted_at(self, what: str) -> float | None:
        """Return when `note` was last called for this by anybody, seconds since 1970; None for never.

        Raises:
            StoreError: The store cannot be asked.
        """
        found = self._keys.look_up(f"notes/{what}")
        return None if found is None else found.modified_at

    def note(self, what: str) -> None:
        """Note, for all who use the store, that something is done now.

        Raises:
            StoreError: The store cannot be written to.
        """
        self._keys.write(f"notes/{what}", memoryview(b""))

    def entries(self) -> Iterator[ObjectEntry]:
        """Iterate what is stored, in no order.

        Raises:
            StoreError: The store cannot be listed.
        """
        used = {_digest_in(mark.key): mark.modified_at for mark in self._keys.walk("used")}
        for found in self._keys.walk("objects"):
            digest = _digest_in(found.key)
            yield ObjectEntry(Ref(digest, found.size), max(found.modified_at, used.get(digest, 0.0)))

    def _note_seen(self, ref: Ref, used_at: float) -> _Seen:
        with self._lock:
            known = self._seen.get(ref.digest)
            noted_at = used_at if known is None else max(used_at, known.noted_at)
            seen = self._seen[ref.digest] = _Seen(self._monotonic(), noted_at)
            return seen

    def _note_use(self, ref: Ref, seen: _Seen) -> None:
        now = self._now()
        if now - seen.noted_at > REFRESH_S:
            self._keys.write(_mark_key(ref.digest), memoryview(b""))
            seen.noted_at = now


def _missing(ref: Ref, url: str, content: memoryview | None) -> ObjectMissing:
    what = f"object {ref.digest[:12]} ({ref.size} bytes)"
    if content is None:
        return ObjectMissing(f"{what} is not in {url}", (ref,))
    return ObjectMissing(f"{what} is damaged in {url}: there are {len(content)} bytes with another hash", (ref,))


def _object_key(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest}"


def _mark_key(digest: str) -> str:
    return f"used/{digest[:2]}/{digest}"


def _digest_in(key: str) -> str:
    return key.rpartition("/")[2]
