# SPDX-License-Identifier: Apache-2.0
"""Where the requests of an `EndpointClient` go: to an endpoint that exists, or to one that is made first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..errors import ApiError
from ..platforms import api
from ..platforms.api import EndpointKind

if TYPE_CHECKING:
    from ..dispatcher import Session
    from ..platforms.runpod import EndpointHandle

__all__ = ["ExistingTarget", "Target"]


class Target(Protocol):
    """Where a client's requests go."""

    @property
    def words(self) -> str:
        """What it is, for messages, such as `endpoint 'abc123'`."""

    @property
    def misuse(self) -> str | None:
        """What somebody is told who takes its requests for route decorators; None where nobody would."""

    @property
    def patience_s(self) -> float | None:
        """Seconds to wait for a first worker; None for as long as the request itself may take."""

    async def resolve(self, session: Session, kind: EndpointKind) -> EndpointHandle:
        """Return the endpoint, made if need be, for requests of this kind. Loop thread.

        Raises:
            ConfigError: It takes requests of the other kind only.
            NotFoundError: There is none.
        """

    def explain(self, error: Exception, session: Session) -> None:
        """Add to an error of a request what only the target knows."""


class ExistingTarget:
    """An endpoint that exists, by its id. Nothing is asked about it: its URLs follow from the id."""

    patience_s: float | None = None

    def __init__(self, endpoint_id: str) -> None:
        self._id = endpoint_id
        self.words = f"endpoint {endpoint_id!r}"
        self.misuse = _misuse(f"Endpoint(id={endpoint_id!r})")

    async def resolve(self, session: Session, kind: EndpointKind) -> EndpointHandle:
        """As `Target.resolve`."""
        client = await session.connected()
        return client.existing(self._id, kind)

    def explain(self, error: Exception, session: Session) -> None:
        """As `Target.explain`."""
        response = getattr(error, "response", None)
        is_of_worker = response is not None and api.WORKER_ID_HEADER in response.headers
        if isinstance(error, ApiError) and error.status == 404 and not is_of_worker:
            platform = session.platform()
            error.add_note(
                f"{self.words} was looked for on the platform {platform.name!r} ({platform.reason}), and it or what "
                "was asked about is not there"
            )


def _misuse(client: str) -> str:
    return (
        f"{client} is a client of an endpoint, not where routes are declared: its get(), post() and so on send "
        "requests and decorate nothing; declare routes on an Endpoint(name=…) without id and image"
    )
