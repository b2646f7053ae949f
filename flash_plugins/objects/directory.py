# SPDX-License-Identifier: Apache-2.0
"""A store that is a folder, for all processes of one machine at once.

    objects/DIGEST            a content; its time of modification is that of its last use
    results/KEEPER-DIGEST     a link to one that a caller has not taken yet
    incoming/…                what is being written
    HOLDS/…/DIGEST            links of the processes that use it, see `holds`

A file is written apart and then linked into its place, whole or not at all. One that has a single link is used by
nobody: eviction removes such, those too old first, then the least recently used until the rest fits.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from ..errors import EnvelopeError, StoreError
from .digest import DIGEST, Hashing, digest_of
from .holds import OwnFolder, remove_abandoned
from .mapped import private_view
from .store import ContentChanged, ObjectEntry, ObjectMissing, Ref

__all__ = ["SCHEME", "DirectoryStore"]

logger = logging.getLogger(__name__)

#: Of URLs of such folders. They are not `file`: those name folders that several machines may share.
SCHEME = "local"
#: Seconds after which an object is removed that nobody used.
MAX_AGE_S = 7 * 86_400.0
#: Most bytes, unless told otherwise: this part of the file system, and never more than so many.
_PART_OF_FILE_SYSTEM = 0.25
_MAX_BYTES = 64 * 1024**3
#: What is left after an eviction, of what may be there.
_LOW_MARK = 0.9
#: Eviction is considered whenever this part of what may be there was written by one process.
_WRITTEN_PART = 1 / 16
#: Seconds for which a result waits for a caller that does not come: platforms keep the answer itself for 30 minutes.
_RESULT_AGE_S = 3_600.0
#: Seconds after which a file that is being written counts as given up.
_INCOMING_AGE_S = 3_600.0
#: Contents up to this size are compared with their digest whenever they are read: 64 kB take 5 µs.
_CHECKED_BYTES = 512 * 1024
#: Most bytes of one write(2) of what nobody can change, and of a copy of what somebody may.
_WRITE_BYTES = 1 << 30
_COPY_BYTES = 256 * 1024
#: What file systems answer that have no hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.ENOSYS})


class DirectoryStore:
    """Objects in a folder, mapped copy-on-write. As `ObjectStore`; thread- and process-safe.

    Args:
        root: The folder, which is made (0700) if need be.
        holds_in: Where this process makes its folder of links, on the same file system; None for inside `root`.
        max_bytes: How much may be there; None for a quarter of the file system. What is held does not go, so it may
            be more.
        max_age_s: Seconds after which an object goes that nobody used.
    """

    def __init__(
        self,
        root: Path,
        *,
        holds_in: Path | None = None,
        max_bytes: int | None = None,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self._root = root
        self._objects = os.path.join(root, "objects")
        self._results = os.path.join(root, "results")
        self._incoming = os.path.join(root, "incoming")
        self._holds = OwnFolder(holds_in or root / "held")
        self._holds_base = holds_in or root / "held"
        self._held: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._written = 0
        self._make_folders()

    @property
    def url(self) -> str:
        """The folder as a URL."""
        return f"{SCHEME}://{quote(str(self._root.absolute()))}"

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    def has(self, ref: Ref) -> bool:
        """As `ObjectStore.has`."""
        return self._use(self._place(ref), ref)

    def put(self, ref: Ref, content: memoryview) -> None:
        """As `ObjectStore.put`; a link to a content that this process holds is made rather than a copy."""
        place = self._place(ref)
        if not self._use(place, ref):
            self._with_room(lambda: self._write(ref, content, None))

    def get(self, ref: Ref) -> memoryview:
        """As `ObjectStore.get`; large ones are mapped, and take no memory of their own until they are written to."""
        for place in (self._place(ref), self._held_place(ref)):
            if place is None:
                continue
            try:
                descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"object {ref.digest} cannot be read from {self._root}: {error}") from error
            try:
                is_whole = os.fstat(descriptor).st_size == ref.size
                content = private_view(descriptor, ref.size) if is_whole else memoryview(b"")
            finally:
                os.close(descriptor)
            if not is_whole or (ref.size <= _CHECKED_BYTES and digest_of(content) != ref.digest):
                self._discard_damaged(place, ref)
                continue
            self._touch(place)
            return content
        raise ObjectMissing(f"object {ref.digest} ({ref.size} bytes) is not in {self._root}", (ref,))

    def add(self, digest: str, content: bytes | memoryview) -> None:
        """Store what came from elsewhere.

        Raises:
            EnvelopeError: Its content is not what the digest says.
            StoreError: It cannot be stored.
        """
        if digest_of(content) != digest:
            raise EnvelopeError(f"blob {digest[:12]} was changed on its way: its content has another digest")
        self.put(Ref(digest, len(content)), memoryview(content))

    def find(self, digest: str) -> Ref | None:
        """Return the object of this name, None if it is not there."""
        try:
            return Ref(digest, os.stat(self._place(Ref(digest, 0))).st_size)
        except FileNotFoundError:
            return None

    def read(self, digest: str) -> bytes | None:
        """Return a copy of a content, which is compared with its name; None if it is not there, or was damaged."""
        ref = self.find(digest)
        if ref is None:
            return None
        try:
            content = bytes(self.get(ref))
        except ObjectMissing:
            return None
        if digest_of(content) != digest:
            self._discard_damaged(self._place(ref), ref)
            return None
        return content

    def hold(self, ref: Ref) -> None:
        """As `ObjectStore.hold`: a link of this process's own, one for however many holds."""
        with self._lock:
            if not self._held[ref.digest]:
                self._link_held(self._place(ref), ref)
            self._held[ref.digest] += 1

    def keep(self, ref: Ref, content: memoryview) -> bool:
        """Hold an object, stored now if it is not there; returns whether it had to be.

        Raises:
            ContentChanged: Its content was changed meanwhile.
            StoreError: It cannot be stored.
        """
        with self._lock:
            if self._held[ref.digest] and self._holds.is_ours:
                self._held[ref.digest] += 1
                return False
            try:
                self.hold(ref)
                return False
            except ObjectMissing:
                self._with_room(lambda: self._write(ref, content, os.path.join(self._holds.path, ref.digest)))
                self._held[ref.digest] += 1
                return True

    def release(self, ref: Ref) -> None:
        """As `ObjectStore.release`."""
        with self._lock:
            if self._held[ref.digest] > 1:
                self._held[ref.digest] -= 1
                return
            del self._held[ref.digest]
            if self._holds.is_ours:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._holds.path, ref.digest))

    def restore(self, ref: Ref) -> bool:
        """Put an object back that somebody removed, or all of the folder, although this process holds it.

        Returns whether it is there now.
        """
        held = self._held_place(ref)
        if held is not None:
            with contextlib.suppress(OSError):
                self._make_folders()
                os.link(held, self._place(ref))
        return self.has(ref)

    def leave(self, ref: Ref, content: memoryview, keeper: int) -> None:
        """Store an object and keep it until somebody takes it by the name of its keeper, or did not come for long.

        Raises:
            ContentChanged: Its content was changed meanwhile.
            StoreError: It cannot be stored.
        """
        left = self._left_place(ref, keeper)
        try:
            self._link(self._place(ref), left, ref)
        except ObjectMissing:
            self._with_room(lambda: self._write(ref, content, left))

    def take(self, ref: Ref, keeper: int) -> None:
        """Hold an object that somebody left under this name, which is over by that.

        Raises:
            ObjectMissing: It is not there any more.
        """
        left = self._left_place(ref, keeper)
        with self._lock:
            if not self._held[ref.digest]:
                try:
                    self._link_held(self._place(ref), ref)
                except ObjectMissing:
                    self._link_held(left, ref)
            self._held[ref.digest] += 1
        with contextlib.suppress(FileNotFoundError):
            os.unlink(left)

    def drop_left(self, ref: Ref, keeper: int) -> None:
        """Let an object go that somebody left under this name."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._left_place(ref, keeper))

    def delete(self, ref: Ref) -> None:
        """As `ObjectStore.delete`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._place(ref))

    def entries(self) -> Iterator[ObjectEntry]:
        """As `ObjectStore.entries`."""
        for entry, status in self._stored():
            yield ObjectEntry(Ref(entry.name, status.st_size), status.st_mtime)

    def evict(self, *, most_bytes: int | None = None) -> int:
        """Remove what is too old, or too much, and not in use; returns how many bytes. One process at a time."""
        limit = self._limit() if most_bytes is None else most_bytes
        with open(os.open(self._root / ".evicting", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return 0  # somebody else is at it
            remove_abandoned(self._holds_base)
            self._remove_older(self._results, _RESULT_AGE_S)
            self._remove_older(self._incoming, _INCOMING_AGE_S)
            return self._evict(limit)

    @property
    def is_there(self) -> bool:
        """Whether the folder exists: that of a platform goes with it."""
        return os.path.isdir(self._objects)

    @property
    def is_held(self) -> bool:
        """Whether this process holds something."""
        return bool(self._held)

    def close(self) -> None:
        """Remove what is too old or too much, and this process's links unless something is held: then they stay
        until the process ends."""
        if self._root.exists():
            self.evict()
        with self._lock:
            if not self._held:
                self._holds.remove()

    def _make_folders(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self._objects, self._results, self._incoming):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)

    def _evict(self, limit: int) -> int:
        found = sorted(self._stored(), key=lambda one: one[1].st_mtime)
        total, removed, oldest = sum(status.st_size for _, status in found), 0, time.time() - self._max_age_s
        low = limit if total <= limit else int(limit * _LOW_MARK)
        for entry, status in found:
            if status.st_mtime >= oldest and total - removed <= low:
                break
            try:
                if os.stat(entry.path).st_nlink > 1:
                    continue
                os.unlink(entry.path)
            except FileNotFoundError:
                continue
            removed += status.st_size
        return removed

    def _stored(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        with os.scandir(self._objects) as found:
            for entry in found:
                with contextlib.suppress(FileNotFoundError):  # somebody removes it this very moment
                    yield entry, entry.stat()

    def _remove_older(self, folder: str, age_s: float) -> None:
        oldest = time.time() - age_s
        with os.scandir(folder) as found:
            for entry in found:
                with contextlib.suppress(FileNotFoundError):
                    # Of a link the time of its last change: it was made then, or another one was.
                    if entry.stat().st_ctime < oldest:
                        os.unlink(entry.path)

    def _limit(self) -> int:
        if self._max_bytes is None:
            whole = os.statvfs(self._root)
            self._max_bytes = min(int(whole.f_blocks * whole.f_frsize * _PART_OF_FILE_SYSTEM), _MAX_BYTES)
        return self._max_bytes

    def _place(self, ref: Ref) -> str:
        if not DIGEST.fullmatch(ref.digest):
            raise EnvelopeError(f"{ref.digest[:80]!r} is no digest: the call's envelope is damaged")
        return f"{self._objects}/{ref.digest}"

    def _held_place(self, ref: Ref) -> str | None:
        return f"{self._holds.path}/{ref.digest}" if self._holds.is_ours and self._held[ref.digest] else None

    def _left_place(self, ref: Ref, keeper: int) -> str:
        return f"{self._results}/{keeper:016x}-{ref.digest}"

    def _use(self, place: str, ref: Ref) -> bool:
        """Whether it is there, whole."""
        try:
            status = os.stat(place)
        except FileNotFoundError:
            return False
        if status.st_size != ref.size:
            self._discard_damaged(place, ref)
            return False
        self._touch(place)
        return True

    def _touch(self, place: str) -> None:
        with contextlib.suppress(OSError):  # removed meanwhile, or a file system that refuses it
            os.utime(place)

    def _discard_damaged(self, place: str, ref: Ref) -> None:
        logger.warning("object %s was changed in %s; it is stored again when it is needed", ref.digest, self._root)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place)

    def _link_held(self, source: str, ref: Ref) -> None:
        self._link(source, os.path.join(self._holds.path, ref.digest), ref)

    def _link(self, source: str, target: str, ref: Ref) -> None:
        """Link an object that is there; where there are no links, having used it just now must do."""
        if not self._use(source, ref):
            raise ObjectMissing(f"object {ref.digest} ({ref.size} bytes) is not in {self._root}", (ref,))
        try:
            os.link(source, target)
        except FileExistsError:
            return
        except FileNotFoundError:
            raise ObjectMissing(f"object {ref.digest} was removed from {self._root}", (ref,)) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise StoreError(f"object {ref.digest} cannot be linked in {self._root}: {error}") from error

    def _write(self, ref: Ref, content: memoryview, linked: str | None) -> None:
        """Write an object into its place, and link it at another one."""
        place = self._place(ref)
        descriptor, temporary = tempfile.mkstemp(dir=self._incoming)
        try:
            try:
                _write_out(descriptor, ref, memoryview(content).cast("B"))
            finally:
                os.close(descriptor)
            try:
                os.link(temporary, place)
            except FileExistsError:  # somebody else was faster
                if linked is not None:
                    self._link(place, linked, ref)
                return
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                os.rename(temporary, place)
                return
            if linked is not None:
                with contextlib.suppress(FileExistsError):
                    os.link(temporary, linked)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        self._count(ref.size)

    def _with_room(self, write: Callable[[], None]) -> None:
        """Write; where there is no space, make some and try once more."""
        for is_last in (False, True):
            try:
                write()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or is_last or not self.evict(most_bytes=0):
                    raise StoreError(
                        f"an object cannot be stored in {self._root}: {error.strerror or error}; make room there, or "
                        "send less at once"
                    ) from error
            else:
                return

    def _count(self, size: int) -> None:
        self._written += size
        if self._written >= self._limit() * _WRITTEN_PART:
            self._written = 0
            self.evict()


def _write_out(descriptor: int, ref: Ref, content: memoryview) -> None:
    """Write a content. Of one that another thread may write to, what arrives in the file is what is hashed."""
    if type(content.obj) is bytes:
        _write_all(descriptor, content)
        return
    written = Hashing()
    for at in range(0, len(content), _COPY_BYTES):
        copy = bytes(content[at : at + _COPY_BYTES])
        written.update(copy)
        _write_all(descriptor, memoryview(copy))
    if written.digest() != ref.digest:
        raise ContentChanged(f"a content of {ref.size} bytes was changed while it was stored")


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view[:_WRITE_BYTES]) :]
