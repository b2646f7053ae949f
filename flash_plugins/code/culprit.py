# SPDX-License-Identifier: Apache-2.0
"""Finds which part of an object cannot be pickled. Runs only after pickling has failed."""

from __future__ import annotations

import functools
import io
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cloudpickle import cloudpickle as _cloudpickle

from flash_plugins.errors import UnpicklableError

__all__ = ["explained"]

#: Seconds after which the search stops; the message then names the deepest part found so far.
_SEARCH_LIMIT_S = 2.0

#: Parts looked at, for the same reason.
_SEARCH_LIMIT_PARTS = 2000

#: Depth of the path shown.
_DEPTH_LIMIT = 40

#: What to do instead, by words in the name of the culprit's type.
_REMEDIES = (
    ("lock", "create it inside the function, or drop it in __getstate__"),
    ("thread", "create it inside the function, or drop it in __getstate__"),
    ("socket", "connect inside the function"),
    ("connection", "connect inside the function"),
    ("cursor", "connect inside the function"),
    ("session", "create it inside the function"),
    ("client", "create it inside the function"),
    ("generator", "pass a list of its items, or the arguments to make it from"),
    ("coroutine", "await it first and pass the result"),
    ("iowrapper", "pass the path and open it inside the function"),
    ("buffered", "pass the path and open it inside the function"),
    ("fileio", "pass the path and open it inside the function"),
    ("queue", "pass the items, or create it inside the function"),
    ("weak", "pass the object itself, or drop it in __getstate__"),
    ("memoryview", "pass bytes"),
)


def explained(obj: object, what: str, error: Exception) -> UnpicklableError:
    """Return the error: what failed, where in it, and the likely remedy."""
    if isinstance(error, RecursionError) or "recursion" in str(error):
        problem = "is nested too deeply; pass it in smaller pieces"
        return UnpicklableError(f"{what} cannot be pickled: it {problem}", problem=problem)
    search = _Search(time.monotonic() + _SEARCH_LIMIT_S)
    found = search.descend(obj, error, ())
    culprit, reason = found.culprit, found.reason
    type_name = type(culprit).__qualname__
    if type(culprit).__module__ not in ("builtins", "__main__"):
        type_name = f"{type(culprit).__module__}.{type_name}"
    article = "an" if type_name[0] in "aeiouAEIOU" else "a"
    problem = f"is {article} {type_name} ({_one_line(reason)}); {_remedy(type_name, reason)}"
    where = UnpicklableError.joined(found.path) or "it"
    return UnpicklableError(f"{what} cannot be pickled: {where} {problem}", path=found.path, problem=problem)


def _remedy(type_name: str, reason: Exception) -> str:
    if "compiled extension" in str(reason):
        return "or keep it out of what is sent"
    for word, remedy in _REMEDIES:
        if word in type_name.lower():
            return remedy
    return "create it inside the function, or give its class a __getstate__ or __reduce__"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


@dataclass
class _Found:
    path: tuple[str, ...]
    culprit: object
    reason: Exception
    #: No part of it fails by itself, nor leads back to where the search came from.
    is_certain: bool


@dataclass
class _Search:
    """Walks down from an object into the parts that fail on their own."""

    deadline: float
    left: int = _SEARCH_LIMIT_PARTS
    #: By id, also to keep them alive: ids must not be reused.
    seen: dict[int, object] = field(default_factory=dict)

    def descend(self, obj: object, error: Exception, path: tuple[str, ...], depth: int = 0) -> _Found:
        self.seen[id(obj)] = obj
        candidate: _Found | None = None
        leads_back = False
        for label, part in _parts(obj) if depth < _DEPTH_LIMIT else ():
            if id(part) in self.seen:
                leads_back = True
                continue
            self.left -= 1
            if self.left < 0 or time.monotonic() > self.deadline:
                break
            failure = _failure_of(part)
            if failure is None:
                continue
            found = self.descend(part, failure, (*path, label), depth + 1)
            if found.is_certain:
                return found
            # A method that fails through its class, say: look for the part of the class that fails.
            candidate = candidate or found
        return candidate or _Found(path, obj, error, is_certain=not leads_back)


class _Nowhere(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, chunk: Any, /) -> int:
        return len(chunk)


def _failure_of(part: object) -> Exception | None:
    from flash_plugins.code.pickling import Pickler  # here: it imports this module when it fails

    try:
        Pickler(_Nowhere()).dump(part)
    except Exception as error:  # noqa: BLE001 - the user's __reduce__ raises what it likes, and that is the answer
        return error
    return None


def _parts(obj: object) -> Iterator[tuple[str, object]]:
    """What is pickled as part of `obj`, each with the text that leads to it."""
    if isinstance(obj, dict) and type(obj).__reduce__ is object.__reduce__:
        for key, value in list(obj.items()):
            yield f"[{_short(key)}]", value
        yield from ((f" key {_short(key)}", key) for key in list(obj))
    elif type(obj) in (list, tuple):
        yield from ((f"[{i}]", item) for i, item in enumerate(obj))  # type: ignore[arg-type, var-annotated]
    elif type(obj) in (set, frozenset):
        yield from ((f" member {_short(item)}", item) for item in list(obj))  # type: ignore[call-overload]
    elif isinstance(obj, types.FunctionType):
        yield from _function_parts(obj)
    elif isinstance(obj, types.MethodType):
        yield ".__self__", obj.__self__
        yield ".__func__", obj.__func__
    elif isinstance(obj, functools.partial):
        yield ".func", obj.func
        yield from ((f".args[{i}]", item) for i, item in enumerate(obj.args))
        yield from ((f".keywords[{k!r}]", item) for k, item in obj.keywords.items())
    elif isinstance(obj, type):
        yield from ((f".{name}", value) for name, value in list(vars(obj).items()))
    elif isinstance(obj, (classmethod, staticmethod)):
        yield ".__func__", obj.__func__
    elif isinstance(obj, property):
        yield from ((f".{name}", getattr(obj, name)) for name in ("fget", "fset", "fdel"))
    else:
        yield from _instance_parts(obj)


def _function_parts(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    name = function.__qualname__
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f" variable {variable!r} that {name}() captures", cell.cell_contents
        except ValueError:
            continue  # an empty cell: the variable has no value yet
    for used in _cloudpickle._extract_code_globals(function.__code__):
        if used in function.__globals__:
            yield f" global {used!r} that {name}() uses", function.__globals__[used]
    for i, default in enumerate(function.__defaults__ or ()):
        yield f" default {i} of {name}()", default
    for parameter, default in (function.__kwdefaults__ or {}).items():
        yield f" default of {parameter!r} of {name}()", default
    yield from ((f".{attribute}", value) for attribute, value in list(vars(function).items()))


def _instance_parts(obj: object) -> Iterator[tuple[str, object]]:
    try:
        reduced = obj.__reduce_ex__(5)
    except Exception:  # noqa: BLE001 - the object itself is the culprit, whatever its __reduce__ raised
        return
    if not isinstance(reduced, tuple):
        return
    state = reduced[2] if len(reduced) > 2 else None
    halves = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for half in halves:
        if isinstance(half, dict):
            yield from ((f".{key}", value) for key, value in list(half.items()))
        elif half is not None:
            yield " state", half
    for i, argument in enumerate(reduced[1]):
        if not (i == 0 and isinstance(argument, type)):
            yield f" argument {i} of its __reduce__", argument
    if len(reduced) > 3 and reduced[3] is not None:
        yield from ((f"[{i}]", item) for i, item in enumerate(list(obj)))  # type: ignore[call-overload]
    if len(reduced) > 4 and reduced[4] is not None:
        yield from ((f"[{_short(key)}]", value) for key, value in list(obj.items()))  # type: ignore[attr-defined]
    yield " its class", type(obj)


def _short(key: object) -> str:
    try:
        text = repr(key)
    except Exception:  # noqa: BLE001 - a __repr__ of the user's must not hide the real error
        text = f"<{type(key).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."
