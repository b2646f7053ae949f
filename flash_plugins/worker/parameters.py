# SPDX-License-Identifier: Apache-2.0
"""How the parameters of a route function are read from a request, told to FastAPI as a signature.

    {name} in the path        from the path
    GET                       from the query
    other methods             each parameter a field of one JSON object; or, if one of them
      is a model of pydantic  the model is the body itself, and the others come from the query
      is bytes                bytes are multipart files, the others form fields

What FastAPI itself knows how to provide (`Request`, `Depends(…)`, `Header()` and the like) is left to it. `*args` and
`**kwargs` get nothing; a parameter without an annotation takes any value; defaults are the function's own.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Any

import fastapi.params
from fastapi import BackgroundTasks, File, Form, Query, UploadFile
from fastapi.security import SecurityScopes
from pydantic import BaseModel, BeforeValidator, Field, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticUndefined, from_json
from starlette.requests import HTTPConnection
from starlette.responses import Response

from ..code.cargo import CargoRoute

__all__ = ["Parameters", "RouteError"]

_IN_PATH = re.compile(r"{(\w+)(?::\w+)?}")
_SKIPPED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_INJECTED_TYPES = (HTTPConnection, Response, BackgroundTasks, SecurityScopes)
_INJECTED_MARKS = (fastapi.params.Param, fastapi.params.Body, fastapi.params.Depends)
_LISTS = (list, tuple, set, frozenset, Sequence, Set)
#: Name of the parameter that holds the fields of the body, none that a user's function would have.
_FIELDS = "flash_fields"


class RouteError(Exception):
    """A route cannot be served as its function is written."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    annotation: Any
    default: Any
    is_positional: bool

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def said(self, annotation: Any = None) -> inspect.Parameter:
        """Return it for FastAPI, with this annotation in place of its own."""
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=self.default,
            annotation=self.annotation if annotation is None else annotation,
        )


class Parameters:
    """The parameters of one route.

    Raises:
        RouteError: They cannot be read from a request; the message names route and parameter.
    """

    def __init__(self, route: CargoRoute) -> None:
        self._route = route
        self._all = _parameters_of(route)
        self._fields: dict[str, str] = {}
        self._marked: set[str] = set()
        self._model: type[BaseModel] | None = None
        in_path = set(_IN_PATH.findall(route.path))
        own = [p for p in self._all if p.name not in in_path]
        injected = [p for p in own if _is_injected(p)]
        read = [p for p in own if not _is_injected(p)]
        if route.method != "GET" and read and not any(_is_model(p.annotation) or _is_file(p.annotation) for p in read):
            # Fields of the one body, too: FastAPI would put its own two next to each other, under names of ours.
            marked = [p for p in injected if _body_mark(p) is not None]
            injected, read = [p for p in injected if p not in marked], read + marked
        self.signature = [
            *(_without_default(p).said() for p in self._all if p.name in in_path),
            *(p.said() for p in injected),
            *(self._queried(read) if route.method == "GET" else self._in_body(read)),
        ]

    @property
    def takes_websocket(self) -> bool:
        """Whether the function talks over a WebSocket."""
        from starlette.websockets import WebSocket

        return any(isinstance(p.annotation, type) and issubclass(p.annotation, WebSocket) for p in self._all)

    def arguments(self, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return what to call the function with, of what FastAPI found for `signature`."""
        values = dict(given)
        body = values.pop(_FIELDS, None)
        if body is None and self._marked and self._model is not None:
            body = self._model()  # no body was sent, and no field of it is required
        if body is not None:
            # Fields that were not sent are left to the function's own defaults, unless those are `Body(…)`.
            values |= {self._fields[field]: getattr(body, field) for field in {*body.model_fields_set, *self._marked}}
        args = []
        for parameter in self._all:
            if not parameter.is_positional:
                break
            if parameter.name not in values and not parameter.is_required:
                values[parameter.name] = parameter.default
            args.append(values.pop(parameter.name))
        return args, values

    def _queried(self, parameters: list[_Parameter]) -> list[inspect.Parameter]:
        return [p.said(Annotated[p.annotation, Query()] if _is_list(p.annotation) else None) for p in parameters]

    def _in_body(self, parameters: list[_Parameter]) -> list[inspect.Parameter]:
        if any(_is_model(p.annotation) for p in parameters):
            return [p.said() for p in parameters]
        if any(_is_file(p.annotation) for p in parameters):
            return [
                p.said(Annotated[p.annotation, File() if _is_file(p.annotation) else Form()])
                if _is_file(p.annotation) or _is_simple(p.annotation)
                else p.said(Annotated[p.annotation, BeforeValidator(_from_text), Form()])
                for p in parameters
            ]
        return self._as_fields(parameters) if parameters else []

    def _as_fields(self, parameters: list[_Parameter]) -> list[inspect.Parameter]:
        fields: dict[str, Any] = {}
        for number, parameter in enumerate(parameters):
            # Under names of ours: a field may not begin with `_` nor be called `json`, and a parameter may.
            field = f"field_{number}"
            self._fields[field] = parameter.name
            default = ... if parameter.is_required else parameter.default
            alias, mark = parameter.name, _body_mark(parameter)
            if mark is not None:
                alias = mark.alias or alias
            if isinstance(default, fastapi.params.Body):
                self._marked.add(field)
                default = default.get_default(call_default_factory=True)
                default = ... if default is PydanticUndefined else default
            fields[field] = (parameter.annotation, Field(default, alias=alias, title=_title(parameter.name)))
        name = "".join(part.title() for part in _function_name(self._route).split("_")) + "Body"
        try:
            model = create_model(name, **fields)
        except (PydanticUserError, TypeError) as error:
            raise RouteError(
                f"{self._route.name}: {self._culprit(parameters)} cannot be read from JSON ({error}); annotate it as "
                "the JSON that callers send, such as list[float], and convert it in the function"
            ) from error
        self._model = model
        is_optional = not any(field.is_required() for field in model.model_fields.values())
        said = inspect.Parameter(
            _FIELDS,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[model | None if is_optional else model, fastapi.Body()],
            default=None if is_optional else inspect.Parameter.empty,
        )
        return [said]

    def _culprit(self, parameters: list[_Parameter]) -> str:
        for parameter in parameters:
            try:
                create_model("Alone", field=(parameter.annotation, ...))
            except (PydanticUserError, TypeError):
                return f"parameter {parameter.name!r}, annotated {parameter.annotation!r},"
        return "its parameters"


def _parameters_of(route: CargoRoute) -> list[_Parameter]:
    try:
        signature = inspect.signature(route.function)
    except (TypeError, ValueError) as error:
        raise RouteError(f"{route.name}: its parameters cannot be found out ({error}); wrap it in a def") from error
    hints = route.hints or {}
    return [
        _Parameter(p.name, hints.get(p.name, Any), p.default, p.kind is p.POSITIONAL_ONLY)
        for p in signature.parameters.values()
        if p.kind not in _SKIPPED
    ]


def _without_default(parameter: _Parameter) -> _Parameter:
    return _Parameter(parameter.name, parameter.annotation, inspect.Parameter.empty, parameter.is_positional)


def _is_injected(parameter: _Parameter) -> bool:
    annotation, marks = parameter.annotation, [parameter.default]
    if typing.get_origin(annotation) is Annotated:
        annotation, *more = typing.get_args(annotation)
        marks += more
    is_provided = isinstance(annotation, type) and issubclass(annotation, _INJECTED_TYPES)
    return is_provided or any(isinstance(mark, _INJECTED_MARKS) for mark in marks)


def _body_mark(parameter: _Parameter) -> fastapi.params.Body | None:
    """Return the `Body(…)` that it is marked with, None where there is none; forms and files are something else."""
    metadata = getattr(parameter.annotation, "__metadata__", ())
    return next((mark for mark in (parameter.default, *metadata) if type(mark) is fastapi.params.Body), None)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union without None, else the annotation alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(member for member in typing.get_args(annotation) if member is not type(None))
    return (annotation,)


def _is_list(annotation: Any) -> bool:
    return any((typing.get_origin(member) or member) in _LISTS for member in _alternatives(annotation))


def _is_file(annotation: Any) -> bool:
    for member in _alternatives(annotation):
        content = typing.get_args(member)[:1] if _is_list(member) else (member,)
        if any(kind is bytes or (isinstance(kind, type) and issubclass(kind, UploadFile)) for kind in content):
            return True
    return False


def _is_simple(annotation: Any) -> bool:
    """Whether a form field of it is its text."""
    kinds: list[Any] = [typing.get_origin(member) or member for member in _alternatives(annotation)]
    return not any(isinstance(kind, type) and issubclass(kind, Mapping | BaseModel) for kind in kinds)


def _from_text(value: Any) -> Any:
    """Return the object whose JSON was sent in a form field."""
    return from_json(value) if isinstance(value, str) else value


def _title(name: str) -> str:
    return name.replace("_", " ").strip().title() or name


def _function_name(route: CargoRoute) -> str:
    return str(getattr(route.function, "__name__", type(route.function).__name__)).strip("<>")
