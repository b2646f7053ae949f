# SPDX-License-Identifier: Apache-2.0
"""All endpoints of the platform by their ids. It knows no HTTP."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

from .clock import Clock
from .endpoints import EndpointSpec, create_endpoint, update_endpoint
from .fields import JsonObject
from .fleet import Fleet
from .jobs import Job
from .processes import Processes
from .workers import Worker

__all__ = ["Registry", "timestamp"]


class Registry:
    """Creates, finds, changes and deletes endpoints, each at work as a `Fleet`."""

    def __init__(
        self,
        *,
        clock: Clock,
        processes: Processes,
        environment: Callable[[EndpointSpec, Worker], dict[str, str]],
        on_job_end: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self._clock = clock
        self._processes = processes
        self._environment = environment
        self._on_job_end = on_job_end
        self._fleets: dict[str, Fleet] = {}

    def __iter__(self) -> Iterator[Fleet]:
        return iter(list(self._fleets.values()))

    def get(self, endpoint_id: str) -> Fleet | None:
        """Return the endpoint at work, None if there is no such one."""
        return self._fleets.get(endpoint_id)

    def create(self, body: JsonObject) -> Fleet:
        """Create an endpoint from a REST v2 request.

        Raises:
            Refused: The request is refused.
        """
        spec = create_endpoint(body, created_at=timestamp(self._clock.wall()))
        fleet = Fleet(
            spec,
            clock=self._clock,
            processes=self._processes,
            environment=self._environment,
            on_job_end=self._on_job_end,
        )
        self._fleets[spec.id] = fleet
        return fleet

    def update(self, fleet: Fleet, patch: JsonObject) -> None:
        """Change an endpoint by a REST v2 PATCH.

        Raises:
            Refused: The request is refused.
        """
        fleet.update(update_endpoint(fleet.spec, patch))

    def delete(self, fleet: Fleet) -> None:
        """Cancel an endpoint's jobs, end its workers and forget it."""
        del self._fleets[fleet.spec.id]
        fleet.close()

    def close(self) -> None:
        """Delete all endpoints."""
        for fleet in self:
            self.delete(fleet)


def timestamp(wall_s: float) -> str:
    """Return seconds since 1970 as RFC 3339 text."""
    moment = datetime.datetime.fromtimestamp(wall_s, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
