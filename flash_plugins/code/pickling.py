# SPDX-License-Identifier: Apache-2.0
"""The pickler: turns objects into bytes and says which of the user's own modules those bytes refer to.

It is cloudpickle with three differences. It knows modules by kind (see `modules`) and so pickles by value
what a worker could not import. It notes every local module it refers to. And a class that was defined in
this process is never overwritten by the copy of it that comes back inside a result.
"""

from __future__ import annotations

import importlib
import io
import itertools
import pickle
import sys
import threading
import types
import typing
import weakref
from dataclasses import dataclass

import cloudpickle
from cloudpickle import cloudpickle as _cloudpickle

from flash_plugins.code.imports import imports_of_code, imports_of_main
from flash_plugins.code.modules import ModuleKind, module_kind
from flash_plugins.code.reducers import ALWAYS, BY_VALUE
from flash_plugins.errors import ConfigError, EnvelopeError, PlatformError
from flash_plugins.objects.codec import (
    DEFAULT_THRESHOLD_BYTES,
    PACKED,
    CompareSink,
    Fetch,
    Packer,
    Sink,
    is_packed,
    refs_of,
    unpack,
)
from flash_plugins.objects.handles import ObjectRef, as_value, fetching
from flash_plugins.objects.store import ObjectMissing, Ref

__all__ = [
    "Pickled",
    "Pickler",
    "dumps",
    "gives_again",
    "has_handles",
    "is_class_by_value",
    "loads",
    "make_class_anew",
    "plain_dumps",
]

#: Version 5: large buffers without a copy. Every supported Python has it.
_PROTOCOL = 5

#: Objects looked at before the check for plain data gives up; the check must stay cheaper than it saves.
_PLAIN_LIMIT = 64

#: Longest text or bytes of plain data: a longer one may have to go elsewhere, which the check does not know.
_PLAIN_BYTES = 65_536

_PLAIN_SCALARS = frozenset({type(None), bool, int, float, complex})
_PLAIN_SIZED = frozenset({str, bytes})
_PLAIN_SEQUENCES = frozenset({tuple, list, set, frozenset})
_NO_MODULES: frozenset[str] = frozenset()

#: Classes that came by value and were made here from a pickle. All others are originals.
_rebuilt_here: weakref.WeakSet[type] = weakref.WeakSet()
#: Held from looking for a class that came by value until it is in `_rebuilt_here`.
_rebuilding = threading.RLock()

#: Where a model of pydantic keeps the variables of the function, or notebook, around it, whatever they are. They are
#: only for names in annotations that were not known when the class was made.
_PARENT_NAMESPACE = "__pydantic_parent_namespace__"

#: How many decorators around a function are looked through.
_DECORATORS_LIMIT = 8


@dataclass(frozen=True, slots=True)
class Pickled:
    """A pickled object.

    Attributes:
        data: The pickle, protocol 5, buffers in band; packed (see `objects.codec`) if large parts of it are objects.
        modules: Full names of the local modules it refers to; their source must be on the worker.
        installed: Full names of all other modules it refers to, the standard library's among them.
    """

    data: bytes
    modules: frozenset[str]
    installed: frozenset[str] = _NO_MODULES

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The objects that it needs."""
        return refs_of(self.data)


def dumps(obj: object, *, what: str, before: Pickled | None = None, sink: Sink | None = None) -> Pickled:
    """Pickle any object, functions and classes of the script included.

    Thread-safe. Costs about 1 µs for a few plain values, 40 µs for a function of the script and 10 µs for
    anything else.

    Args:
        obj: The object.
        what: Its name in error texts, such as "argument 'x' of train()".
        before: What the same object was pickled as earlier. It is returned itself if the object, with all that
            it refers to, would give the same bytes; that is compared without a copy of its buffers, so an
            array of 8 MB costs 0.3 ms instead of 5 ms.
        sink: Where large parts go, at any depth: buffers, bytes, texts, and long runs of everything else. They are
            stored as they are now. None keeps all in one piece.

    Raises:
        UnpicklableError: It holds something that cannot travel; the message has the path to it.
        StoreError: A large part cannot be stored.
        FlashPluginsError: Whatever else `sink` raises.
    """
    threshold_bytes = None if sink is None else sink.threshold_bytes
    if before is not None and gives_again(obj, before, threshold_bytes=threshold_bytes):
        return before
    if _is_plain(obj):
        data = pickle.dumps(obj, _PROTOCOL)
        if threshold_bytes is None or len(data) < threshold_bytes:
            return Pickled(data, _NO_MODULES)
    if sink is not None:
        packer = Packer(sink)
        pickler = Pickler(packer)
        _dump(pickler, obj, what)
        return Pickled(packer.finish(), frozenset(pickler.modules), frozenset(pickler.installed))
    with io.BytesIO() as file:
        pickler = Pickler(file)
        _dump(pickler, obj, what)
        return Pickled(file.getvalue(), frozenset(pickler.modules), frozenset(pickler.installed))


def plain_dumps(obj: object, max_bytes: int) -> bytes | None:
    """Return what `dumps` makes of a few plain values; None for anything else, and if it is not below `max_bytes`."""
    if not _is_plain(obj):
        return None
    data = pickle.dumps(obj, _PROTOCOL)
    return data if len(data) < max_bytes else None


def _dump(pickler: Pickler, obj: object, what: str) -> None:
    try:
        pickler.dump(obj)
    except (MemoryError, PlatformError, ConfigError, ObjectMissing):  # those of the store and of its platform
        raise
    except Exception as error:
        from flash_plugins.code.culprit import explained

        raise explained(obj, what, error) from error


class _Differs(Exception):
    """Another pickle is being written than the expected one."""


class _Comparison:
    """A file that keeps nothing: it compares what is written with what is expected, byte by byte."""

    def __init__(self, expected: bytes) -> None:
        self._expected = expected
        self._position = 0

    @property
    def is_complete(self) -> bool:
        return self._position == len(self._expected)

    def write(self, chunk: bytes | pickle.PickleBuffer) -> int:
        # Large buffers come as they are, those of NumPy's arrays too.
        part = chunk.raw() if isinstance(chunk, pickle.PickleBuffer) else chunk
        if not self._expected.startswith(part, self._position):
            raise _Differs
        self._position += len(part)
        return len(part)


def gives_again(obj: object, before: Pickled, *, threshold_bytes: int | None = None) -> bool:
    """Return whether pickling `obj` gives `before`. Nothing short of that sees an array that was changed in place.

    Args:
        obj: The object.
        before: What it was pickled as.
        threshold_bytes: That of the sink; None if there is none.
    """
    is_whole = threshold_bytes is None or not is_packed(before.data)
    packer = None if is_whole or threshold_bytes is None else Packer(CompareSink(threshold_bytes))
    file = _Comparison(before.data)
    pickler = Pickler(packer or file)
    try:
        pickler.dump(obj)
    except Exception:  # noqa: BLE001 - it differs, or cannot be pickled any more: `dumps` will say what is wrong
        return False
    is_same = file.is_complete if packer is None else packer.finish() == before.data
    return is_same and pickler.modules == before.modules


def loads(data: bytes, *, fetch: Fetch | None = None) -> object:
    """Rebuild what `dumps` pickled. Only for data of our own: unpickling runs code.

    Args:
        data: The pickle, packed or not.
        fetch: Returns the content of an object.

    Raises:
        EnvelopeError: It is damaged, or names objects and there is no `fetch`.
        ObjectMissing: An object of it is nowhere.
        Exception: Whatever the pickle's own code raises, ModuleNotFoundError above all.
    """
    if not data.startswith(PACKED):
        return pickle.loads(data)
    if fetch is None:
        raise EnvelopeError(f"a pickle names {len(refs_of(data))} objects, and there is no store here to get them from")
    with fetching(fetch):
        return unpack(data, fetch)


def has_handles(obj: object) -> bool:
    """Return whether there is an `ObjectRef` somewhere in an object.

    Raises:
        Exception: What pickling it raises.
    """
    if _is_plain(obj):
        return False
    packer = Packer(CompareSink(DEFAULT_THRESHOLD_BYTES))
    Pickler(packer).dump(obj)
    return packer.has_handles


def _is_plain(obj: object) -> bool:
    """Whether a few exact builtins are all there is, so that the C pickler alone does it."""
    kind = type(obj)
    if kind in _PLAIN_SCALARS:
        return True
    if kind in _PLAIN_SIZED:
        return len(typing.cast("str | bytes", obj)) < _PLAIN_BYTES
    containers: list[object] = [obj]
    left = _PLAIN_LIMIT
    while containers:
        container = containers.pop()
        children: typing.Iterable[object]
        if type(container) in _PLAIN_SEQUENCES:
            children = typing.cast("tuple[object, ...]", container)
        elif type(container) is dict:
            children = itertools.chain(container, container.values())
        else:
            return False
        for child in children:
            left -= 1
            if left < 0:
                return False
            kind = type(child)
            if kind in _PLAIN_SIZED:
                if len(typing.cast("str | bytes", child)) >= _PLAIN_BYTES:
                    return False
            elif kind not in _PLAIN_SCALARS:
                containers.append(child)
    return True


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
    """Pickles one object and collects the names of the modules that it refers to.

    Attributes:
        modules: The names of local ones so far.
        installed: The names of all others so far.
    """

    def __init__(self, file: io.BytesIO | io.RawIOBase | _Comparison | Packer) -> None:
        self._packer = file if isinstance(file, Packer) else None
        take_buffer = None if self._packer is None else self._packer.take_buffer
        super().__init__(file, protocol=_PROTOCOL, buffer_callback=take_buffer)
        self.modules: set[str] = set()
        self.installed: set[str] = set()
        self._known_types: set[type] = set()
        self._has_main = False

    # The return type is pickle's: a reduce tuple, or NotImplemented to go on in the default way.
    def reducer_override(self, obj: typing.Any) -> typing.Any:
        """Called by pickle for everything that is not an exact builtin."""
        kind = type(obj)
        if kind in self._known_types:
            return NotImplemented
        if kind is types.FunctionType:
            return self._reduce_function(obj)
        if kind is types.ModuleType or isinstance(obj, types.ModuleType):
            return self._reduce_module(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind in BY_VALUE:
            return self._reduce_named(obj, BY_VALUE[kind])
        if kind in ALWAYS:
            return ALWAYS[kind](obj)
        if kind is ObjectRef and self._packer is not None:
            self._packer.refer(obj.refs, obj._fetch)
            self.modules |= obj._modules
            self.installed |= obj._installed
            return as_value(obj) if self._packer.resolves else NotImplemented
        if kind is types.BuiltinFunctionType:
            self._refer_to(obj.__module__)
            return NotImplemented
        # An instance: pickle comes back for its class, unless its __reduce__ is a name in the module.
        if module_kind(kind.__module__) is ModuleKind.LOCAL:
            self.modules.add(kind.__module__)
        self._known_types.add(kind)
        return NotImplemented

    def _reduce_function(self, function: types.FunctionType) -> typing.Any:
        module = function.__module__
        if _kind_of(module) is ModuleKind.UNREACHABLE:
            reduced = self._dynamic_function_reduce(function)
        else:
            reduced = self._function_reduce(function)
            if reduced is not NotImplemented:
                reduced = _reduce_decorated(function) or reduced
            self._refer_to(module)
        if reduced is not NotImplemented and reduced[0] is not _find_decorated:
            self._note_imports(function)
        return reduced

    def _reduce_class(self, cls: type) -> typing.Any:
        module = cls.__module__
        if _kind_of(module) is ModuleKind.UNREACHABLE and _is_written_in_python(cls):
            reduced = _cloudpickle._dynamic_class_reduce(cls)
        else:
            reduced = _cloudpickle._class_reduce(cls)
            self._refer_to(module)
        if reduced is NotImplemented or reduced[-1] is not _cloudpickle._class_setstate:
            return reduced
        make, arguments, state, *_ = reduced
        if _PARENT_NAMESPACE in state[0]:
            state[0][_PARENT_NAMESPACE] = None
        return _find_or_make_class, (make, *arguments), state, None, None, _set_class_state

    def _reduce_module(self, module: types.ModuleType) -> typing.Any:
        name = module.__name__
        if _kind_of(name) is ModuleKind.UNREACHABLE and name != "__main__":
            content = {k: v for k, v in vars(module).items() if k not in _MODULE_MACHINERY}
            return _cloudpickle.dynamic_subimport, (name, content)
        self._refer_to(name)
        return _cloudpickle._module_reduce(module)

    def _reduce_named(self, obj: typing.Any, by_value: typing.Callable[[typing.Any], typing.Any]) -> typing.Any:
        """What pickle would look up in its module by name."""
        module = obj.__module__
        name = getattr(obj, "__qualname__", obj.__name__)
        if _kind_of(module) is ModuleKind.UNREACHABLE:
            return by_value(obj)
        if _cloudpickle._lookup_module_and_qualname(obj, name=name) is None:
            return by_value(obj)
        self._refer_to(module)
        return NotImplemented

    def _refer_to(self, module: str | None) -> None:
        kind = _kind_of(module)
        if module is None:
            return
        if kind is ModuleKind.INSTALLED:
            self.installed.add(module)
        elif kind is ModuleKind.LOCAL:
            self.modules.add(module)
        elif kind is ModuleKind.COMPILED:
            raise pickle.PicklingError(
                f"module {module!r} is a compiled extension beside your sources, which cannot travel; "
                "build a wheel of it and list that in dependencies"
            )

    def _note_imports(self, function: types.FunctionType) -> None:
        """Note what a function that goes by value imports when it runs."""
        package = function.__globals__.get("__package__")
        for statement in imports_of_code(function.__code__):
            for name in statement.modules(package):
                if module_kind(name) is ModuleKind.LOCAL:
                    self.modules.add(name)
                else:
                    self.installed.add(name)
        if not self._has_main and function.__globals__.get("__name__") == "__main__":
            self._has_main = True
            self.modules |= imports_of_main()


#: What a module has that its copy must not: it would be unpicklable, or untrue on the worker.
_MODULE_MACHINERY = frozenset({"__builtins__", "__loader__", "__spec__", "__cached__"})


def _kind_of(module: object) -> ModuleKind:
    # __module__ is None for a function made by exec() without a name, and can be set to anything.
    return module_kind(module) if isinstance(module, str) else ModuleKind.INSTALLED


def _is_written_in_python(cls: type) -> bool:
    return bool(cls.__flags__ & (1 << 9))  # Py_TPFLAGS_HEAPTYPE: no static type of a C extension


def _reduce_decorated(function: types.FunctionType) -> tuple[typing.Any, ...] | None:
    """By reference, if the module has in its place a decorator's object that leads to it by `__wrapped__`."""
    module = function.__module__
    holder: object = sys.modules.get(module) if isinstance(module, str) else None
    if holder is None or "<" in function.__qualname__:
        return None
    for name in function.__qualname__.split("."):
        holder = getattr(holder, name, None)
    for depth in range(1, _DECORATORS_LIMIT + 1):
        holder = getattr(holder, "__wrapped__", None)
        if holder is function:
            return _find_decorated, (module, function.__qualname__, depth)
    return None


def _find_decorated(module: str, qualname: str, depth: int) -> object:
    found: typing.Any = importlib.import_module(module)
    for name in [*qualname.split("."), *["__wrapped__"] * depth]:
        found = getattr(found, name)
    return found


def _find_or_make_class(make: typing.Callable[..., type], *arguments: typing.Any) -> type:
    """The class that came by value before, or an empty one; never a second one beside the first.

    cloudpickle makes one each time and throws it away, for which __init_subclass__ of the bases runs.
    """
    tracker_id = arguments[-2]
    with _rebuilding:
        cls: type | None = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
        if cls is None:
            cls = make(*arguments)
            _rebuilt_here.add(cls)
        return cls


def is_class_by_value(reduced: typing.Any) -> bool:
    """Return whether this is how `Pickler` reduces a class that goes by value."""
    return isinstance(reduced, tuple) and reduced[0] is _find_or_make_class


def make_class_anew(make: typing.Callable[..., type], *arguments: typing.Any) -> type:
    """The empty class for a pickle that names none of its classes: within it, a class is made once."""
    with _rebuilding:
        cls = make(*arguments)
        _rebuilt_here.add(cls)
        return cls


def _set_class_state(cls: type, state: tuple[dict[str, object], dict[str, object]]) -> type:
    """Fill in a class that came by value, unless it is the original, defined here and come back.

    cloudpickle would replace the methods of the original by copies with globals of their own.
    """
    if cls in _rebuilt_here:
        _cloudpickle._class_setstate(cls, state)
    return cls
