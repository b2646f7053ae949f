# SPDX-License-Identifier: Apache-2.0
"""What the resources of REST v2 share over HTTP: a route, a body, an answer, a problem. It knows no resource."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from .fields import JsonObject, Refused
from .wire import MalformedJson, dump, parse_object

__all__ = ["Handler", "answer", "problem", "read_body", "route"]

#: Largest REST request body that is looked at, bytes; Runpod does not say.
_BODY_MAX_BYTES = 10_000_000

#: Answers an authorised request; what it refuses, it raises as `Refused`.
Handler = Callable[[Request], Awaitable[Response]]


def answer(body: object, status: int = 200) -> Response:
    """Return a JSON answer; in ASCII, because texts may hold lone surrogates."""
    return Response(dump(body), status, media_type="application/json")


def problem(
    status: int, detail: str, *, errors: list[str] | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error as `application/problem+json`."""
    body: JsonObject = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return Response(dump(body), status, headers=headers, media_type="application/problem+json")


async def read_body(request: Request) -> JsonObject:
    """Return the JSON object that a request carries.

    Raises:
        Refused: It is too large, or no JSON object.
    """
    body = await request.body()
    if len(body) > _BODY_MAX_BYTES:
        raise Refused(413, f"the body has {len(body):,} bytes and the limit is {_BODY_MAX_BYTES:,}")
    try:
        return parse_object(body)
    except MalformedJson as error:
        raise Refused(400, str(error)) from error


def route(path: str, handlers: Mapping[str, Handler]) -> BaseRoute:
    """Return a route that answers every method, the wrong ones with 405 and `Allow`."""

    async def serve(request: Request) -> Response:
        handler = handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(handlers)
            return problem(405, f"{request.method} is not allowed here, only {allowed}", headers={"Allow": allowed})
        try:
            return await handler(request)
        except Refused as error:
            return problem(error.status, error.detail, errors=error.errors)

    return Route(path, serve, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
