# SPDX-License-Identifier: Apache-2.0
"""Values that are stored by hand, to be used in many calls: `put` and `get`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, overload

from . import code, process
from .errors import ConfigError
from .objects.handles import ObjectRef

__all__ = ["get", "put"]

T = TypeVar("T")


def put(value: T) -> ObjectRef[T]:
    """Store a value as it is now, and return a handle that arrives as the value in arguments, closures and partials.

    Large arguments are stored once without this. It spares pickling and hashing them for each call, and keeps them
    stored between calls. Waits for the platform if this is the first large value.

    Raises:
        UnpicklableError: It holds something that cannot travel; the message has the path to it.
        StoreError: It cannot be stored.
        PlatformUnavailable: The platform, which says where values are stored, does not start.
    """
    sink = process.object_sink()
    pickled = code.dumps(value, what="the value of put()", sink=sink)
    lease = sink.lease()
    space = None if lease is None else lease.space
    return ObjectRef(pickled.data, space, lease, modules=pickled.modules, installed=pickled.installed)


@overload
def get(refs: ObjectRef[T]) -> T: ...


@overload
def get(refs: Iterable[ObjectRef[Any]]) -> list[Any]: ...


def get(refs: Any) -> Any:
    """Return the value of a handle, or those of several as a list; a new one each time, see `ObjectRef.get`.

    Raises:
        ConfigError: It is no handle.
        ObjectMissing: A value is not stored any more.
        StoreError: The store cannot be read.
    """
    if isinstance(refs, ObjectRef):
        return refs.get()
    is_many = isinstance(refs, Iterable) and not isinstance(refs, str | bytes | Mapping)
    handles = list(refs) if is_many else [refs]
    for handle in handles:
        if not isinstance(handle, ObjectRef):
            raise ConfigError(f"get({_short(handle)}): give what put() returned, or a list of such")
    return [handle.get() for handle in handles]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
