# SPDX-License-Identifier: Apache-2.0
"""The part of `doctor` that asks the platform: do its hosts answer, do its endpoints get on?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ..errors import ApiError, AuthenticationError, PlatformError
from ..platforms import api
from ..platforms.base import Connection
from ..platforms.diagnosis import Cause, Watcher
from ..platforms.models import EndpointInfo
from ..platforms.runpod import EndpointKind, RunpodClient, TransportFailure
from .connection import list_endpoints
from .findings import Finding, State

__all__ = ["platform_findings"]

#: Seconds that a host may take to answer.
_ANSWER_TIMEOUT_S = 10.0
#: Seconds until an endpoint without a worker is looked at again.
_SECOND_LOOK_S = 2.0


def platform_findings(connection: Connection) -> list[Finding]:
    """Ask both hosts, and about each endpoint."""
    return asyncio.run(_findings(connection))


async def _findings(connection: Connection) -> list[Finding]:
    client = RunpodClient(connection)
    try:
        found = [finding async for finding in _management(client)]
        return [*found, await _job_host(client)]
    finally:
        await client.aclose()


async def _management(client: RunpodClient) -> AsyncIterator[Finding]:
    base = client.connection.api_base
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            endpoints = await list_endpoints(client)
    except AuthenticationError as error:
        yield Finding("key", State.WRONG, str(error))
        return
    except (PlatformError, TimeoutError) as error:
        said = str(error) or f"no answer within {_ANSWER_TIMEOUT_S:g} s"
        yield Finding("management", State.WRONG, f"{base}: {said}")
        return
    yield Finding("management", State.OK, f"{base} answers; {len(endpoints)} endpoints")
    for endpoint in endpoints:
        try:
            trouble = await _trouble(client, endpoint)
        except PlatformError as error:
            trouble = Finding(f"endpoint {endpoint.name}", State.WRONG, str(error))
        if trouble is not None:
            yield trouble


async def _trouble(client: RunpodClient, endpoint: EndpointInfo) -> Finding | None:
    """Return why an endpoint does not get on with its work; None where it does, and where it has none."""
    watcher = Watcher(client.rest, endpoint.id, endpoint.name)
    found = await watcher.look()
    waiting = 0 if found is None else await _waiting(client, endpoint)
    if waiting and found is not None and found.cause is Cause.NO_WORKER:  # one may be about to start
        await asyncio.sleep(_SECOND_LOOK_S)
        found = await watcher.look()
    if found is None or not (waiting or found.cause in (Cause.UNHEALTHY, Cause.ENDING)):
        return None
    waits = "1 job waits: " if waiting == 1 else f"{waiting} jobs wait: " if waiting else ""
    state = State.NOTE if found.cause is Cause.STARTING else State.WRONG
    return Finding(f"endpoint {endpoint.name}", state, waits + found.text)


async def _waiting(client: RunpodClient, endpoint: EndpointInfo) -> int:
    """Return how many jobs wait; the health of a load-balanced endpoint is that of one worker and does not tell."""
    if endpoint.kind is EndpointKind.LOAD_BALANCER or "health" not in endpoint.urls:
        return 0
    health = await client.health(client.handle_of(endpoint))
    return int((health.get("jobs") or {}).get("inQueue") or 0)


async def _job_host(client: RunpodClient) -> Finding:
    """Ask for an endpoint that nobody has: any answer will do."""
    base = client.connection.job_base or (
        api.CLOUD_JOB_BASE if client.connection.api_base == api.CLOUD_API_BASE else client.connection.api_base
    )
    try:
        await client.http.accepted("GET", f"{base}/v2/no-such-endpoint/health", read_timeout_s=_ANSWER_TIMEOUT_S)
    except (ApiError, AuthenticationError):
        return Finding("job API", State.OK, f"{base} answers")
    except TransportFailure as error:
        return Finding("job API", State.WRONG, str(error))
    return Finding("job API", State.OK, f"{base} answers")
