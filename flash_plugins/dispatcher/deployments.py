# SPDX-License-Identifier: Apache-2.0
"""Endpoints that this process deployed or looked up, each once however many ask at once. It asks no platform itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..platforms.runpod import EndpointHandle

__all__ = ["Deployments"]

logger = logging.getLogger(__name__)

_Key = tuple[object, ...]


class Deployments:
    """Endpoints by name and by what they were deployed with. Used on the dispatcher's loop only."""

    def __init__(self) -> None:
        self._deployed: dict[_Key, EndpointHandle] = {}
        self._found: dict[str, EndpointHandle] = {}
        self._asking: dict[_Key, asyncio.Lock] = {}
        self._replaced: set[_Key] = set()

    async def deployed(
        self, name: str, version: _Key, deploy: Callable[[], Awaitable[EndpointHandle]]
    ) -> EndpointHandle:
        """Return an endpoint, deployed by the first who asks; raises what `deploy` does, and then the next one tries.

        Args:
            name: Its name.
            version: What it is deployed with: an endpoint has one version at a time.
            deploy: Deploys it.
        """
        key = (name, *version)
        async with self._asking.setdefault(key, asyncio.Lock()):
            if key not in self._deployed:
                if key in self._replaced:
                    logger.warning(
                        "endpoint %r is deployed again as it was before its last change: do two Endpoint objects of "
                        "that name take turns? Each turn replaces its workers; give one of them another name",
                        name,
                    )
                made = await deploy()
                earlier = [other for other in self._deployed if other[0] == name]
                self._replaced.update(earlier)
                self.forget(name)
                self._deployed[key] = made
            return self._deployed[key]

    async def found(self, name: str, find: Callable[[], Awaitable[EndpointHandle]]) -> EndpointHandle:
        """Return an endpoint that is known by its name alone, looked up by the first who asks. Raises as `find`."""
        async with self._asking.setdefault((name,), asyncio.Lock()):
            if name not in self._found:
                self._found[name] = await find()
            return self._found[name]

    def forget(self, name: str) -> None:
        """Have the endpoint of a name deployed, or looked up, anew."""
        self._found.pop(name, None)
        for key in [key for key in self._deployed if key[0] == name]:
            del self._deployed[key]

    def clear(self) -> None:
        """Forget all: their platform is gone."""
        self._deployed.clear()
        self._found.clear()
