# SPDX-License-Identifier: Apache-2.0
"""Endpoints that this process deployed or looked up, each once however many ask at once. It asks no platform itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..platforms.runpod import EndpointHandle

__all__ = ["Deployments"]


class Deployments:
    """Endpoints by name and by what they were deployed with. Used on the dispatcher's loop only."""

    def __init__(self) -> None:
        self._handles: dict[tuple[object, ...], EndpointHandle] = {}
        self._making: dict[tuple[object, ...], asyncio.Lock] = {}

    async def handle(
        self, name: str, version: tuple[object, ...], make: Callable[[], Awaitable[EndpointHandle]]
    ) -> EndpointHandle:
        """Return the endpoint, made by the first who asks; raises what `make` does, and then the next one makes it.

        Args:
            name: Its name.
            version: What it is deployed with: another version is another deployment.
            make: Deploys it or looks it up.
        """
        key = (name, *version)
        async with self._making.setdefault(key, asyncio.Lock()):
            if key not in self._handles:
                made = await make()
                self.forget(name)  # an endpoint has one version at a time
                self._handles[key] = made
            return self._handles[key]

    def forget(self, name: str) -> None:
        """Have the endpoints of a name made anew."""
        for key in [key for key in self._handles if key[0] == name]:
            del self._handles[key]

    def clear(self) -> None:
        """Forget all: their platform is gone."""
        self._handles.clear()
