# SPDX-License-Identifier: Apache-2.0
"""The application of a load-balanced worker: routes of an endpoint, served by FastAPI. It opens no port."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fastapi import FastAPI, Request
from fastapi.exceptions import FastAPIError
from starlette.responses import Response

from ..code.cargo import CargoRoute
from .answers import answer
from .parameters import Parameters, RouteError

__all__ = ["Application", "RouteError"]

logger = logging.getLogger(__name__)

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Scope]]
_Send = Callable[[_Scope], Awaitable[None]]

#: Name of the parameter by which a route sees its request, none that a user's function would have.
_REQUEST = "flash_request"
#: Header by which a balancer says what it took off the front of the path: /docs must know.
_PREFIX_HEADER = b"x-forwarded-prefix"
_HEALTHY = b'{"status":"healthy"}'


class Application:
    """Answers health itself and leaves everything else to the routes; an ASGI application.

    Args:
        health_path: Where health is asked; a GET route at that path wins.

    Raises:
        RouteError: A route cannot be served; the message names it.
    """

    def __init__(self, routes: Iterable[CargoRoute], *, title: str, health_path: str) -> None:
        routes = list(routes)
        taken = {route.path for route in routes if route.method == "GET"}
        self._health_path = None if health_path in taken else health_path
        pages = {"openapi_url": "/openapi.json", "docs_url": "/docs", "redoc_url": "/redoc"}
        free = {name: None if path in taken else path for name, path in pages.items()}
        self._fastapi = FastAPI(title=title, **free)  # type: ignore[arg-type]  # texts or None, all three
        for route in routes:
            _add(self._fastapi, route)

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "http" and scope["path"] == self._health_path and scope["method"] in ("GET", "HEAD"):
            await Response(_HEALTHY, media_type="application/json")(scope, receive, send)
            return
        for name, value in scope.get("headers", ()):
            if name == _PREFIX_HEADER and value.startswith(b"/") and not value.startswith(b"//"):
                scope["root_path"] = value.decode("latin-1").rstrip("/")
        if scope["type"] == "http" and scope["method"] == "GET" and _has_json(scope):
            scope, receive = await _queried(scope, receive)
        await self._fastapi(scope, receive, send)


def _has_json(scope: _Scope) -> bool:
    headers = dict(scope["headers"])
    return b"json" in headers.get(b"content-type", b"") and headers.get(b"content-length", b"0") != b"0"


async def _queried(scope: _Scope, receive: _Receive) -> tuple[_Scope, _Receive]:
    """Return a GET request whose JSON object is in its query too: official clients send what they are given as JSON.

    What the query has already wins, and what a query cannot hold is left out.
    """
    body = await Request(scope, receive).body()
    messages: list[_Scope] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> _Scope:
        return messages.pop() if messages else await receive()

    try:
        sent = json.loads(body)
    except ValueError:
        return scope, again
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    present = {name for name, _ in query}
    for name, value in sent.items() if isinstance(sent, dict) else ():
        for one in value if isinstance(value, list) else [value]:
            if name not in present and isinstance(one, str | int | float):
                query.append((name, one if isinstance(one, str) else json.dumps(one)))
    return {**scope, "query_string": urlencode(query).encode("ascii")}, again


def _add(app: FastAPI, route: CargoRoute) -> None:
    parameters = Parameters(route)
    try:
        if parameters.takes_websocket and route.method == "GET":
            app.add_api_websocket_route(route.path, _talking(route, parameters))
        else:
            app.add_api_route(
                route.path,
                _serving(route, parameters),
                methods=[route.method],
                response_model=None,
                summary=_summary(route),
                description=inspect.getdoc(route.function) or "",
            )
    except (FastAPIError, AssertionError, TypeError, ValueError) as error:
        raise RouteError(f"{route.name} cannot be served: {error}") from error


def _serving(route: CargoRoute, parameters: Parameters) -> Any:
    # FastAPI gives the request to one parameter only.
    own = next((p.name for p in parameters.signature if p.annotation is Request), None)
    request = inspect.Parameter(_REQUEST, inspect.Parameter.KEYWORD_ONLY, annotation=Request)

    async def serve(**given: Any) -> Response:
        seen: Request = given.pop(_REQUEST) if own is None else given[own]
        args, kwargs = parameters.arguments(given)
        accepts_events = "text/event-stream" in seen.headers.get("accept", "")
        response = await answer(route.name, route.function, args, kwargs, accepts_events=accepts_events)
        for injected in given.values():
            if isinstance(injected, Response):  # what the function set on a `response: Response` of its own
                response.raw_headers.extend(pair for pair in injected.raw_headers if pair[0] != b"content-length")
                response.status_code = injected.status_code or response.status_code
        return response

    return _disguised(serve, route, [*parameters.signature, *([request] if own is None else [])])


def _talking(route: CargoRoute, parameters: Parameters) -> Any:
    async def talk(**given: Any) -> None:
        args, kwargs = parameters.arguments(given)
        await route.function(*args, **kwargs)

    return _disguised(talk, route, parameters.signature)


def _disguised(serving: Any, route: CargoRoute, signature: list[inspect.Parameter]) -> Any:
    """Give what serves a route the name of its function, and the parameters that FastAPI is to find."""
    serving.__name__ = getattr(route.function, "__name__", type(route.function).__name__)
    serving.__signature__ = inspect.Signature(signature)
    serving.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
    return serving


def _summary(route: CargoRoute) -> str:
    name = getattr(route.function, "__name__", type(route.function).__name__)
    return str(name).strip("<>_").replace("_", " ").capitalize()
