# SPDX-License-Identifier: Apache-2.0
"""The objects of one process: a folder of this machine, and the remote store behind it if there is one.

caller    pickling ─► CallSink ─► keep: hashed, held, written unless it is there ─► uploaded in the background
worker    refs of a call ─► pull: folder, else remote, else asked for ─► fetch: mapped
          result ─► ResultSink ─► left for the caller
caller    outcome ─► take: held ─► fetch, release
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from .codec import DEFAULT_THRESHOLD_BYTES, Fetch, keeper_of, refs_of
from .digest import digest_of_view
from .directory import DirectoryStore
from .holds import OwnFolder
from .parallel import side_by_side
from .store import ContentChanged, ObjectMissing, ObjectStore, Ref
from .uploading import UploadThreads

__all__ = ["DEFAULT_THRESHOLD_BYTES", "CallSink", "Lease", "ObjectSpace", "ResultSink"]

logger = logging.getLogger(__name__)

_Stored = TypeVar("_Stored")

#: Uploads at once.
_UPLOADS = 4
#: Objects that come from a remote store at once.
_PULLS = 4


class ObjectSpace:
    """Objects that this process uses. Thread-safe.

    Args:
        cache: The folder of this machine; of a local store it is the store itself.
        remote: What is behind it, None for nothing.
        url: The store that workers are told, None where contents travel with the calls.
        own: The folder around the cache that is to be removed at the end, if there is one.
    """

    def __init__(
        self,
        cache: DirectoryStore,
        remote: ObjectStore | None = None,
        *,
        url: str | None = None,
        own: OwnFolder | None = None,
    ) -> None:
        self.cache = cache
        self.remote = remote
        self.url = url
        self._own = own
        self._lock = threading.Lock()
        self._uploads: dict[str, Future[None]] = {}
        self._threads = UploadThreads(_UPLOADS)
        self._given_up: deque[Ref] = deque()  # of leases that were dropped: any thread, amid anything

    def keep(self, content: memoryview) -> tuple[Ref, bool]:
        """Store a content as it is now, and hold it; returns its name, and whether it was new.

        Raises:
            StoreError: It cannot be stored.
        """
        self._let_go()
        ref, is_new = _named(content, self.cache.keep)
        if self.remote is not None:
            self._upload(ref)
        return ref, is_new

    def hold(self, ref: Ref) -> None:
        """Hold an object, pulled if need be.

        Raises:
            ObjectMissing: It is nowhere.
            StoreError: A store cannot be used.
        """
        self._let_go()
        try:
            self.cache.hold(ref)
        except ObjectMissing:
            self.cache.keep(ref, self._pulled(ref))

    def release(self, refs: Iterable[Ref]) -> None:
        """Let go of objects that were kept, held or taken."""
        for ref in refs:
            self.cache.release(ref)

    def give_up(self, refs: Iterable[Ref]) -> None:
        """As `release`, soon; may be called while objects are destroyed."""
        self._given_up.extend(refs)

    def lease(self, refs: tuple[Ref, ...]) -> Lease:
        """Hold objects; as `hold`."""
        held: list[Ref] = []
        try:
            for ref in refs:
                self.hold(ref)
                held.append(ref)
        except BaseException:
            self.release(held)
            raise
        return Lease(self, held)

    def __call__(self, ref: Ref, /) -> memoryview:
        """As `fetch`."""
        return self.fetch(ref)

    def fetch(self, ref: Ref) -> memoryview:
        """Return a content. What is written to it stays private.

        Raises:
            ObjectMissing: It is nowhere.
            StoreError: A store cannot be read.
        """
        try:
            return self.cache.get(ref)
        except ObjectMissing:
            content = self._pulled(ref)
            self.cache.put(ref, content)
            return content

    def pull(self, refs: Iterable[Ref]) -> list[Ref]:
        """See to it that objects are on this machine; returns those that are nowhere.

        Raises:
            StoreError: A store cannot be read.
        """
        lacking = [ref for ref in dict.fromkeys(refs) if not self.cache.has(ref)]
        if self.remote is None:
            return lacking
        side_by_side([lambda ref=ref: self._pull(ref) for ref in lacking], at_once=_PULLS)  # type: ignore[misc]
        return [ref for ref in lacking if not self.cache.has(ref)]

    def _pull(self, ref: Ref) -> None:
        try:
            self.cache.put(ref, self._pulled(ref))
        except ObjectMissing as missing:
            logger.info("a worker is told to ask its caller: %s", missing)

    def take(self, data: bytes) -> Lease:
        """Hold the objects of a result that has arrived.

        Raises:
            ObjectMissing: One of them is nowhere.
            StoreError: A store cannot be used.
        """
        refs, keeper = refs_of(data), keeper_of(data)
        taken: list[Ref] = []
        if self.remote is None:
            try:
                for ref in refs:
                    self.cache.take(ref, keeper)
                    taken.append(ref)
            except BaseException:
                self.release(taken)
                raise
        return Lease(self, taken)

    def drop(self, data: bytes) -> None:
        """Let the objects of a result go that nobody wants."""
        if self.remote is None:
            for ref in refs_of(data):
                self.cache.drop_left(ref, keeper_of(data))

    def uploads(self, refs: Iterable[Ref]) -> list[Future[None]]:
        """Return the uploads of these objects, but those that are done and went well."""
        if self.remote is None:
            return []
        with self._lock:
            found = [self._uploads.get(ref.digest) for ref in refs]
        return [upload for upload in found if upload is not None and not _went_well(upload)]

    def restore(self, refs: Iterable[Ref]) -> None:
        """Put objects back that a worker lacks although they were stored.

        Raises:
            StoreError: A store cannot be used.
        """
        for ref in refs:
            if self.remote is None:
                self.cache.restore(ref)
            else:
                with self._lock:
                    known = self._uploads.get(ref.digest)
                    if known is None or known.done():
                        self._uploads[ref.digest] = self._threads.submit(partial(self._uploaded_again, ref))

    def close(self) -> None:
        """Let go of everything; uploads that were not begun are given up, and others end with the process."""
        self._threads.close()
        self._let_go()
        self.cache.close()
        if self._own is not None and not self.cache.is_held:
            self._own.remove()

    def _pulled(self, ref: Ref) -> memoryview:
        if self.remote is None:
            raise ObjectMissing(f"object {ref.digest} ({ref.size} bytes) is not in {self.cache.url}", (ref,))
        return self.remote.get(ref)

    def _upload(self, ref: Ref) -> None:
        with self._lock:
            known = self._uploads.get(ref.digest)
            if known is None or (known.done() and not _went_well(known)):
                self._uploads[ref.digest] = self._threads.submit(partial(self._uploaded, ref))

    def _uploaded(self, ref: Ref) -> None:
        assert self.remote is not None
        if not self.remote.has(ref):
            self.remote.put(ref, self.cache.get(ref))

    def _uploaded_again(self, ref: Ref) -> None:
        assert self.remote is not None
        self.remote.put(ref, self.cache.get(ref))  # without asking: somebody did not find it there

    def _let_go(self) -> None:
        while self._given_up:
            self.cache.release(self._given_up.popleft())


def _named(content: memoryview, store: Callable[[Ref, memoryview], _Stored]) -> tuple[Ref, _Stored]:
    """Store a content by its name; of one that another thread changes meanwhile, what it was at one moment."""
    ref = Ref(digest_of_view(content), content.nbytes)
    try:
        return ref, store(ref, content)
    except ContentChanged:
        copy = memoryview(bytes(content))
        ref = Ref(digest_of_view(copy), copy.nbytes)
        return ref, store(ref, copy)


def _went_well(upload: Future[None]) -> bool:
    return upload.done() and not upload.cancelled() and upload.exception() is None


class Lease:
    """Objects that are held until `release`, or until nobody has this any more.

    Attributes:
        space: Where they are, None if there are none.
        refs: Their names.
        new_bytes: How much of them was stored for this.
        others: Leases of others, which this keeps alive.
    """

    def __init__(
        self,
        space: ObjectSpace | None = None,
        refs: Iterable[Ref] = (),
        *,
        new_bytes: int = 0,
        others: tuple[Lease, ...] = (),
    ) -> None:
        self.space = space
        self.new_bytes = new_bytes
        self.others = others
        self.refs: tuple[Ref, ...] = tuple(refs)
        self._held = self.refs
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[Lease], tuple[()]]:
        return Lease, ()  # holds nothing elsewhere

    def places(self) -> Iterator[tuple[ObjectSpace, Ref]]:
        """Iterate the objects with where they are, those of others too."""
        if self.space is not None:
            yield from ((self.space, ref) for ref in self.refs)
        for other in self.others:
            yield from other.places()

    def places_by_ref(self) -> dict[Ref, ObjectSpace]:
        """Return where each object is."""
        return {ref: space for space, ref in self.places()}

    def release(self) -> None:
        """Let go. Idempotent."""
        held, self._held = self._held, ()
        if held and self.space is not None and self._process == os.getpid():
            self.space.release(held)

    def __del__(self) -> None:
        if self._held and self.space is not None and self._process == os.getpid():
            self.space.give_up(self._held)  # amid whatever this thread does: no lock


class CallSink:
    """Takes the large parts of what a call sends, see `codec.Sink`. Good for one pickle.

    Args:
        space: Returns where they go; asked when there is the first one.
        threshold_bytes: How long a part must be.
    """

    __slots__ = ("_find_space", "_new_bytes", "_refs", "_space", "threshold_bytes")
    keeper = 0
    resolves = True

    def __init__(self, space: Callable[[], ObjectSpace], threshold_bytes: int) -> None:
        self._find_space = space
        self._space: ObjectSpace | None = None
        self._refs: list[Ref] | None = None
        self._new_bytes = 0
        self.threshold_bytes = threshold_bytes

    def store(self, content: memoryview) -> Ref:
        """As `codec.Sink.store`."""
        ref, is_new = self._opened().keep(content)
        self._note(ref)
        if is_new:
            self._new_bytes += ref.size
        return ref

    def again(self, ref: Ref, fetch: Fetch | None) -> None:
        """As `codec.Sink.again`."""
        try:
            self._opened().hold(ref)
        except ObjectMissing:
            if fetch is None:
                raise
            self._opened().keep(fetch(ref))
        self._note(ref)

    def lease(self, *others: Lease | None) -> Lease | None:
        """Return what holds all that was stored, and keeps others alive, None if that is nothing. Once."""
        refs, self._refs = self._refs, None
        kept = tuple(other for other in others if other is not None)
        if not refs and not kept:
            return None
        return Lease(self._space, refs or (), new_bytes=self._new_bytes, others=kept)

    def abandon(self) -> None:
        """Let go of all that was stored: pickling failed."""
        refs, self._refs = self._refs, None
        if self._space is not None and refs:
            self._space.release(refs)

    def _note(self, ref: Ref) -> None:
        if self._refs is None:
            self._refs = []
        self._refs.append(ref)

    def _opened(self) -> ObjectSpace:
        if self._space is None:
            self._space = self._find_space()
        return self._space

    def __del__(self) -> None:
        if self._space is not None and self._refs:  # pickling failed half-way
            self._space.give_up(self._refs)


class ResultSink:
    """Takes the large parts of a result, or of a yielded value. Good for one pickle."""

    resolves = False

    def __init__(self, space: ObjectSpace, threshold_bytes: int) -> None:
        self._space = space
        self.threshold_bytes = threshold_bytes
        self.keeper = secrets.randbits(63) or 1

    def store(self, content: memoryview) -> Ref:
        """As `codec.Sink.store`."""
        remote, cache = self._space.remote, self._space.cache
        if remote is None:
            return _named(content, lambda ref, content: cache.leave(ref, content, self.keeper))[0]
        ref = Ref(digest_of_view(content), content.nbytes)
        if not remote.has(ref):
            remote.put(ref, content)
        return ref

    def again(self, ref: Ref, fetch: Fetch | None) -> None:
        """As `codec.Sink.again`."""
        if self._space.remote is None:
            self._space.cache.leave(ref, self._space.fetch(ref) if fetch is None else fetch(ref), self.keeper)
