# SPDX-License-Identifier: Apache-2.0
"""REST v2 over HTTP: serverless endpoints, and the table of all resources. It decides nothing: see `registry`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from .. import api
from .clock import Clock
from .fields import Refused
from .logs import LOG_TAIL_DEFAULT, LOG_TAIL_MAX, follow_log
from .registry import AnyFleet, Registry, timestamp
from .restroute import answer, problem, read_body, route
from .templates import template_routes
from .volumes import volume_routes
from .workers import Worker

__all__ = ["rest_router"]


class _RestApi:
    """The handlers; each gets a request that has been authorised."""

    def __init__(self, registry: Registry, clock: Clock, base_url: str, log_path: Callable[[str], Path]) -> None:
        self._registry = registry
        self._log_path = log_path
        self._clock = clock
        self._base_url = base_url

    async def list(self, request: Request) -> Response:
        return answer({"endpoints": [fleet.spec.to_json(self._base_url) for fleet in self._registry]})

    async def create(self, request: Request) -> Response:
        fleet = self._registry.create(await read_body(request))
        return answer(fleet.spec.to_json(self._base_url), 201)

    async def get(self, request: Request) -> Response:
        return answer(self._find(request).spec.to_json(self._base_url))

    async def update(self, request: Request) -> Response:
        fleet = self._find(request)
        self._registry.update(fleet, await read_body(request))
        return answer(fleet.spec.to_json(self._base_url))

    async def delete(self, request: Request) -> Response:
        self._registry.delete(self._find(request))
        return Response(status_code=204)

    async def workers(self, request: Request) -> Response:
        fleet = self._find(request)
        listed = [self._worker(worker, fleet) for worker in fleet.workers.values() if not worker.is_stopping]
        summary = {**fleet.worker_counts(), "total": len(listed)}
        return answer({"workers": listed, "summary": summary, "endpointVersion": fleet.spec.version})

    async def logs(self, request: Request) -> Response:
        fleet = self._find(request)
        worker_id = request.path_params["worker"]
        if worker_id not in fleet.workers:
            raise Refused(404, f"worker {worker_id!r} not found")
        tail = request.query_params.get("tail", str(LOG_TAIL_DEFAULT))
        if not tail.isdigit() or int(tail) > LOG_TAIL_MAX:
            raise Refused(400, f"tail must be 0 to {LOG_TAIL_MAX}, not {tail!r}")
        position = request.headers.get("last-event-id", "").rpartition("/")[2]
        # The local platform itself writes nothing into a worker's log.
        is_wanted = request.query_params.get("source", "container") == "container"
        events = follow_log(
            self._log_path(worker_id) if is_wanted else Path(os.devnull),
            tail=int(tail),
            position=int(position) if position.isdigit() else None,
            clock=self._clock,
            is_running=lambda: worker_id in fleet.workers,
        )
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, headers=headers, media_type="text/event-stream")

    def _worker(self, worker: Worker, fleet: AnyFleet) -> dict[str, object]:
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

    def _find(self, request: Request) -> AnyFleet:
        endpoint_id = request.path_params["id"]
        fleet = self._registry.get(endpoint_id)
        if fleet is None:
            raise Refused(404, f"endpoint {endpoint_id!r} not found")
        return fleet


def rest_router(registry: Registry, clock: Clock, base_url: str, log_path: Callable[[str], Path]) -> Router:
    """Return the ASGI application of REST v2; whoever calls it has checked the key.

    Args:
        log_path: Returns where the log of a worker is.
    """
    rest = _RestApi(registry, clock, base_url, log_path)

    async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
        await problem(404, f"the local platform has no {scope['path']}")(scope, receive, send)

    one = f"{api.SERVERLESS_PATH}/{{id}}"
    return Router(
        routes=[
            route(api.SERVERLESS_PATH, {"GET": rest.list, "POST": rest.create}),
            route(one, {"GET": rest.get, "PATCH": rest.update, "DELETE": rest.delete}),
            route(f"{one}/workers", {"GET": rest.workers}),
            route(f"{one}/workers/{{worker}}/logs", {"GET": rest.logs}),
            *template_routes(registry.templates),
            *volume_routes(registry.volumes, registry.users_of_volume),
        ],
        default=not_found,
    )
