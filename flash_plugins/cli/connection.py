# SPDX-License-Identifier: Apache-2.0
"""The platform that commands work on: the one that the settings choose, if it outlives the command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from .. import process
from ..errors import NotFoundError, PlatformUnavailable

if TYPE_CHECKING:
    from ..platforms.models import EndpointInfo
    from ..platforms.runpod import RunpodClient

__all__ = ["find_endpoint", "list_endpoints", "on_platform", "require_lasting"]

T = TypeVar("T")


def require_lasting() -> None:
    """Refuse to go on where what is on the platform would end with this command.

    Raises:
        PlatformUnavailable: The local platform is chosen and none runs.
    """
    platform = process.platform()
    if not platform.outlives_us:
        raise PlatformUnavailable(
            "no local platform runs; start one with `flash-plugins platform start --detach`, or set "
            "FLASH_PLATFORM=runpod"
        )


def on_platform(work: Callable[[RunpodClient], Awaitable[T]]) -> T:
    """Return what `work` returns, given a client of the chosen platform.

    Raises:
        PlatformUnavailable: The local platform is chosen and none runs.
        AuthenticationError: There is no key.
    """
    from ..platforms.runpod import RunpodClient  # half a second, which `--help` need not take

    require_lasting()
    connection = process.platform().connect()

    async def run() -> T:
        client = RunpodClient(connection)
        try:
            return await work(client)
        finally:
            await client.aclose()

    return asyncio.run(run())


async def list_endpoints(client: RunpodClient) -> list[EndpointInfo]:
    """Return all endpoints, by name."""
    return sorted(await client.rest.endpoints(), key=lambda endpoint: (endpoint.name, endpoint.age_order))


async def find_endpoint(client: RunpodClient, name_or_id: str) -> EndpointInfo:
    """Return the endpoint of this id, else the oldest of this name.

    Raises:
        NotFoundError: There is none; the message names those that there are.
    """
    endpoints = await list_endpoints(client)
    found = [endpoint for endpoint in endpoints if endpoint.id == name_or_id]
    found += [endpoint for endpoint in endpoints if endpoint.name == name_or_id]
    if found:
        return found[0]
    names = ", ".join(dict.fromkeys(endpoint.name for endpoint in endpoints[:20]))
    raise NotFoundError(f"there is no endpoint {name_or_id!r}; there are: {names or 'none'}", status=404)
