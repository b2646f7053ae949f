# SPDX-License-Identifier: Apache-2.0
"""REST v2 over HTTP: serverless endpoints, and the table of all resources. It decides nothing: see `registry`."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import api
from .billing import billing_routes
from .catalog import catalog_routes
from .clock import Clock
from .fields import Refused, one_of, refuse
from .logbook import LogBook
from .logs import LOG_TAIL_DEFAULT, LOG_TAIL_MAX, follow_log
from .quota import Quota
from .registries import registry_routes
from .registry import AnyFleet, Registry, timestamp
from .restroute import answer, moment_of, problem, read_body, route, whole_number
from .templates import template_routes
from .volumes import volume_routes
from .workers import Worker

__all__ = ["rest_app"]


#: Digits of a position in a log that are looked at; the log's size bounds it.
_POSITION_DIGITS = 18


class _RestApi:
    """The handlers; each gets a request that has been authorised."""

    def __init__(self, registry: Registry, clock: Clock, base_url: str, logs: LogBook) -> None:
        self._registry = registry
        self._logs = logs
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

    async def releases(self, request: Request) -> Response:
        fleet = self._find(request)
        workers = [worker for worker in fleet.workers.values() if not worker.is_stopping]
        return answer(self._registry.releases(fleet).to_json(workers))

    async def logs(self, request: Request) -> Response:
        fleet = self._find(request)
        worker_id = request.path_params["worker"]
        if worker_id not in fleet.workers:
            raise Refused(404, f"worker {worker_id!r} not found")
        tail = whole_number(request.query_params.get("tail", str(LOG_TAIL_DEFAULT)), "tail", most=LOG_TAIL_MAX)
        source = request.query_params.get("source", "container")
        refuse(one_of("container", "system")(source, "query.source"))
        since = request.query_params.get("since")
        position = request.headers.get("last-event-id", "").rpartition("/")[2][:_POSITION_DIGITS]
        # The local platform itself writes nothing into a worker's log.
        book = self._logs if source == "container" else LogBook(lambda worker_id: Path(os.devnull))
        events = follow_log(
            book,
            worker_id,
            tail=tail,
            since=None if since is None else moment_of(since, "since").timestamp(),
            position=int(position) if position.isascii() and position.isdigit() else None,
            clock=self._clock,
            is_running=lambda: worker_id in fleet.workers,
        )
        headers = {"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"}
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


def rest_app(registry: Registry, clock: Clock, base_url: str, logs: LogBook, *, per_minute: int) -> ASGIApp:
    """Return the ASGI application of REST v2; whoever calls it has checked the key.

    Args:
        logs: Knows the logs of workers.
        per_minute: Requests that are answered in a minute.
    """
    rest = _RestApi(registry, clock, base_url, logs)

    async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
        await problem(404, f"the local platform has no {scope['path']}")(scope, receive, send)

    one = f"{api.SERVERLESS_PATH}/{{id}}"
    router = Router(
        routes=[
            route(api.SERVERLESS_PATH, {"GET": rest.list, "POST": rest.create}),
            route(one, {"GET": rest.get, "PATCH": rest.update, "DELETE": rest.delete}),
            route(f"{one}/workers", {"GET": rest.workers}),
            route(f"{one}/releases", {"GET": rest.releases}),
            route(f"{one}/workers/{{worker}}/logs", {"GET": rest.logs}),
            *template_routes(registry.templates),
            *volume_routes(registry.volumes, registry.users_of_volume),
            *registry_routes(registry.templates),
            *catalog_routes(),
            *billing_routes(clock),
        ],
        default=not_found,
        redirect_slashes=False,
    )
    quota = Quota(clock, per_minute)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        wait_s = quota.take()
        headers = quota.headers()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        if wait_s is None:
            await router(scope, receive, send_with_headers)
        else:
            refusal = problem(429, f"too many requests: wait {wait_s} s", headers={"Retry-After": str(wait_s)})
            await refusal(scope, receive, send_with_headers)

    return app
