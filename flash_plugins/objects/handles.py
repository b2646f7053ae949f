# SPDX-License-Identifier: Apache-2.0
"""A handle for an object that was stored once: `ObjectRef`. As an argument it arrives as the value."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterator
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast, runtime_checkable

from .codec import Fetch, is_packed, refs_of, unpack
from .store import ObjectMissing, Ref

__all__ = ["ObjectRef", "as_value", "fetching"]

T = TypeVar("T")

_unpickling = threading.local()


class _Lease(Protocol):
    """What keeps objects stored as long as it lives."""

    def release(self) -> None: ...


@runtime_checkable
class _Leasing(Protocol):
    """What fetches objects, and can hold them."""

    def __call__(self, ref: Ref, /) -> memoryview: ...

    def lease(self, refs: tuple[Ref, ...]) -> _Lease: ...


class ObjectRef(Generic[T]):
    """A value that `flash_plugins.put` has stored, as it was then.

    In the arguments of a call, at any depth, in closures and partials, it arrives as the value. As a part of a
    result it stays a handle. What it refers to is kept as long as somebody has it.
    """

    __slots__ = ("__weakref__", "_data", "_fetch", "_installed", "_lease", "_modules")

    #: How many there were in this process, so that what cannot hold one need not be searched for them.
    made: ClassVar[int] = 0

    def __init__(
        self,
        data: bytes,
        fetch: Fetch | None,
        lease: object = None,
        *,
        modules: frozenset[str] = frozenset(),
        installed: frozenset[str] = frozenset(),
    ) -> None:
        ObjectRef.made += 1
        self._data = data
        self._fetch = fetch
        self._lease = lease
        self._modules = modules  # local ones that the value refers to: they travel with it
        self._installed = installed

    def __repr__(self) -> str:
        return f"<ObjectRef of {self.size_bytes} bytes>"

    @property
    def size_bytes(self) -> int:
        """How much is stored, and what small rest it carries itself."""
        return len(self._data) + sum(ref.size for ref in refs_of(self._data))

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The objects that it consists of."""
        return refs_of(self._data)

    def get(self) -> T:
        """Return the value; a new one each time, whose large buffers are mapped and shared until they are written to.

        Raises:
            ObjectMissing: It is not stored any more.
            StoreError: The store cannot be read.
        """
        return cast(T, _value_of(self._data, self._fetch))

    def __copy__(self) -> ObjectRef[T]:
        return self

    def __deepcopy__(self, memo: object) -> ObjectRef[T]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _handle_of, (self._data, self._modules, self._installed)


def as_value(handle: ObjectRef[Any]) -> tuple[Any, ...]:
    """Return how pickle writes the value in place of the handle."""
    return _value_of, (handle._data,)


@contextlib.contextmanager
def fetching(fetch: Fetch) -> Iterator[None]:
    """Let handles that are unpickled within get their objects from `fetch`. For this thread."""
    before = getattr(_unpickling, "fetch", None)
    _unpickling.fetch = fetch
    try:
        yield
    finally:
        _unpickling.fetch = before


def _value_of(data: bytes, fetch: Fetch | None = None) -> Any:
    if not is_packed(data):
        return pickle.loads(data)
    fetch = fetch or getattr(_unpickling, "fetch", None)
    if fetch is None:
        refs = refs_of(data)
        raise ObjectMissing(f"a handle of {len(refs)} objects came here by a way on which they cannot be found", refs)
    with fetching(fetch):
        return unpack(data, fetch)


def _handle_of(data: bytes, modules: frozenset[str], installed: frozenset[str]) -> ObjectRef[Any]:
    fetch = getattr(_unpickling, "fetch", None)
    lease = fetch.lease(refs_of(data)) if isinstance(fetch, _Leasing) else None
    return ObjectRef(data, fetch, lease, modules=modules, installed=installed)
