# SPDX-License-Identifier: Apache-2.0
"""Pickles so that the same content gives the same bytes in every process. Slower than `pickling`; reads nothing.

What differs between two runs of a script, and is made equal here: names that cloudpickle draws for classes by
chance, the order of sets, which equal texts are one object, and addresses in the schemas of pydantic's models.
"""

from __future__ import annotations

import contextlib
import enum
import io
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from flash_plugins.code.pickling import Pickled, Pickler, is_class_by_value, make_class_anew

__all__ = ["canonical_dumps"]

_PROTOCOL = 5
#: Frames of Python, which need no stack of C; ten for each function in a chain.
_RECURSION_LIMIT = 20_000
#: How pydantic writes the identity of a class into its schemas: `__main__.Item:94285316217520`.
_ADDRESS = re.compile(r":(\d{6,})")


def canonical_dumps(obj: object) -> Pickled:
    """Return `obj` pickled; `loads` rebuilds it, each class by value as a new one.

    Raises:
        Exception: Whatever pickling raises; `dumps` explains it.
    """
    with _deep_recursion():
        first = _CanonicalPickler({})
        first.dump(obj)
        if not first.has_addresses:
            return first.pickled()
        # Once more, as all classes whose addresses may be in some schema are known now.
        second = _CanonicalPickler({str(address): f"{number:06}" for number, address in enumerate(first.classes)})
        second.dump(obj)
        return second.pickled()


@contextlib.contextmanager
def _deep_recursion() -> Iterator[None]:
    """Let this go as deep as the pickler written in C: 50 functions that call one another would be too many."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _RECURSION_LIMIT))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


# The pickler written in Python, as only that one lets the order of sets be chosen; typeshed knows little of it.
_PythonPickler: Any = pickle._Pickler


class _CanonicalPickler(_PythonPickler):  # type: ignore[misc]  # see above
    dispatch_table = Pickler.dispatch_table
    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(_PythonPickler.dispatch)

    def __init__(self, addresses: dict[str, str]) -> None:
        self._file = io.BytesIO()
        super().__init__(self._file, protocol=_PROTOCOL)
        self._reducers = Pickler(io.BytesIO())  # never dumps: it decides how functions, classes and modules go
        self._addresses = addresses
        self._equal: dict[str | bytes, str | bytes] = {}
        #: Addresses of classes by value, in the order met; the values keep them from being reused.
        self.classes: dict[int, type] = {}
        self.has_addresses = False

    def pickled(self) -> Pickled:
        """Return what was dumped."""
        found = self._reducers
        return Pickled(self._file.getvalue(), frozenset(found.modules), frozenset(found.installed))

    def reducer_override(self, obj: Any) -> Any:
        reduced = self._reducers.reducer_override(obj)
        if not is_class_by_value(reduced):
            return reduced
        self.classes[id(obj)] = obj
        self.has_addresses = self.has_addresses or "__pydantic_core_schema__" in vars(obj)
        _, arguments, *rest = reduced
        *arguments, _tracker_id, extra = arguments
        return make_class_anew, (*arguments, None, extra), *rest

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if type(obj) in (str, bytes):
            if self._addresses and type(obj) is str and ":" in obj:
                obj = _ADDRESS.sub(lambda found: ":" + self._addresses.get(found[1], found[1]), obj)
            obj = self._equal.setdefault(obj, obj)
        super().save(obj, save_persistent_id)

    def _save_set(self, obj: set[Any]) -> None:
        self.write(pickle.EMPTY_SET)
        self.memoize(obj)  # before its items: they may lead back to it
        self.write(pickle.MARK)
        for item in _in_order(obj):
            self.save(item)
        self.write(pickle.ADDITEMS)

    def _save_frozenset(self, obj: frozenset[Any]) -> None:
        self.save_reduce(frozenset, (_in_order(obj),), obj=obj)

    dispatch[set] = _save_set
    dispatch[frozenset] = _save_frozenset


class _Unordered(Exception):
    """A set holds something that has no order which would be the same in another process."""


def _in_order(items: Iterable[Any]) -> list[Any]:
    found = list(items)
    try:
        return sorted(found, key=_place)
    except _Unordered:
        return found


def _place(item: Any) -> tuple[str, Any]:
    """Return what sorts an item of a set; items of one kind compare with one another."""
    kind = type(item)
    if kind in (str, bytes, int, float, bool):
        return kind.__name__, item
    if kind is tuple:
        return "tuple", tuple(map(_place, item))
    if kind is frozenset:
        return "frozenset", tuple(sorted(map(_place, item)))
    if isinstance(item, enum.Enum):
        return "enum", (kind.__qualname__, item.name)
    if item is None:
        return "none", 0
    raise _Unordered
