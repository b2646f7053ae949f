# SPDX-License-Identifier: Apache-2.0
"""The part of `doctor` that asks the platform: do its hosts answer, do its endpoints get on?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ..errors import ApiError, AuthenticationError, PlatformError
from ..platforms import api
from ..platforms.base import Connection
from ..platforms.models import EndpointInfo
from ..platforms.runpod import EndpointKind, RunpodClient, TransportFailure
from .connection import handle_of, list_endpoints
from .findings import Finding, State
from .stuck import stuck_reason

__all__ = ["platform_findings"]

#: Seconds that a host may take to answer.
_ANSWER_TIMEOUT_S = 10.0


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
            reason = await _stuck(client, endpoint)
        except PlatformError as error:
            reason = str(error)
        if reason is not None:
            yield Finding(f"endpoint {endpoint.name}", State.WRONG, reason)


async def _stuck(client: RunpodClient, endpoint: EndpointInfo) -> str | None:
    now = await client.rest.workers(endpoint.id)
    if endpoint.kind is EndpointKind.LOAD_BALANCER or "health" not in endpoint.urls:
        return stuck_reason(endpoint, now, {})
    health = await client.health(handle_of(endpoint))
    return stuck_reason(endpoint, now, health.get("jobs") or {})


async def _job_host(client: RunpodClient) -> Finding:
    """Ask for an endpoint that nobody has: any answer will do."""
    base = client.connection.job_base or (
        api.CLOUD_JOB_BASE if client.connection.api_base == api.CLOUD_API_BASE else client.connection.api_base
    )
    try:
        await client.http.request("GET", f"{base}/v2/no-such-endpoint/health", read_timeout_s=_ANSWER_TIMEOUT_S)
    except (ApiError, AuthenticationError):
        return Finding("job API", State.OK, f"{base} answers")
    except TransportFailure as error:
        return Finding("job API", State.WRONG, str(error))
    return Finding("job API", State.OK, f"{base} answers")
