# SPDX-License-Identifier: Apache-2.0
"""Where in a request the worker of a route looks for each parameter of its function.

The counterpart of `worker.parameters`, without FastAPI, which callers need not have: its marks (`Query()`, `Body()`,
`Depends()`, …) are known by their names.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..routes import Route

__all__ = ["IN_PATH", "Kind", "Place", "hints_of", "is_model", "places_of"]

#: `{name}` and `{name:path}` in the path of a route.
IN_PATH: Final = re.compile(r"{(\w+)(?::(\w+))?}")
_UNNAMED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Kind(enum.Enum):
    """Parts of a request."""

    PATH = enum.auto()
    QUERY = enum.auto()
    HEADER = enum.auto()
    #: One key of the object that is the body.
    FIELD = enum.auto()
    #: The body itself; where there are several, each is a key of it.
    BODY = enum.auto()
    FORM = enum.auto()
    FILE = enum.auto()
    #: FastAPI makes it on the worker: the request, what `Depends` says.
    PROVIDED = enum.auto()


_OF_MARKS: Final = {
    "Query": Kind.QUERY,
    "Header": Kind.HEADER,
    "Body": Kind.BODY,
    "Form": Kind.FORM,
    "File": Kind.FILE,
    "Cookie": Kind.PROVIDED,
    "Depends": Kind.PROVIDED,
    "Security": Kind.PROVIDED,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where one parameter is.

    Attributes:
        alias: Its name there.
        is_required: Whether a call has to give it.
        is_embedded: Whether it is a key of the body even where it is alone.
    """

    kind: Kind
    alias: str
    is_required: bool
    is_embedded: bool = False


def places_of(route: Route) -> dict[str, Place]:
    """Return the place of each parameter; `*args` and `**kwargs` have none."""
    hints = hints_of(route.function)
    named = {
        name: parameter
        for name, parameter in inspect.signature(route.function).parameters.items()
        if parameter.kind not in _UNNAMED
    }
    in_path = {name for name, _ in IN_PATH.findall(route.path)}
    places = {name: _stated(parameter, hints.get(name)) for name, parameter in named.items() if name not in in_path}
    kinds = _unmarked_kinds(route.method, {name: hints.get(name) for name, place in places.items() if place is None})
    # What is marked as the body is a field where there are others.
    marked = Kind.FIELD if Kind.FIELD in kinds.values() else Kind.BODY
    found = {}
    for name, parameter in named.items():
        place = places.get(name)
        if place is None:
            found[name] = Place(kinds.get(name, Kind.PATH), name, parameter.default is parameter.empty)
        else:
            found[name] = dataclasses.replace(place, kind=marked) if place.kind is Kind.BODY else place
    return found


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function, resolved where that is possible here."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - annotations are any expressions of the user's, and may name what is not here
        return {name: _hint_of(function, name) for name in getattr(function, "__annotations__", {})}


def _hint_of(function: Any, name: str) -> Any:
    only = types.SimpleNamespace(__annotations__={name: function.__annotations__[name]})
    try:
        return typing.get_type_hints(only, getattr(function, "__globals__", {}), include_extras=True)[name]
    except Exception:  # noqa: BLE001 - as above; one that means nothing here keeps its text
        return function.__annotations__[name]


def is_model(annotation: Any) -> bool:
    """Return whether it is a class of pydantic's models."""
    return isinstance(annotation, type) and hasattr(annotation, "model_validate")


def _stated(parameter: inspect.Parameter, hint: Any) -> Place | None:
    """Return the place that the parameter itself says, None where it says none."""
    name, default = parameter.name, parameter.default
    for mark in (default, *getattr(hint, "__metadata__", ())):
        kind = _OF_MARKS.get(type(mark).__name__) if _is_of_framework(type(mark)) else None
        if kind is None:
            continue
        if kind is Kind.PROVIDED:
            return Place(kind, name, is_required=False)
        alias = getattr(mark, "alias", None) or name
        if kind is Kind.HEADER and alias == name and mark.convert_underscores:
            alias = name.replace("_", "-")
        is_required = mark.is_required() if mark is default else default is parameter.empty
        return Place(kind, alias, is_required, bool(getattr(mark, "embed", None)))
    if _is_of_framework(_bare(hint)) and not _is_file(hint):
        return Place(Kind.PROVIDED, name, is_required=False)
    return None


def _is_of_framework(annotation: Any) -> bool:
    home = annotation if isinstance(annotation, str) else getattr(annotation, "__module__", "") or ""
    return str(home).partition(".")[0] in ("fastapi", "starlette", "Request", "WebSocket", "Response")


def _unmarked_kinds(method: str, hints: Mapping[str, Any]) -> dict[str, Kind]:
    """Return the kinds of the parameters that say none themselves: they depend on one another."""
    if method == "GET" or any(map(is_model, hints.values())):
        lists = () if method == "GET" else (Sequence, set, frozenset)
        return {name: Kind.BODY if _is_object(hint, lists) else Kind.QUERY for name, hint in hints.items()}
    if any(map(_is_file, hints.values())):
        return {name: Kind.FILE if _is_file(hint) else Kind.FORM for name, hint in hints.items()}
    return dict.fromkeys(hints, Kind.FIELD)


def _is_object(hint: Any, more: tuple[type, ...]) -> bool:
    """Return whether FastAPI takes it from the body rather than from the query."""
    for member in _alternatives(hint):
        kind = typing.get_origin(member) or member
        if not isinstance(kind, type) or issubclass(kind, str | bytes):
            continue
        if is_model(kind) or dataclasses.is_dataclass(kind) or issubclass(kind, (Mapping, *more)):
            return True
    return False


def _is_file(hint: Any) -> bool:
    """Return whether a worker reads it from a file of the form."""
    for member in _alternatives(hint):
        content = typing.get_args(member)[:1] if typing.get_origin(member) is not None else (member,)
        if any(kind is bytes or getattr(kind, "__name__", "") == "UploadFile" for kind in content):
            return True
    return False


def _alternatives(hint: Any) -> Sequence[Any]:
    """Return the members of a union without None, else the annotation alone."""
    hint = _bare(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [member for member in typing.get_args(hint) if member is not type(None)]
    return [hint]


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
