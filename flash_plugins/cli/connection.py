# SPDX-License-Identifier: Apache-2.0
"""The platform that commands work on: the one that the settings choose, if it outlives the command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from .. import process
from ..errors import NotFoundError, PlatformUnavailable
from ..platforms import api
from ..platforms.http import READ_TIMEOUT_S
from ..platforms.runpod import RunpodClient

__all__ = ["find_endpoint", "list_endpoints", "on_platform", "require_lasting"]

T = TypeVar("T")

#: REST v2's form of an endpoint.
Shown = Mapping[str, Any]  # Any: JSON


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
    require_lasting()
    connection = process.platform().connect()

    async def run() -> T:
        client = RunpodClient(connection)
        try:
            return await work(client)
        finally:
            await client.aclose()

    return asyncio.run(run())


async def list_endpoints(client: RunpodClient, *, timeout_s: float = READ_TIMEOUT_S) -> list[Shown]:
    """Return all endpoints, by name."""
    url = client.connection.api_base + api.SERVERLESS_PATH
    answer = await client.http.json("GET", url, read_timeout_s=timeout_s)
    return sorted(answer.get("endpoints") or (), key=lambda shown: (str(shown.get("name")), str(shown.get("id"))))


async def find_endpoint(client: RunpodClient, name_or_id: str) -> Shown:
    """Return the endpoint of this id or name.

    Raises:
        NotFoundError: There is none; the message names those that there are.
    """
    endpoints = await list_endpoints(client)
    found = [shown for shown in endpoints if shown.get("id") == name_or_id]
    found += [shown for shown in endpoints if shown.get("name") == name_or_id]
    if found:
        return found[0]
    names = ", ".join(str(shown.get("name")) for shown in endpoints[:20])
    raise NotFoundError(f"there is no endpoint {name_or_id!r}; there are: {names or 'none'}", status=404)
