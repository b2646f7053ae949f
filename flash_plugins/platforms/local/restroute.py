# SPDX-License-Identifier: Apache-2.0
"""What the resources of REST v2 share over HTTP: a route, a body, an answer, a problem. It knows no resource."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from .fields import JsonObject, Refused, refuse
from .wire import MalformedJson, dump, parse_object

__all__ = ["Handler", "answer", "moment_of", "problem", "read_body", "route", "whole_number"]

#: Largest REST request body that is looked at, bytes; Runpod does not say.
_BODY_MAX_BYTES = 10_000_000

#: Longest number in a query, digits.
_DIGITS_MAX = 100

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


class _Resource:
    """Answers every method, the wrong ones with 405 and `Allow`. Starlette's own route would do that as text."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        handler = self._handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(self._handlers)
            return problem(405, f"{request.method} is not allowed here, only {allowed}", headers={"Allow": allowed})
        try:
            return await handler(request)
        except Refused as error:
            return problem(error.status, error.detail, errors=error.errors)


def route(path: str, handlers: Mapping[str, Handler]) -> BaseRoute:
    """Return the route of a path, given who answers which method."""
    return Route(path, _Resource(handlers))


def whole_number(text: str, where: str, least: int = 0, most: int | None = None) -> int:
    """Return the whole number that a query parameter holds.

    Raises:
        Refused: It holds something else, or one out of range.
    """
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else None
    if number is None or number < least or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        refuse([f"query.{where}: must be a whole number, {limits}, not {text[:100]!r}"])
    assert number is not None
    return number


def moment_of(text: str, where: str) -> datetime.datetime:
    """Return the time, in UTC, that a query parameter holds as RFC 3339.

    Raises:
        Refused: It holds something else.
    """
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None or "T" not in text.upper():
            raise ValueError("no time zone, or no time")
        return moment.astimezone(datetime.UTC)
    except (ValueError, OverflowError) as error:
        problem = f"query.{where}: {text[:100]!r} is no RFC 3339 time such as 2026-05-01T00:00:00Z"
        raise Refused(422, problem, [problem]) from error
