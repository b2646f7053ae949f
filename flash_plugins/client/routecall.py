# SPDX-License-Identifier: Apache-2.0
"""A call of a route function as the HTTP request that its worker reads the same arguments from.

The counterpart of `worker.parameters`, without FastAPI, which callers need not have.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ..errors import ConfigError
from ..routes import Route
from .places import IN_PATH, Kind, Place, hints_of, is_model, places_of

__all__ = ["decoder_of", "request_of"]


def request_of(route: Route, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return path, data, params, headers and files of the request that calls a route function with these arguments.

    Raises:
        TypeError: The function does not take them, as Python itself says it.
    """
    places = places_of(route)
    values = _bound(route, places, args, kwargs)
    request: dict[str, Any] = {"path": _path(route, values)}
    at: dict[Kind, dict[str, Any]] = {kind: {} for kind in Kind}
    for name, value in values.items():
        at[places[name].kind][places[name].alias] = value
    if at[Kind.HEADER]:
        request["headers"] = {name: str(value) for name, value in at[Kind.HEADER].items() if value is not None}
    if any(place.kind in (Kind.FORM, Kind.FILE) for place in places.values()):
        request["data"] = {**at[Kind.FORM], **at[Kind.FIELD]}
        request["files"] = {name: _file(name, file) for name, file in at[Kind.FILE].items() if file is not None}
    else:
        request |= _body(route, places, {**at[Kind.FIELD], **at[Kind.BODY]})
    if route.method == "GET" or at[Kind.QUERY]:
        request["params"] = {name: value for name, value in at[Kind.QUERY].items() if value is not None}
    return request


def decoder_of(route: Route) -> Callable[[Any], Any] | None:
    """Return what makes the result out of the content of an answer, None where that is it.

    A function that returns a model of pydantic, by its annotation, gives one.
    """
    annotation: Any = hints_of(route.function).get("return")
    if not is_model(annotation):
        return None
    return lambda content: annotation.model_validate(content) if isinstance(content, dict) else content


def _bound(route: Route, places: Mapping[str, Place], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        bound = inspect.signature(route.function).bind_partial(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{route.function_name}() {error}") from None
    missing = [name for name, place in places.items() if name not in bound.arguments and place.is_required]
    if missing:
        raise TypeError(f"{route.function_name}() missing the arguments {', '.join(map(repr, missing))}")
    for name in bound.arguments:
        if name not in places:
            raise TypeError(f"{route.function_name}(): what *args and **kwargs take does not travel to a route")
        if places[name].kind is Kind.PROVIDED:
            raise TypeError(f"{route.function_name}(): {name!r} is made on the worker, by FastAPI, and is not sent")
    return dict(bound.arguments)


def _body(route: Route, places: Mapping[str, Place], values: Mapping[str, Any]) -> dict[str, Any]:
    wholes = [place for place in places.values() if place.kind is Kind.BODY]
    if len(wholes) == 1 and not wholes[0].is_embedded:
        return {"data": values.get(wholes[0].alias)}
    return {"data": dict(values) or None} if wholes or route.method != "GET" else {}


def _path(route: Route, values: dict[str, Any]) -> str:
    """Return the path, with the values of its parameters taken out of `values`."""

    def filled(match: re.Match[str]) -> str:
        name, converter = match[1], match[2]
        if name not in values:
            raise ConfigError(f"{route.method} {route.path}: {route.function_name}() has no parameter {name!r}")
        text = str(values.pop(name))
        if not text or ("/" in text and converter != "path"):
            raise ConfigError(
                f"{route.method} {route.path}: {name}={text!r} cannot be a part of the path, which is not empty and "
                f"has no '/'; let the route have {{{name}:path}}, or take it from the query"
            )
        return quote(text, safe="/" if converter == "path" else "")

    return IN_PATH.sub(filled, route.path)


def _file(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [(name, entry) for entry in value]
    return None if value is None else (name, value)
