# SPDX-License-Identifier: Apache-2.0
"""Jobs in plain JSON for the functions that were deployed with an endpoint, from any client that can send JSON.

    {"x": 3}                         the function, with x=3; without arguments {"__empty": true}
    {"__function": "name", …}        one of several functions
    {"method": "name", …}            a method of a class, whose one instance is made without arguments

The result is the job's output, as JSON. It never runs anything itself (see `runner`).
"""

from __future__ import annotations

import difflib
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..code.cargo import Cargo, PackedCargo
from ..errors import EnvelopeError
from ..payload import is_envelope
from .run import Prepared, Preparer

__all__ = ["Deployed", "is_plain"]

#: Keys of an input that are not arguments: which function, which method, and that there is no argument.
FUNCTION_KEY = "__function"
METHOD_KEY = "method"
EMPTY_KEY = "__empty"


def is_plain(content: object) -> bool:
    """Return whether this input of a job was written by hand rather than by a call from Python."""
    return not is_envelope(content)


class Deployed:
    """What an endpoint's plain jobs call. Thread-safe.

    Args:
        packed: What came with the endpoint, None if nothing did.
        problem: Why it cannot be used.
    """

    def __init__(self, preparer: Preparer, packed: PackedCargo | None, problem: str | None = None) -> None:
        self._preparer = preparer
        self._packed = packed
        self._problem = problem
        self._lock = threading.RLock()
        self._loaded: Cargo | None = None
        self._instances: dict[str, Any] = {}

    @property
    def packages(self) -> Mapping[str, str]:
        """What the functions use of what was installed where they come from, as an envelope states it."""
        return {} if self._packed is None else self._packed.packages

    def prepare(self, content: object) -> Prepared:
        """Return the call that an input in plain JSON asks for.

        Loading may import the user's packages, and make the instance of a class: whatever those raise comes out.

        Raises:
            EnvelopeError: Nothing was deployed, or the input does not say what to call.
            TypeError: Arguments are missing or unknown.
        """
        if self._problem is not None:
            raise EnvelopeError(self._problem)
        if self._packed is None:
            raise EnvelopeError(
                "this endpoint was created by calls from Python, and the job's input is plain JSON "
                f"({_sort(content)}); deploy it to call it with JSON: by provision() of the Endpoint, or flash-plugins "
                "deploy"
            )
        arguments = _arguments_in(content)
        with self._lock:
            cargo = self._preparer.deployed(self._packed)
            if cargo is not self._loaded:  # for the first time, or anew as a module of it has changed
                self._loaded, self._instances = cargo, {}
            name = _chosen(cargo.functions, arguments)
            target = cargo.functions[name]
            if inspect.isclass(target):
                target, name = self._method(target, name, arguments)
        return Prepared(target, *_bound(target, name, arguments))

    def _method(self, cls: type, name: str, arguments: dict[str, Any]) -> tuple[Callable[..., Any], str]:
        methods = [
            method
            for method, member in inspect.getmembers_static(cls)
            if not method.startswith("_")
            and (inspect.isfunction(member) or isinstance(member, classmethod | staticmethod))
        ]
        if not methods and any("__call__" in vars(base) for base in cls.__mro__):
            methods = ["__call__"]
        wanted = arguments.pop(METHOD_KEY, None)
        if len(methods) == 1 and wanted is None:
            wanted = methods[0]
        if wanted not in methods:
            given = f"has no method {wanted!r}" if wanted is not None else "has several methods"
            listed = ", ".join(sorted(methods)) or "none"
            raise EnvelopeError(f"class {name} {given}: give one of {listed} as {METHOD_KEY!r} in the input")
        if name not in self._instances:
            _bound(cls, f"{name}'s constructor", {})
            self._instances[name] = cls()
        return getattr(self._instances[name], wanted), f"{name}.{wanted}"


def _arguments_in(content: object) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise EnvelopeError(
            f"the job's input is {_sort(content)}: give an object whose keys are the function's parameters, such as "
            '{"input": {"x": 3}}'
        )
    arguments = dict(content)
    arguments.pop(EMPTY_KEY, None)
    return arguments


def _chosen(functions: Mapping[str, Any], arguments: dict[str, Any]) -> str:
    if not functions:
        raise EnvelopeError("no function was deployed with this endpoint: decorate one, and deploy it again")
    wanted = arguments.pop(FUNCTION_KEY, None)
    if wanted is None and len(functions) == 1:
        return next(iter(functions))
    if wanted not in functions:
        given = f"no function {wanted!r}" if wanted is not None else "several functions"
        raise EnvelopeError(
            f"this endpoint has {given}: give one of {', '.join(sorted(functions))} as {FUNCTION_KEY!r} in the input"
        )
    return str(wanted)


def _bound(
    function: Callable[..., Any], name: str, arguments: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments by name as the function takes them.

    Raises:
        TypeError: Some are missing, or there is no parameter of their name.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return (), arguments  # written in C, and tells none: it will say what is wrong
    empty, kinds = inspect.Parameter.empty, inspect.Parameter
    named = {n: p for n, p in signature.parameters.items() if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)}
    takes_any = any(p.kind is kinds.VAR_KEYWORD for p in signature.parameters.values())
    missing = [n for n, p in named.items() if n not in arguments and p.default is empty]
    unknown = [] if takes_any else [n for n in arguments if n not in named]
    if missing or unknown:
        raise TypeError(_complaint(name, list(named), missing, unknown))
    args, kwargs = [], dict(arguments)
    for parameter in named.values():
        if parameter.kind is not kinds.POSITIONAL_ONLY:
            break
        args.append(kwargs.pop(parameter.name, parameter.default))
    return tuple(args), kwargs


def _complaint(name: str, named: list[str], missing: list[str], unknown: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"lacks {', '.join(map(repr, missing))}")
    for one in unknown:
        close = difflib.get_close_matches(one, named, 1)
        parts.append(f"has {one!r}, which is no parameter" + (f" (did you mean {close[0]!r}?)" if close else ""))
    return f"{name}() takes {', '.join(named) or 'no arguments'}: the job's input {' and '.join(parts)}"


def _sort(content: object) -> str:
    if isinstance(content, Mapping):
        return f"an object with the keys {', '.join(sorted(map(str, content))[:6]) or '(none)'}"
    return f"a {type(content).__name__}"
