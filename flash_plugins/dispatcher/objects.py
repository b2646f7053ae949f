# SPDX-License-Identifier: Apache-2.0
"""The objects of a session: opened with the store of its platform, and what a worker lacks of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import PlatformUnavailable
from ..objects.space import CallSink, Lease, ObjectSpace
from .uploads import uploads_of

if TYPE_CHECKING:
    from ..config import EndpointConfig
    from ..objects.store import ObjectStore
    from ..payload import CallEnvelope
    from ..platforms.base import Connection
    from ..settings import ObjectSettings
    from .call import Call
    from .session import Session

__all__ = ["SessionObjects", "addressed", "stored_again", "with_objects"]

#: Largest object that is sent along to a worker which does not find it in the folder of its machine: it may be in a
#: container, which has none of these folders.
_INLINE_BYTES = 1_000_000
#: Seconds to wait for a platform to start, so that it can say where objects go.
_CONNECT_TIMEOUT_S = 60.0


class SessionObjects:
    """What calls of a session send by content. Any thread.

    Args:
        find_url: Returns the store that calls of an endpoint use, waiting for the platform so many seconds; None for no
            certain endpoint. Not for the session's own thread.
        setting: Returns where the user wants large objects.
        open_store: Opens a store that is not of this machine; None if it cannot.
        threshold_bytes: How long a part of a pickle must be to become an object.
        max_bytes: How much may be in a folder of this machine; None for the default.
        tell: Takes a line for the user.
    """

    def __init__(
        self,
        find_url: Callable[[EndpointConfig | None, float], str | None],
        *,
        setting: Callable[[], ObjectSettings],
        open_store: Callable[[str], ObjectStore | None],
        threshold_bytes: int,
        max_bytes: int | None,
        tell: Callable[[str], object],
    ) -> None:
        self._find_url = find_url
        self._tell = tell
        self._find_setting = setting
        self._setting: ObjectSettings | None = None
        self._open_store = open_store
        self._threshold_bytes = threshold_bytes
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._spaces: dict[str | None, ObjectSpace] = {}
        self._of_endpoints: dict[object, ObjectSpace] = {}
        self._left: list[ObjectSpace] = []

    def is_open(self, space: ObjectSpace | None) -> bool:
        """Return whether calls that are made now use this space."""
        return space is not None and self._spaces.get(space.url) is space

    def sink(self, config: EndpointConfig | None = None) -> CallSink:
        """Return what takes the large parts of one pickle. Waits for the platform only if there is one."""
        return CallSink(lambda: self.space(config), self._threshold_bytes)

    def space(self, config: EndpointConfig | None = None) -> ObjectSpace:
        """Return the space of the calls of an endpoint, opened now if it was not. Not for the session's own thread.

        Raises:
            PlatformUnavailable: The platform does not start.
            ConfigError: Its store cannot be opened.
        """
        key = None if config is None else (config.name, config.version)
        if (space := self._of_endpoints.get(key)) is not None and space.cache.is_there:
            return space
        try:
            # Of another platform, if that of the folder is gone.
            url = self._find_url(config, _CONNECT_TIMEOUT_S)
        except TimeoutError:
            raise PlatformUnavailable(
                f"the platform did not start within {_CONNECT_TIMEOUT_S:g} s, and it says where large arguments go"
            ) from None
        space = self._of_endpoints[key] = self.open(url)
        return space

    def url_at(self, connection: Connection) -> str | None:
        """Return the store that calls to a platform use: the one that was set, else its own; None for none.

        Raises:
            ConfigError: What was set cannot be used.
        """
        if self._setting is None:
            self._setting = self._find_setting()
        return None if self._setting.is_off else self._setting.url or connection.objects

    def may_use_volume(self, connection: Connection, config: EndpointConfig) -> bool:
        """Return whether the network volume of an endpoint is the store of its calls: nothing else is, keys are set.

        Raises:
            ConfigError: What was set cannot be used.
        """
        if len(config.volume) != 1 or config.image is not None or self.url_at(connection) is not None:
            return False
        return self._setting is not None and not self._setting.is_off and self._setting.access is not None

    def open(self, url: str | None) -> ObjectSpace:
        """Return the space with the store at `url`, opened now if it was not.

        Raises:
            ConfigError: Its store cannot be opened.
        """
        from ..objects.spaces import caller_space  # most programs send nothing large

        with self._lock:
            if url in self._spaces and not self._spaces[url].cache.is_there:
                self._left.append(self._spaces.pop(url))
            if url not in self._spaces:
                self._spaces[url] = caller_space(url, self._opened, max_bytes=self._max_bytes)
            return self._spaces[url]

    def _opened(self, url: str) -> ObjectStore:
        from ..objects.announced import AnnouncedStore
        from ..objects.cleaning import clean_in_background
        from ..objects.open import unknown_scheme
        from ..objects.remote import RemoteStore

        store = self._open_store(url)
        if store is None:
            raise unknown_scheme(url)
        if isinstance(store, RemoteStore):
            clean_in_background(store)
        return AnnouncedStore(store, self._tell)

    def leave(self) -> None:
        """Forget the spaces: the platform is gone, and the next one has another store."""
        with self._lock:
            self._left.extend(self._spaces.values())
            self._spaces, self._of_endpoints = {}, {}

    def close(self) -> None:
        """Let go of everything."""
        self.leave()
        with self._lock:
            left, self._left = self._left, []
        for space in left:
            space.close()


def addressed(envelope: CallEnvelope, call: Call[Any], session: Session, config: EndpointConfig) -> CallEnvelope:
    """Return an envelope that names the store of the endpoint that gets it.

    Objects of a call that was made for a platform which ended are stored again.

    Raises:
        ConfigError: The store cannot be opened.
        StoreError: It cannot be used.
        ObjectMissing: What was stored is gone.
    """
    url = session.objects_url(config)
    if envelope.objects is not None and envelope.objects != url:
        call._held = moved(call._held, session.objects.open(url))
    return envelope if envelope.objects == url else replace(envelope, objects=url)


def with_objects(envelope: CallEnvelope, leases: Iterable[Lease | None], missing: Iterable[str]) -> CallEnvelope:
    """Return an envelope with the objects that a worker did not find in the store: they are stored again, too.

    Large ones of a store are only put there again, see `stored_again`: they may be more than fits into a call.

    Raises:
        StoreError: A store cannot be used.
        ObjectMissing: What was stored is gone.
    """
    lacking = {digest for digest in missing if digest not in envelope.blobs}
    if not lacking:
        return envelope
    found: dict[str, memoryview] = {}
    for lease in leases:
        for space, ref in lease.places() if lease is not None else ():
            if ref.digest not in lacking or ref.digest in found:
                continue
            if space.url is None or (space.remote is None and ref.size <= _INLINE_BYTES):
                found[ref.digest] = space.fetch(ref)
            space.restore([ref])
    return replace(envelope, blobs={**envelope.blobs, **found})


async def stored_again(leases: Sequence[Lease | None]) -> bool:
    """Wait until the objects of calls are in their stores; returns whether some are there.

    Raises:
        StoreError: One cannot be stored.
    """
    uploads = [upload for lease in leases for upload in uploads_of(lease)]
    for upload in uploads:
        await asyncio.wrap_future(upload)
    places = (space for lease in leases if lease is not None for space, _ in lease.places())
    return bool(uploads) or any(space.url is not None and space.remote is None for space in places)


def moved(lease: Lease | None, space: ObjectSpace) -> Lease | None:
    """Return a lease of the same objects in another store: theirs ended with its platform."""
    if lease is None:
        return None
    refs = [space.keep(old.fetch(ref))[0] for old, ref in lease.places()]
    lease.release()
    return Lease(space, refs)
