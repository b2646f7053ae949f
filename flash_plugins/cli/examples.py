# SPDX-License-Identifier: Apache-2.0
"""A command line that uses what was deployed, with something for each parameter that must be given."""

from __future__ import annotations

import inspect
import json
import shlex
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..platforms import api

if TYPE_CHECKING:
    from ..client.provisioned import ProvisionedEndpoint
    from ..endpoint import Endpoint
    from ..routes import Route

__all__ = ["curl_example"]

#: What a parameter may be given, by the name of its annotation; anything else is given a text.
_EXAMPLES: Mapping[str, Any] = {"int": 1, "float": 1.5, "bool": True, "list": [], "dict": {}}


def curl_example(endpoint: Endpoint, made: ProvisionedEndpoint) -> str:
    """Return a command line that uses an endpoint that was deployed."""
    if made.base_url is None:
        return _curl("POST", made.request_urls["runSync"], {"input": _job_input(endpoint) or api.EMPTY_INPUT})
    route = next(iter(endpoint.routes), None)
    if route is None:  # calls of functions come from Python only; whether a worker answers, anybody can ask
        return _curl("GET", made.request_urls.get("health", f"{made.base_url}/"), None)
    return _curl(route.method, f"{made.base_url}{route.path}", _route_body(route))


def _job_input(endpoint: Endpoint) -> dict[str, Any]:
    """Return an input for the first function, or the first method of the first class."""
    functions = [(target.__name__, target.undecorated) for target in endpoint._targets]  # type: ignore[union-attr]
    if not functions:
        return {}
    name, target = functions[0]
    chosen: dict[str, Any] = {} if len(functions) == 1 else {"__function": name}
    if inspect.isclass(target):
        methods = [name for name in vars(target) if not name.startswith("_") and callable(getattr(target, name))]
        if not methods:
            return chosen
        if len(methods) > 1:
            chosen["method"] = methods[0]
        target = getattr(target, methods[0])
    return {**chosen, **_parameters(target)}


def _route_body(route: Route) -> Mapping[str, Any] | None:
    if route.method == "GET":
        return None
    fields = {name: value for name, value in _parameters(route.function).items() if f"{{{name}}}" not in route.path}
    models = [value for value in fields.values() if isinstance(value, _Model)]
    return models[0] if models else fields  # a model is the body itself


def _curl(method: str, url: str, body: Mapping[str, Any] | None) -> str:
    words = ["curl", *(["-X", method] if method != "GET" else []), shlex.quote(url)]
    words += ["-H", '"Authorization: Bearer $RUNPOD_API_KEY"']
    if body is not None:
        words += ["-H", "'Content-Type: application/json'", "-d", shlex.quote(json.dumps(body))]
    return " ".join(words)


def _parameters(function: Any) -> dict[str, Any]:
    """Return the parameters of a function that must be given, each with an example."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # made in C, and tells nothing
        return {}
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - whatever evaluating somebody's annotations raises: the names alone must do
        hints = {}
    return {p.name: _example_of(hints.get(p.name, p.annotation)) for p in needed if p.name != "self"}


class _Model(dict[str, Any]):
    """An example of a pydantic model."""


def _example_of(annotation: Any) -> Any:
    fields = getattr(annotation, "model_fields", None)
    if isinstance(fields, Mapping):
        return _Model({name: _example_of(field.annotation) for name, field in fields.items() if field.is_required()})
    return _EXAMPLES.get(_name_of(annotation), "text")


def _name_of(annotation: Any) -> str:
    name = annotation if isinstance(annotation, str) else str(getattr(annotation, "__name__", ""))
    return name.partition("[")[0]
