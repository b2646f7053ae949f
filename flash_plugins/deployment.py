# SPDX-License-Identifier: Apache-2.0
"""Deploys what an `Endpoint` declares: its functions or routes travel with the endpoint, so that any client can use it.

Calls of decorated functions need none of this, as they carry their code; jobs and HTTP requests of others do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .client.targets import NamedTarget, other_kind
from .code import cargo
from .dispatcher.threads import in_thread
from .errors import ConfigError
from .platforms.api import EndpointKind
from .remote import starting_others

if TYPE_CHECKING:
    from .dispatcher import Session
    from .endpoint import Endpoint
    from .platforms.provision import EndpointPlan
    from .platforms.runpod import EndpointHandle
    from .routes import Route

__all__ = ["OwnTarget", "cargo_of", "plan_of"]

logger = logging.getLogger(__name__)


class OwnTarget:
    """An endpoint with functions or routes of this program, deployed before the first request and after changes.

    One that declares nothing is the one that the platform has under its name.
    """

    misuse: str | None = None
    can_move = True

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    @property
    def words(self) -> str:
        """As `Target.words`."""
        return f"endpoint {self._endpoint.name!r}"

    @property
    def routes(self) -> Iterable[Route]:
        """As `Target.routes`."""
        return self._endpoint.routes

    @property
    def idle_timeout_s(self) -> float | None:
        """As `Target.idle_timeout_s`."""
        return self._endpoint.config.idle_timeout if self._endpoint.is_load_balanced else None

    async def resolve(self, session: Session, kind: EndpointKind | None, *, needs_code: bool = True) -> EndpointHandle:
        """As `Target.resolve`."""
        endpoint = self._endpoint
        endpoint._check_callable()
        if not endpoint.declares_code:
            return await NamedTarget(str(endpoint.name)).resolve(session, kind)
        own = EndpointKind.LOAD_BALANCER if endpoint.is_load_balanced else EndpointKind.QUEUE
        if kind is not None and kind is not own:
            raise other_kind(self.words, own)
        if not needs_code:
            found = await session.ask(lambda client: client.find(str(endpoint.name)))
            if found is not None and found.kind is own:
                return found
        config, streams = endpoint.config, endpoint._streams
        if not endpoint.routes:
            config, streams = session.claim(config, streams=streams)
        routes = tuple((route.method, route.path, id(route.function)) for route in endpoint.routes)
        version = (own, config.version, streams, routes, *map(id, endpoint._targets))

        async def deploy() -> EndpointHandle:
            if endpoint.routes and config.max_concurrency != 1:
                logger.warning(
                    "endpoint %r has routes, and its workers take requests as they come: max_concurrency=%d is ignored",
                    config.name,
                    config.max_concurrency,
                )
            packed, _ = in_thread(lambda: cargo_of(endpoint))  # reads modules, and pickles whatever they hold
            return await session.provision(config, kind=own, streams=streams, cargo=await packed)

        return await session.deployments.deployed(str(config.name), version, deploy)

    def forget(self, session: Session) -> None:
        """As `Target.forget`."""
        session.deployments.forget(str(self._endpoint.name))

    def explain(self, error: Exception, session: Session) -> None:
        """As `Target.explain`."""


async def plan_of(endpoint: Endpoint, session: Session, kind: EndpointKind | None = None) -> EndpointPlan:
    """Return what `provision()` of an endpoint would do, and what it would cost. Changes nothing. Loop thread.

    Args:
        endpoint: It declares code or has an image.
        session: Of this process.
        kind: Of an image: how it takes requests.

    Raises:
        ConfigError: It declares nothing, or of an image `kind` is missing.
        Exception: As `cargo_of`.
    """
    config = endpoint.config
    if config.image is not None and kind is not None:
        return await session.plan(config, kind=kind)
    if not endpoint.declares_code:
        raise ConfigError(f"endpoint {endpoint.name!r} declares nothing that could be deployed")
    endpoint._check_callable()
    own = EndpointKind.LOAD_BALANCER if endpoint.is_load_balanced else EndpointKind.QUEUE
    packed, _ = in_thread(lambda: _packed(endpoint))  # without beginning the endpoints whose functions it calls
    return await session.plan(endpoint.config, kind=own, streams=endpoint._streams, cargo=await packed)


def cargo_of(endpoint: Endpoint) -> dict[str, str]:
    """Return the variables with the code that an endpoint declares. Endpoints whose functions it calls are begun.

    Raises:
        UnpicklableError: Something of it cannot travel.
        PayloadTooLarge: It is more than an environment takes.
    """
    with starting_others(endpoint):
        return _packed(endpoint)


def _packed(endpoint: Endpoint) -> dict[str, str]:
    routes = [cargo.CargoRoute(route.method, route.path, route.function) for route in endpoint.routes]
    functions = {str(getattr(target, "__name__", target)): target for target in endpoint._targets}
    return cargo.pack(cargo.Cargo(functions, routes))
