# SPDX-License-Identifier: Apache-2.0
"""The local platform as one ASGI application: authorisation and the choice of who answers. No queue logic.

/v2/{endpointId}/{operation}/…   job API (key) and worker protocol (worker's token): this module's table
/v2/serverless…                  REST v2 (key): Starlette's router
/lb/{endpointId}/…               load-balanced endpoints (key), HTTP and WebSocket: `proxy` and `sockets`
/_platform                       who this is (key), for `find_running`; how many requests there were; the clock

A load-balanced endpoint also answers any path under a host name that starts with its id, `{endpointId}.localhost`,
as it does on Runpod. There, and here, the key is asked at the edge: workers never see it.
"""

from __future__ import annotations

import hmac
import os

from .. import api
from .affinity import Refusal
from .asgi import BodyTooLarge, Call, Message, Receive, Send, read_body, send_error, send_json
from .balanced import BalancedFleet
from .clock import Clock, MovableClock
from .faults import Faults, Mishaps
from .fleet import Fleet
from .jobapi import JOB_OPERATIONS, JobOperation, send_balanced_health
from .logbook import LogBook
from .proxy import Proxy
from .registry import AnyFleet, Registry
from .relay import Routed, send_refusal
from .rest import rest_app
from .restroute import problem
from .sockets import SocketProxy, reject
from .wire import MalformedJson, dump, parse_object
from .workerapi import WORKER_OPERATIONS, find_worker

__all__ = ["PlatformApp"]

Scope = Message

#: What stands before an endpoint's id in the path of a load-balanced request.
_BALANCED_PREFIX = api.LOCAL_BALANCED_PATH.format(id="").encode()
_SENTINEL_HEADER = api.SENTINEL_HEADER.lower().encode()
_PLATFORM_PATH = "/_platform"
_ADVANCE_MAX_BYTES = 1_000
_WRONG_KEY = "missing or wrong key: send the header `Authorization: Bearer KEY`"


class PlatformApp:
    """ASGI application. Keeps the key; everything else is the registry's."""

    def __init__(
        self,
        registry: Registry,
        *,
        key: str,
        clock: Clock,
        base_url: str,
        logs: LogBook,
        proxy: Proxy,
        sockets: SocketProxy,
        faults: Faults | None = None,
    ) -> None:
        self._registry = registry
        self._base_url = base_url
        self._proxy = proxy
        self._sockets = sockets
        self._clock = clock
        self._mishaps = Mishaps(faults or Faults(), clock)
        self._key = key.encode()
        self._rest = rest_app(registry, clock, base_url, logs, per_minute=self._mishaps.faults.rest_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != _PLATFORM_PATH:
            send = await self._mishaps.travel(send)
        place = self._balanced_place(scope)
        if place is not None:
            await self._serve_balanced(*place, scope, receive, send)
            return
        if scope["type"] != "http":
            await reject(send, Refusal(404, f"the local platform has no WebSocket {scope['path']}"))
            return
        # "", "v2", endpoint, operation, …
        parts = scope["path"].split("/")
        if len(parts) > 3 and parts[1] == "v2":
            if parts[3] in WORKER_OPERATIONS:
                await self._serve_worker(scope, parts, receive, send)
                return
            if parts[2] not in api.RESERVED_ENDPOINT_IDS:
                await self._serve_client(scope, parts, receive, send)
                return
        if parts[1] not in ("v2", "_platform"):
            await send_error(send, 404, f"the local platform has no {scope['path']}")
        elif not self._is_authorized(scope, is_bare_allowed=False):
            refusal = problem(401, _WRONG_KEY)
            await refusal(scope, receive, send)
        elif parts[1] == "_platform":
            await self._serve_platform(scope, receive, send)
        else:
            self._mishaps.requests["client rest"] += 1
            await self._rest(scope, receive, send)

    async def _serve_platform(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say who this is and what was asked so far; let time pass where it may be moved."""
        if scope["method"] == "POST":
            if not isinstance(self._clock, MovableClock):
                await send_error(send, 405, "time passes by itself on this platform")
                return
            try:
                self._clock.advance(float(parse_object(await read_body(receive, _ADVANCE_MAX_BYTES))["advance_s"]))
            except (MalformedJson, BodyTooLarge, KeyError, TypeError, ValueError) as error:
                await send_error(send, 400, f'this takes {{"advance_s": seconds}}: {error!r}')
                return
        await send_json(send, 200, dump({"pid": os.getpid(), "requests": self._mishaps.requests}))

    # -- load-balanced endpoints --------------------------------------------------------------------------

    def _balanced_place(self, scope: Scope) -> tuple[str, bytes, bytes] | None:
        """Return endpoint id, raw path at the worker and raw path before that, None if it is another's request."""
        for name, value in scope["headers"]:
            if name == b"host":
                label = value.partition(b".")[0].decode("latin-1").lower()
                if isinstance(self._find(label, scope), BalancedFleet):
                    return label, scope["raw_path"], b""
                break
        raw_path: bytes = scope["raw_path"]
        if not raw_path.startswith(_BALANCED_PREFIX):
            return None
        endpoint_id, slash, rest = raw_path[len(_BALANCED_PREFIX) :].partition(b"/")
        return endpoint_id.decode("latin-1"), slash + rest or b"/", _BALANCED_PREFIX + endpoint_id

    async def _serve_balanced(
        self, endpoint_id: str, target: bytes, prefix: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        headers = [header for header in scope["headers"] if not self._is_key(header)]
        fleet = self._find(endpoint_id, scope)
        is_socket = scope["type"] == "websocket"
        if len(headers) == len(scope["headers"]):
            refusal = Refusal(401, _WRONG_KEY)
        elif not isinstance(fleet, BalancedFleet):
            refusal = Refusal(404, f"load-balanced endpoint {endpoint_id!r} not found")
        else:
            routed = Routed(fleet, scope, headers, target, prefix)
            if is_socket:
                await self._sockets.serve(routed, receive, send)
            else:
                self._mishaps.requests["client balanced"] += 1
                if not await self._mishaps.strike(send):
                    await self._proxy.serve(routed, receive, send)
            return
        await (reject if is_socket else send_refusal)(send, refusal)

    def _find(self, endpoint_id: str, scope: Scope) -> AnyFleet | None:
        """Return the endpoint that a request is for, by its id or through the id that stands for any."""
        fleet = self._registry.get(endpoint_id)
        if fleet is None and endpoint_id == api.SENTINEL_ID:
            for name, value in scope["headers"]:
                if name == _SENTINEL_HEADER:
                    return self._registry.get_named(value.decode("latin-1"))
        return fleet

    def _is_key(self, header: tuple[bytes, bytes]) -> bool:
        if header[0] != b"authorization":
            return False
        scheme, _, key = header[1].rpartition(b" ")
        return scheme.strip().lower() == b"bearer" and hmac.compare_digest(key, self._key)

    # -- queue endpoints ----------------------------------------------------------------------------------

    def _is_authorized(self, scope: Scope, *, is_bare_allowed: bool) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, key = value.rpartition(b" ")
                if scheme.strip().lower() == b"bearer" or (is_bare_allowed and not scheme):
                    return hmac.compare_digest(key, self._key)
        return False

    async def _serve_client(self, scope: Scope, parts: list[str], receive: Receive, send: Send) -> None:
        if not self._is_authorized(scope, is_bare_allowed=True):
            await send_error(send, 401, _WRONG_KEY)
            return
        fleet = self._find(parts[2], scope)
        operation = JOB_OPERATIONS.get(parts[3])
        if fleet is None:
            await send_error(send, 404, f"endpoint {parts[2]!r} not found")
        elif isinstance(fleet, BalancedFleet):
            await self._serve_client_of_balanced(fleet, scope, parts, send)
        elif operation is None or len(parts) - 4 != operation[1]:
            await send_error(send, 404, f"the job API has no {scope['path']}")
        elif scope["method"] not in operation[0]:
            await send_error(send, 405, f"{parts[3]} takes {' or '.join(operation[0])}, not {scope['method']}")
        else:
            call = Call(scope["method"], parts[4:], scope["query_string"], receive, send)
            await self._answer_client(parts[3], operation[2], call, fleet)

    async def _answer_client(self, name: str, answer: JobOperation, call: Call, fleet: Fleet) -> None:
        """Answer a request to the job API, unless there are too many of its kind or it is its turn to fail."""
        mishaps = self._mishaps
        mishaps.requests[f"client {name}"] += 1
        rates = mishaps.rates_of(fleet.spec.id, name)
        retry_after_s = rates.enter() if rates is not None else None
        if retry_after_s is not None:
            mishaps.requests["refused"] += 1
            headers = [(b"content-length", b"0"), (b"retry-after", b"%d" % retry_after_s)]
            await call.send({"type": "http.response.start", "status": 429, "headers": headers})
            await call.send({"type": "http.response.body", "body": b""})
            return
        try:
            if not await mishaps.strike(call.send):
                await answer(call, fleet, self._clock)
        finally:
            if rates is not None:
                rates.leave()

    async def _serve_client_of_balanced(self, fleet: BalancedFleet, scope: Scope, parts: list[str], send: Send) -> None:
        """Answer at the job API for an endpoint that has no jobs: its health, and where else to go."""
        if parts[3:] == ["health"] and scope["method"] == "GET":
            await send_balanced_health(send, fleet)
        else:
            base = self._base_url + api.LOCAL_BALANCED_PATH.format(id=fleet.spec.id)
            await send_error(send, 400, f"endpoint {fleet.spec.id} is load-balanced: send requests to {base}/…")

    async def _serve_worker(self, scope: Scope, parts: list[str], receive: Receive, send: Send) -> None:
        methods, segments, answer = WORKER_OPERATIONS[parts[3]]
        fleet = self._registry.get(parts[2])
        call = Call(scope["method"], parts[4:], scope["query_string"], receive, send)
        worker = find_worker(call, fleet) if isinstance(fleet, Fleet) else None
        if not isinstance(fleet, Fleet) or worker is None:
            await send_error(send, 401, "unknown worker or wrong token")
        elif len(call.parts) != segments or call.method not in methods:
            await send_error(send, 404, f"the worker protocol has no {call.method} {scope['path']}")
        else:
            self._mishaps.requests[f"worker {parts[3]}"] += 1
            cold_s = worker.started_at + self._mishaps.faults.cold_start_s - self._clock.monotonic()
            if worker.ready_at is None and cold_s > 0:
                await self._mishaps.pause(cold_s)
            await answer(call, fleet, worker, self._clock)
