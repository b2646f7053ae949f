# SPDX-License-Identifier: Apache-2.0
"""A call of a route function as the HTTP request that its worker reads the same arguments from.

The counterpart of `worker.parameters`, without FastAPI, which callers need not have.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ..errors import ConfigError
from ..routes import Route

__all__ = ["decoder_of", "request_of"]

#: `{name}` and `{name:path}` in the path of a route.
_IN_PATH = re.compile(r"{(\w+)(?::(\w+))?}")
_UNNAMED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def request_of(route: Route, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return path, data, params and files of the request that calls a route function with these arguments.

    Raises:
        TypeError: The function does not take them, as Python itself says it.
    """
    values = _bound(route, args, kwargs)
    hints = _hints(route.function)
    path = _path(route, values)
    if route.method == "GET":
        return {"path": path, "params": _query(values)}
    models = [name for name in values if _is_model(hints.get(name))]
    if models:
        body = values.pop(models[0]) if len(models) == 1 else {name: values.pop(name) for name in models}
        return {"path": path, "data": body, "params": _query(values)}
    files = {name: _file(name, values[name]) for name in values if _is_file(hints.get(name))}
    if files:
        fields = {name: value for name, value in values.items() if name not in files}
        return {"path": path, "data": fields, "files": {name: file for name, file in files.items() if file is not None}}
    return {"path": path, "data": values or None}


def decoder_of(route: Route) -> Callable[[Any], Any] | None:
    """Return what makes the result out of the content of an answer, None where that is it.

    A function that returns a model of pydantic, by its annotation, gives one.
    """
    annotation: Any = _hints(route.function).get("return")
    if not _is_model(annotation):
        return None
    return lambda content: annotation.model_validate(content) if isinstance(content, dict) else content


def _bound(route: Route, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(route.function)
    try:
        bound = signature.bind_partial(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{route.function_name}() {error}") from None
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if name not in bound.arguments and parameter.default is parameter.empty and not _is_provided(parameter)
    ]
    if missing:
        raise TypeError(f"{route.function_name}() missing the arguments {', '.join(map(repr, missing))}")
    surplus = [name for name in bound.arguments if signature.parameters[name].kind in _UNNAMED]
    if surplus:
        raise TypeError(f"{route.function_name}(): what *args and **kwargs take does not travel to a route")
    return dict(bound.arguments)


def _is_provided(parameter: inspect.Parameter) -> bool:
    """Return whether FastAPI fills it in on the worker, or nobody does."""
    annotation = parameter.annotation
    home = annotation if isinstance(annotation, str) else getattr(annotation, "__module__", "") or ""
    is_of_framework = str(home).partition(".")[0] in ("fastapi", "starlette", "Request", "WebSocket", "Response")
    return parameter.kind in _UNNAMED or is_of_framework


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

    return _IN_PATH.sub(filled, route.path)


def _query(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _file(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [(name, entry) for entry in value]
    return None if value is None else (name, value)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - annotations are any expressions of the user's, and may name what is not here
        return dict(getattr(function, "__annotations__", {}))


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and hasattr(annotation, "model_validate")


def _is_file(annotation: Any) -> bool:
    """Return whether a worker reads it from a file of the form."""
    if annotation is None:
        return False
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    for member in typing.get_args(annotation) if is_union else (annotation,):
        content = typing.get_args(member)[:1] if typing.get_origin(member) is not None else (member,)
        if any(kind is bytes or getattr(kind, "__name__", "") == "UploadFile" for kind in content):
            return True
    return False
