# SPDX-License-Identifier: Apache-2.0
"""Whether the tasks of a call bring the same object with another content each time. It never changes or sends one.

    for i in range(1000):
        buffer[:] = i
        yield delayed(f)(buffer)

Tasks that joblib takes from such an input at once have all the last content. So the first tasks of a call are taken one
by one, and looked at here; if one object comes with two contents, the rest is taken one by one as well.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import sys
import types
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import cloudpickle
import xxhash

from .words import Task

__all__ = ["RefillWatch"]

#: Values that never change, or whose change nobody means.
_IMMUTABLE = (int, float, complex, str, bytes, bool, type(None), type, range, slice, types.ModuleType)

#: How deep containers and attributes of arguments are looked into, and how many entries of each.
_MAX_DEPTH = 3
_MAX_ENTRIES = 64

#: Objects whose pickle is longer than this many bytes, arrays left out, are compared as a whole only: each part that
#: is looked at is pickled again.
_MAX_PARTS_BYTES = 1_000_000


class RefillWatch:
    """Remembers the objects of some tasks, and what was in them. One thread.

    What can be referred to weakly is; lists and the like are kept alive as long as the watch is.
    """

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[Callable[[], object], bytes]] = {}
        self._is_refilled = False

    def look(self, task: Task) -> bool:
        """Return whether an object of this task, or of one before, came with another content than before.

        Runs the user's own code, as pickling does; what that raises is kept for when the task is sent, but for
        `KeyboardInterrupt`, `SystemExit` and the like.
        """
        function, args, kwargs = task
        for value in itertools.chain((function,), args, kwargs.values()):
            self._visit(value, 0)
        return self._is_refilled

    def _visit(self, value: Any, depth: int) -> None:
        if isinstance(value, _IMMUTABLE) or depth > _MAX_DEPTH or self._is_refilled:
            return
        if isinstance(value, tuple | frozenset | functools.partial | types.MethodType):
            self._visit_parts(value, depth)  # these themselves cannot change
            return
        contents = _Contents()
        if not contents.take(value):
            return
        owner, key = _identity(value)
        if not self._compare(key, owner, contents.digest()):
            return  # its parts are in it
        for buffer_owner, buffer_key, digest in contents.buffers:
            self._compare(buffer_key, buffer_owner, digest)
        if contents.stream_bytes <= _MAX_PARTS_BYTES:
            self._visit_parts(value, depth)

    def _visit_parts(self, value: Any, depth: int) -> None:
        for part in itertools.islice(_parts(value), _MAX_ENTRIES):
            self._visit(part, depth + 1)

    def _compare(self, key: Hashable, owner: object, digest: bytes) -> bool:
        """Note what is in an object; return whether it is one that was not seen before."""
        before = self._seen.get(key)
        if before is not None and before[0]() is owner:
            self._is_refilled = self._is_refilled or before[1] != digest
            return False
        self._seen[key] = (_reference(owner), digest)
        return True


class _Contents:
    """The pickle of one object as hashes: one of the stream, one of each buffer."""

    def __init__(self) -> None:
        self.stream_bytes = 0
        self.buffers: list[tuple[object, Hashable, bytes]] = []  # owner, key, digest
        self._hash = xxhash.xxh3_128()

    def take(self, value: object) -> bool:
        """Take an object in; False if it cannot be pickled, of which its user will hear when it is sent."""
        try:
            cloudpickle.Pickler(self, protocol=5, buffer_callback=self._take_buffer).dump(value)
        except Exception:  # noqa: BLE001 - the user's classes may raise anything, and will again when it counts
            return False
        return True

    def write(self, chunk: Any) -> int:
        """Take what the pickler writes."""
        size = memoryview(chunk).nbytes
        self.stream_bytes += size
        self._hash.update(chunk)
        return size

    def digest(self) -> bytes:
        """Return the hash of everything."""
        for _, _, digest in self.buffers:
            self._hash.update(digest)
        return self._hash.digest()

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        owner, key = _identity(memoryview(buffer).obj)
        self.buffers.append((owner, ("buffer", key, view.nbytes), xxhash.xxh3_128_digest(view)))
        return False


def _parts(value: Any) -> Iterator[Any]:
    """Yield what an object is made of, as far as that is easily found."""
    if isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.MethodType):
        yield value.__self__
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # it is empty
                continue
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, tuple | list | set | frozenset):
        yield from value
    else:
        yield from getattr(value, "__dict__", {}).values()


def _identity(value: Any) -> tuple[object, Hashable]:
    """Return the object that must live for the key to mean something, and the key.

    Of an array or a tensor this is whose memory it shows and which part: `buffer[i]` is another object each time.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor) and value.layout is torch.strided:
        tensor = value if value._base is None else value._base
        return tensor, (id(tensor), value.data_ptr(), tuple(value.shape), value.stride())
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray):
        return value, id(value)
    owner: Any = value
    while isinstance(owner, numpy.ndarray) and owner.base is not None:
        owner = owner.base
    interface = value.__array_interface__
    place = (interface["data"][0], interface["shape"], interface["strides"], interface["typestr"])
    return owner, (id(owner), place)


def _reference(owner: object) -> Callable[[], object]:
    try:
        return weakref.ref(owner)
    except TypeError:
        return lambda: owner
