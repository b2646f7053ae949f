# SPDX-License-Identifier: Apache-2.0
"""All endpoints of the platform by their ids. It knows no HTTP."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

from .balanced import BalancedFleet, Prober
from .clock import Clock
from .endpoints import EndpointSpec, create_endpoint, update_endpoint
from .fields import JsonObject
from .fleet import Fleet
from .jobs import Job
from .ports import Ports
from .processes import Processes
from .releases import ReleaseLog
from .templates import Templates
from .volumes import Volumes
from .workers import Worker

__all__ = ["AnyFleet", "Registry", "timestamp"]

#: An endpoint at work, of either type.
AnyFleet = Fleet | BalancedFleet


class Registry:
    """Creates, finds, changes and deletes endpoints, each at work as a `Fleet` or a `BalancedFleet`.

    Attributes:
        templates: What endpoints may be created from.
        volumes: What they may be attached to.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        processes: Processes,
        volumes: Volumes,
        environment: Callable[[EndpointSpec, Worker], dict[str, str]],
        prober: Prober,
        on_job_end: Callable[[Job], None] = lambda job: None,
        is_uncapped: bool = False,
    ) -> None:
        self._is_uncapped = is_uncapped
        self._clock = clock
        self._processes = processes
        self._environment = environment
        self._on_job_end = on_job_end
        self._prober = prober
        self._ports = Ports()
        self._fleets: dict[str, AnyFleet] = {}
        self._releases: dict[str, ReleaseLog] = {}
        self.templates = Templates(exists=self._fleets.__contains__)
        self.volumes = volumes

    def __iter__(self) -> Iterator[AnyFleet]:
        return iter(list(self._fleets.values()))

    def get(self, endpoint_id: str) -> AnyFleet | None:
        """Return the endpoint at work, None if there is no such one."""
        return self._fleets.get(endpoint_id)

    def get_named(self, key: str) -> AnyFleet | None:
        """Return the endpoint with this id, or else the latest one with this name."""
        named = [fleet for fleet in self if fleet.spec.fields["name"] == key]
        return self.get(key) or (named[-1] if named else None)

    def create(self, body: JsonObject) -> AnyFleet:
        """Create an endpoint from a REST v2 request.

        Raises:
            Refused: The request is refused.
        """
        settings = self.templates.applied(body, is_new=True)
        spec = create_endpoint(settings, created_at=timestamp(self._clock.wall()))
        self.volumes.check(spec.fields)
        fleet = self._fleets[spec.id] = self._open(spec)
        self._releases[spec.id] = ReleaseLog(spec)
        self.templates.note_use(body, spec.id)
        return fleet

    def _open(self, spec: EndpointSpec) -> AnyFleet:
        if spec.is_balanced:
            return BalancedFleet(
                spec,
                clock=self._clock,
                processes=self._processes,
                environment=self._environment,
                prober=self._prober,
                ports=self._ports,
            )
        return Fleet(
            spec,
            clock=self._clock,
            processes=self._processes,
            environment=self._environment,
            on_job_end=self._on_job_end,
            is_uncapped=self._is_uncapped,
        )

    def update(self, fleet: AnyFleet, patch: JsonObject) -> None:
        """Change an endpoint by a REST v2 PATCH.

        Raises:
            Refused: The request is refused.
        """
        spec = update_endpoint(fleet.spec, self.templates.applied(patch, is_new=False))
        if patch.keys() & {"networkVolumes", "dataCenterIds"}:
            self.volumes.check(spec.fields)
        fleet.update(spec)
        self._releases[spec.id].note(spec, timestamp(self._clock.wall()))
        self.templates.note_use(patch, spec.id)

    def releases(self, fleet: AnyFleet) -> ReleaseLog:
        """Return the releases of an endpoint."""
        return self._releases[fleet.spec.id]

    def users_of_volume(self, volume_id: str) -> list[str]:
        """Return the ids of the endpoints that are attached to a network volume."""
        return [fleet.spec.id for fleet in self if volume_id in fleet.spec.fields.get("networkVolumes", ())]

    def delete(self, fleet: AnyFleet) -> None:
        """Cancel an endpoint's jobs, end its workers and forget it."""
        del self._fleets[fleet.spec.id], self._releases[fleet.spec.id]
        fleet.close()

    def close(self) -> None:
        """Delete all endpoints because the platform ends: nobody is told that a job was cancelled."""
        for fleet in self:
            fleet.is_ending = True
            self.delete(fleet)


def timestamp(wall_s: float) -> str:
    """Return seconds since 1970 as RFC 3339 text."""
    moment = datetime.datetime.fromtimestamp(wall_s, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
