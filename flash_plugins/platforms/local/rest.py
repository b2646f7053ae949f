# SPDX-License-Identifier: Apache-2.0
"""REST v2 for serverless endpoints over HTTP. It decides nothing: see `endpoints` and `registry`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from .. import api
from .clock import Clock
from .endpoints import InvalidEndpoint
from .fleet import Fleet
from .registry import Registry, timestamp
from .wire import MalformedJson, parse_object
from .workers import Worker

__all__ = ["rest_router"]

#: Largest REST request body that is looked at, bytes; Runpod does not say.
_BODY_MAX_BYTES = 10_000_000


def problem(
    status: int, detail: str, *, errors: list[str] | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error as `application/problem+json`."""
    body: dict[str, object] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


class _RestApi:
    """The handlers; each gets a request that has been authorised."""

    def __init__(self, registry: Registry, clock: Clock, base_url: str) -> None:
        self._registry = registry
        self._clock = clock
        self._base_url = base_url

    async def list(self, request: Request) -> Response:
        return JSONResponse({"endpoints": [fleet.spec.to_json(self._base_url) for fleet in self._registry]})

    async def create(self, request: Request) -> Response:
        fleet = self._registry.create(await _body(request))
        return JSONResponse(fleet.spec.to_json(self._base_url), 201)

    async def get(self, request: Request) -> Response:
        return JSONResponse(self._find(request).spec.to_json(self._base_url))

    async def update(self, request: Request) -> Response:
        fleet = self._find(request)
        self._registry.update(fleet, await _body(request))
        return JSONResponse(fleet.spec.to_json(self._base_url))

    async def delete(self, request: Request) -> Response:
        self._registry.delete(self._find(request))
        return Response(status_code=204)

    async def workers(self, request: Request) -> Response:
        fleet = self._find(request)
        listed = [self._worker(worker, fleet) for worker in fleet.workers.values() if not worker.is_stopping]
        summary = {**fleet.worker_counts(), "total": len(listed)}
        return JSONResponse({"workers": listed, "summary": summary, "endpointVersion": fleet.spec.version})

    def _worker(self, worker: Worker, fleet: Fleet) -> dict[str, object]:
        spec = fleet.spec
        return {
            "id": worker.id,
            "status": worker.status,
            "isStale": worker.version != spec.version,
            "version": worker.version,
            "gpuCount": 0,
            "image": spec.fields.get("image"),
            "uptimeSeconds": int(self._clock.monotonic() - worker.started_at),
            "gpuTypeId": None,
            "dataCenterId": None,
            "startedAt": timestamp(worker.started_wall),
        }

    def _find(self, request: Request) -> Fleet:
        endpoint_id = request.path_params["id"]
        fleet = self._registry.get(endpoint_id)
        if fleet is None:
            raise InvalidEndpoint(404, f"endpoint {endpoint_id!r} not found")
        return fleet


async def _body(request: Request) -> dict[str, object]:
    body = await request.body()
    if len(body) > _BODY_MAX_BYTES:
        raise InvalidEndpoint(413, f"the body has {len(body):,} bytes and the limit is {_BODY_MAX_BYTES:,}")
    try:
        return parse_object(body)
    except MalformedJson as error:
        raise InvalidEndpoint(400, str(error)) from error


Handler = Callable[[Request], Awaitable[Response]]


def _route(path: str, handlers: Mapping[str, Handler]) -> BaseRoute:
    """Return a route that answers every method, the wrong ones with 405 and `Allow`."""

    async def answer(request: Request) -> Response:
        handler = handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(handlers)
            return problem(405, f"{request.method} is not allowed here, only {allowed}", headers={"Allow": allowed})
        try:
            return await handler(request)
        except InvalidEndpoint as error:
            return problem(error.status, error.detail, errors=error.errors)

    return Route(path, answer, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])


def rest_router(registry: Registry, clock: Clock, base_url: str) -> Router:
    """Return the ASGI application of REST v2; whoever calls it has checked the key."""
    rest = _RestApi(registry, clock, base_url)

    async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
        await problem(404, f"the local platform has no {scope['path']}")(scope, receive, send)

    one = f"{api.SERVERLESS_PATH}/{{id}}"
    return Router(
        routes=[
            _route(api.SERVERLESS_PATH, {"GET": rest.list, "POST": rest.create}),
            _route(one, {"GET": rest.get, "PATCH": rest.update, "DELETE": rest.delete}),
            _route(f"{one}/workers", {"GET": rest.workers}),
        ],
        default=not_found,
    )
