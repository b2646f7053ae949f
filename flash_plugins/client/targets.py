# SPDX-License-Identifier: Apache-2.0
"""Where the requests of an `EndpointClient` go: an endpoint that exists, by id or name, or an image, made once.

Endpoints with code of one's own are a target too: see `deployment`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from ..config import EndpointConfig
from ..errors import ConfigError, NotFoundError, PlatformUnavailable
from ..platforms import api
from ..platforms.api import EndpointKind

if TYPE_CHECKING:
    from ..dispatcher import Session
    from ..platforms.runpod import EndpointHandle
    from ..routes import Route

__all__ = ["ExistingTarget", "ImageTarget", "NamedTarget", "Target", "is_not_found", "other_kind", "was_not_sent"]


class Target(Protocol):
    """Where a client's requests go."""

    @property
    def words(self) -> str:
        """What it is, for messages, such as `endpoint 'abc123'`."""

    @property
    def misuse(self) -> str | None:
        """What somebody is told who takes its requests for route decorators; None where nobody would."""

    @property
    def routes(self) -> Iterable[Route]:
        """Its routes as far as they are known here."""

    @property
    def idle_timeout_s(self) -> float | None:
        """Seconds after which its workers stop; None where that is unknown, and so is whether it makes sense to wait
        for one before a request is sent."""

    async def resolve(self, session: Session, kind: EndpointKind | None, *, needs_code: bool = True) -> EndpointHandle:
        """Return the endpoint, made if need be, for requests of this kind. Loop thread.

        Args:
            session: The process's connection to its platform.
            kind: None for whatever it is.
            needs_code: Whether its workers must have the code that is declared now: not if it is only asked about.

        Raises:
            ConfigError: It takes requests of the other kind only, or of which kind it shall be is not known.
            NotFoundError: There is none.
        """

    @property
    def can_move(self) -> bool:
        """Whether one that is gone may be made again, or found elsewhere."""

    def forget(self, session: Session) -> None:
        """Forget where it was found, as it is not there any more."""

    def explain(self, error: Exception, session: Session) -> None:
        """Add to an error of a request what only the target knows."""


class ExistingTarget:
    """An endpoint that exists, by its id. Its URLs follow from the id, without asking; so both kinds are tried."""

    routes: Iterable[Route] = ()
    idle_timeout_s: float | None = None
    can_move = False

    def __init__(self, endpoint_id: str) -> None:
        self._id = endpoint_id
        self.words = f"endpoint {endpoint_id!r}"
        self.misuse = _misuse(f"Endpoint(id={endpoint_id!r})")

    async def resolve(self, session: Session, kind: EndpointKind | None, *, needs_code: bool = True) -> EndpointHandle:
        """As `Target.resolve`; with no kind, the platform is asked."""
        client = await session.connected()
        if kind is not None:
            return client.existing(self._id, kind)
        return await session.ask(lambda client: client.look_up(self._id))

    def forget(self, session: Session) -> None:
        """As `Target.forget`."""

    def explain(self, error: Exception, session: Session) -> None:
        """As `Target.explain`."""
        if is_not_found(error):
            platform = session.platform()
            error.add_note(
                f"{self.words} was looked for on the platform {platform.name!r} ({platform.reason}), and it or what "
                "was asked about is not there"
            )


class NamedTarget:
    """An endpoint that exists, by its name: how a program calls what another one deployed."""

    misuse: str | None = None
    routes: Iterable[Route] = ()
    idle_timeout_s: float | None = None
    can_move = True

    def __init__(self, name: str) -> None:
        self._name = name
        self.words = f"endpoint {name!r}"

    async def resolve(self, session: Session, kind: EndpointKind | None, *, needs_code: bool = True) -> EndpointHandle:
        """As `Target.resolve`; looked up once."""
        handle = await session.deployments.found(self._name, lambda: self._found(session))
        if kind is not None and handle.kind is not kind:
            raise other_kind(self.words, handle.kind)
        return handle

    def forget(self, session: Session) -> None:
        """As `Target.forget`."""
        session.deployments.forget(self._name)

    def explain(self, error: Exception, session: Session) -> None:
        """As `Target.explain`."""

    async def _found(self, session: Session) -> EndpointHandle:
        handle = await session.ask(lambda client: client.find(self._name))
        if handle is None:
            platform = session.platform()
            raise NotFoundError(
                f"the platform {platform.name!r} ({platform.reason}) has no {self.words}, and this program does not "
                "say what to deploy as one: decorate a function with it, declare routes, give image=…, or deploy it "
                "from the program that does",
                status=404,
            )
        return handle


class ImageTarget:
    """An endpoint that runs an image: created once, of the kind that the first request is of."""

    routes: Iterable[Route] = ()
    can_move = True

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        self._kind: EndpointKind | None = None
        self.words = f"endpoint {config.name!r}"
        self.misuse = _misuse(f"Endpoint(image={config.image!r})")
        self.idle_timeout_s: float | None = config.idle_timeout

    async def resolve(self, session: Session, kind: EndpointKind | None, *, needs_code: bool = True) -> EndpointHandle:
        """As `Target.resolve`."""
        config = self._config
        wanted = kind or self._kind
        if wanted is None:
            raise ConfigError(
                f"{self.words} runs image {config.image!r}, and whether that takes jobs or HTTP requests only its "
                "first request would tell: say it with provision(ServerlessType.QB) or provision(ServerlessType.LB)"
            )
        if self._kind is not None and wanted is not self._kind:
            raise other_kind(self.words, self._kind)
        version = (config.version, wanted)
        before, self._kind = self._kind, wanted  # at once: others that ask meanwhile must not ask for the other kind
        try:
            config.require_workers()
            return await session.deployments.deployed(
                str(config.name), version, lambda: session.provision(config, kind=wanted)
            )
        except BaseException:
            self._kind = before
            raise

    def forget(self, session: Session) -> None:
        """As `Target.forget`."""
        session.deployments.forget(str(self._config.name))

    def explain(self, error: Exception, session: Session) -> None:
        """As `Target.explain`."""


def is_not_found(error: Exception) -> bool:
    """Return whether the platform, rather than a worker, answered that there is no such thing: nothing has run."""
    if not isinstance(error, NotFoundError):
        return False
    response = getattr(error, "response", None)
    return response is not None and api.WORKER_ID_HEADER not in response.headers


def was_not_sent(error: Exception) -> bool:
    """Return whether the platform was gone before a request could be sent to it: nothing has run."""
    cause = error.__cause__
    return isinstance(error, PlatformUnavailable) and getattr(cause, "was_sent", True) is False


def other_kind(words: str, kind: EndpointKind) -> ConfigError:
    """Return the error of a request that an endpoint of this kind does not take."""
    if kind is EndpointKind.QUEUE:
        return ConfigError(
            f"{words} is a queue, which takes jobs and no HTTP requests: use run() or runsync(); an endpoint is of "
            "one kind, so the other one needs a name of its own"
        )
    return ConfigError(
        f"{words} is load-balanced, which takes HTTP requests and no jobs: use get(), post() and so on of the client; "
        "an endpoint is of one kind, so the other one needs a name of its own"
    )


def _misuse(client: str) -> str:
    return (
        f"{client} is a client of an endpoint, not where routes are declared: its get(), post() and so on send "
        "requests and decorate nothing; declare routes on an Endpoint(name=…) without id and image"
    )
