# SPDX-License-Identifier: Apache-2.0
"""From a config to the one endpoint of that name: found, created or brought up to date. It runs no calls.

    plan ──► no endpoint of the name ──► POST ──► list again ──► ours is the oldest ──► it
                │                                     └── another is older ──► ours is deleted, that one is used
                └── endpoints of the name ──► the oldest ──► PATCH of what differs ──► it

Two processes may do this at once. Whatever a listing shows was created before whatever it does not show yet, so once
our own endpoint is listed every older one is too, and all processes agree on the oldest.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from ..config import EndpointConfig
from ..errors import ApiError, AuthenticationError, ConfigError, FlashPluginsError, NotFoundError
from ..resources import NetworkVolume
from . import api
from .base import Connection
from .body import Wanted, endpoint_body, notes_of
from .changes import Difference, difference_of, refuse_impossible_change
from .http import TransportFailure
from .models import EndpointInfo, VolumeInfo
from .prices import PriceRange, price_range
from .refusals import explained
from .rest import RestClient

__all__ = ["EndpointPlan", "PlanAction", "Provisioner"]

logger = logging.getLogger(__name__)

#: Seconds within which what was created shows in listings, and the pause between looks.
VISIBLE_WITHIN_S = 10.0
_LOOK_S: Final = 0.2
#: Seconds between looks for an endpoint that its owner creates just now.
CREATION_PAUSES_S: tuple[float, ...] = (0.1, 0.2, 0.5, 1, 1, 2, 2, 5, 5, 5, 10, 10)
#: Seconds to wait for volumes of the same name that others create at this moment: volumes do not say when they were.
VOLUME_SETTLE_S = 1.0


#: What Runpod's console appends to the name of an endpoint with FlashBoot, as its command line did until 2026-03
#: (github.com/runpod/runpodctl, pull request 261).
_FLASHBOOT_SUFFIX: Final = " -fb"


class PlanAction(StrEnum):
    """What provisioning would do."""

    CREATE = "create"
    UPDATE = "update"
    REUSE = "reuse"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class EndpointPlan:
    """What provisioning would do, and what it would cost.

    Attributes:
        name: Name of the endpoint.
        action: What would be done.
        endpoint: The endpoint of that name, None if there is none.
        difference: What would change, for `UPDATE`.
        body: The body that would create it; `networkVolumes` lacks volumes that are still to be created. May hold
            secrets in `env`, so it is never in `repr`.
        new_volumes: Network volumes that would be created.
        refusal: Why it cannot be done, for `REFUSE`.
        price: What its workers cost; None unless asked for.
        notes: What the user should know besides, one line each.
    """

    name: str
    action: PlanAction
    endpoint: EndpointInfo | None
    difference: Difference
    body: Mapping[str, Any] = field(repr=False)
    new_volumes: tuple[NetworkVolume, ...] = ()
    refusal: str | None = None
    price: PriceRange | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for a person."""
        match self.action:
            case PlanAction.CREATE:
                return f"endpoint {self.name!r} is to be created"
            case PlanAction.UPDATE:
                created = [f"volume {volume.name!r} is created and attached" for volume in self.new_volumes]
                return f"endpoint {self.name!r} changes: {'; '.join(filter(None, [str(self.difference), *created]))}"
            case PlanAction.REFUSE:
                return f"endpoint {self.name!r} cannot be provisioned: {self.refusal}"
        return f"endpoint {self.name!r} is there as it should be"


class Provisioner:
    """Makes the endpoints of one platform what they should be. Used from one event loop only.

    Args:
        rest: REST v2 of the platform.
        connection: Where the platform is and how workers start there.
        tell: Takes a line for the user.
        lost: Returns why the platform is gone, None while it lives or cannot tell.
    """

    def __init__(
        self,
        rest: RestClient,
        connection: Connection,
        *,
        tell: Callable[[str], object] = logger.info,
        lost: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._rest = rest
        self._connection = connection
        self._tell = tell
        self._lost = lost

    async def plan(self, wanted: Wanted, *, is_priced: bool = True) -> EndpointPlan:
        """Return what `ensure` would do. Changes nothing.

        Args:
            wanted: The endpoint.
            is_priced: Whether to look up what it costs.

        Raises:
            PlatformError: The platform does not answer, or refuses.
        """
        price = await price_range(self._rest, wanted.config) if is_priced else None
        try:
            volumes, missing = await self._found_volumes(wanted.config)
            plan = self._plan(wanted, await self.named(wanted.name), volumes, missing)
        except ConfigError as error:
            plan = EndpointPlan(wanted.name, PlanAction.REFUSE, None, Difference({}, ()), {}, refusal=str(error))
        return EndpointPlan(
            plan.name,
            plan.action,
            plan.endpoint,
            plan.difference,
            plan.body,
            new_volumes=plan.new_volumes,
            refusal=plan.refusal,
            price=price,
            notes=plan.notes,
        )

    async def ensure(self, wanted: Wanted) -> EndpointInfo:
        """Return the endpoint, created or brought up to date as needed.

        Raises:
            ConfigError: An endpoint of that name exists and cannot become this one, parameters cannot go together, or
                a volume does not exist.
            PlatformUnavailable: The platform does not answer; where it may have created something, the message says
                so.
            ApiError: The platform refused; the message names the parameters.
        """
        self._body(wanted, [])  # what is wrong with the parameters is found before anything is created
        if self._connection.keeps_endpoints and (kept := await self._kept(wanted)) is not None:
            return kept
        volumes = await self._ensured_volumes(wanted.config)
        return await self._made_or_changed(wanted, volumes)

    async def _made_or_changed(
        self, wanted: Wanted, volumes: list[VolumeInfo], *, is_repeated: bool = False
    ) -> EndpointInfo:
        found = await self.named(wanted.name)
        if not found:
            made, found = await self._created(wanted, self._body(wanted, volumes))
            if made is not None:
                self._tell_all(notes_of(wanted))
                return made
        plan = self._plan(wanted, found, volumes, ())
        self._tell_all(plan.notes)
        endpoint = found[0]
        if plan.difference.patch:
            self._tell(str(plan))
            try:
                endpoint = await self._rest.update_endpoint(endpoint.id, plan.difference.patch)
            except AuthenticationError:
                raise  # it is no parameter's fault
            except ApiError as error:
                if isinstance(error, NotFoundError) and not is_repeated and not await self.named(wanted.name):
                    return await self._made_or_changed(wanted, volumes, is_repeated=True)  # deleted meanwhile
                raise explained(error, wanted.name) from error
        return endpoint

    def _tell_all(self, notes: Iterable[str]) -> None:
        for note in notes:
            self._tell(note)

    def _plan(
        self,
        wanted: Wanted,
        found: list[EndpointInfo],
        volumes: list[VolumeInfo],
        missing: tuple[NetworkVolume, ...],
    ) -> EndpointPlan:
        body = self._body(wanted, volumes)
        notes = notes_of(wanted)
        if not found:
            nothing = Difference({}, ())
            return EndpointPlan(wanted.name, PlanAction.CREATE, None, nothing, body, missing, notes=tuple(notes))
        endpoint, *others = found
        if others:
            notes.append(
                f"{len(found)} endpoints are named {wanted.name!r}: the oldest, {endpoint.id}, is used, and "
                f"{', '.join(other.id for other in others)} left as it is"
            )
        refuse_impossible_change(endpoint.fields, body)
        difference = difference_of(endpoint.fields, body, keeps_cargo=wanted.cargo is None)
        action = PlanAction.UPDATE if difference.patch or missing else PlanAction.REUSE
        return EndpointPlan(wanted.name, action, endpoint, difference, body, missing, notes=tuple(notes))

    def _body(self, wanted: Wanted, volumes: list[VolumeInfo]) -> dict[str, Any]:
        connection = self._connection
        return endpoint_body(wanted, connection.worker_command, queue_delay_s=connection.queue_delay_s, volumes=volumes)

    async def _kept(self, wanted: Wanted) -> EndpointInfo | None:
        """Return the endpoint as it is, for a worker that calls another endpoint; None where it may be created.

        One whose `env` stayed where it was declared is waited for: its owner creates it just now.
        """
        for pause_s in (*(CREATION_PAUSES_S if wanted.config.lacks_env else ()), None):
            if found := await self.named(wanted.name):
                refuse_impossible_change(found[0].fields, self._body(wanted, []))
                return found[0]
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        if not wanted.config.lacks_env:
            return None
        raise ConfigError(
            f"endpoint {wanted.name!r} is called from a worker and does not exist; its env=… stays where it was "
            "declared, so the worker cannot create it: call it, or provision() it, from your program first"
        )

    # -- endpoints ------------------------------------------------------------------------------------------

    async def named(self, name: str) -> list[EndpointInfo]:
        """Return the endpoints of a name, the oldest first."""
        names = (name, name + _FLASHBOOT_SUFFIX)
        named = [endpoint for endpoint in await self._rest.endpoints() if endpoint.name in names]
        return sorted(named, key=lambda endpoint: endpoint.age_order)

    async def _created(self, wanted: Wanted, body: Mapping[str, Any]) -> tuple[EndpointInfo | None, list[EndpointInfo]]:
        """Create the endpoint; return it, or None and those of the name where somebody else was faster."""
        token = secrets.token_hex(8)
        marked = {**body, "env": {**body["env"], api.CREATION_ENV: token}}
        try:
            made = await self._rest.create_endpoint(marked)
        except AuthenticationError:
            raise  # it is no parameter's fault
        except (TransportFailure, ApiError) as error:
            may_exist = error.was_sent if isinstance(error, TransportFailure) else error.status >= 500
            found = await self._came_through(wanted.name, token) if may_exist else None
            if found is None:
                raise _failed_creation(error, wanted.name) from error
            made = found
        named = await self._with(wanted.name, made)
        if named[0].id == made.id:
            return made, named
        logger.info("endpoint %r was created by another process too; that one is used", wanted.name)
        try:
            await self._rest.delete_endpoint(made.id)
        except FlashPluginsError as error:
            self._tell(f"endpoint {wanted.name!r} exists twice, and {made.id} could not be deleted: {error}")
        return None, [endpoint for endpoint in named if endpoint.id != made.id]

    async def _came_through(self, name: str, token: str) -> EndpointInfo | None:
        """Return the endpoint of a POST whose answer got lost, None if it does not show."""
        async for named in self._looks(name):
            for endpoint in named:
                if endpoint.env.get(api.CREATION_ENV) == token:
                    return endpoint
        return None

    async def _with(self, name: str, made: EndpointInfo) -> list[EndpointInfo]:
        """Return the endpoints of a name once they include one that was just made."""
        named: list[EndpointInfo] = []
        async for named in self._looks(name):
            if any(endpoint.id == made.id for endpoint in named):
                return named
        return sorted([made, *named], key=lambda endpoint: endpoint.age_order)

    async def _looks(self, name: str) -> AsyncIterator[list[EndpointInfo]]:
        """List the endpoints of a name again and again, for as long as something new may take to show."""
        ends_at = time.monotonic() + VISIBLE_WITHIN_S
        while self._lost() is None:
            yield await self.named(name)
            if time.monotonic() > ends_at:
                return
            await asyncio.sleep(_LOOK_S)

    async def object_volume(self, config: EndpointConfig) -> VolumeInfo | None:
        """Return the network volume that workers of an endpoint have wherever they run, created if need be.

        None where it has none, or one for each of several data centers. Raises as `ensure`.
        """
        found = await self._ensured_volumes(config) if len(config.volume) == 1 else []
        return found[0] if found else None

    # -- volumes --------------------------------------------------------------------------------------------

    async def _found_volumes(self, config: EndpointConfig) -> tuple[list[VolumeInfo], tuple[NetworkVolume, ...]]:
        """Return the volumes that exist, and those that would have to be created.

        Raises:
            ConfigError: A volume with an id does not exist, or is where no worker may run.
        """
        listed = await self._rest.volumes() if any(volume.id is None for volume in config.volume) else []
        found: list[VolumeInfo] = []
        missing: list[NetworkVolume] = []
        for volume in config.volume:
            if volume.id is not None:
                found.append(await self._existing_volume(config, volume))
            elif matching := _matching(volume, listed):
                found.append(min(matching, key=lambda info: info.id))  # names need not be unique: always the same one
            else:
                missing.append(volume)
        return found, tuple(missing)

    async def _existing_volume(self, config: EndpointConfig, volume: NetworkVolume) -> VolumeInfo:
        assert volume.id is not None
        try:
            found = await self._rest.volume(volume.id)
        except NotFoundError as error:
            raise ConfigError(
                f"endpoint {config.name!r}: NetworkVolume(id={volume.id!r}) does not exist, or belongs to another "
                "account; check the id, or give name=… to have one found or created"
            ) from error
        allowed = [volume.place] if volume.place is not None else list(config.datacenter)
        if allowed and found.data_center not in [center.value for center in allowed]:
            raise ConfigError(
                f"endpoint {config.name!r}: volume {volume.id!r} is in {found.data_center}, and "
                f"{', '.join(center.value for center in allowed)} was asked for; a volume cannot be moved"
            )
        return found

    async def _ensured_volumes(self, config: EndpointConfig) -> list[VolumeInfo]:
        """Return all volumes of a config, in its order, after creating those that do not exist."""
        found, missing = await self._found_volumes(config)
        found += [await self._created_volume(config, volume) for volume in missing]
        places = [volume.place for volume in config.volume]
        return sorted(found, key=lambda info: next((i for i, p in enumerate(places) if p == info.data_center), -1))

    async def _created_volume(self, config: EndpointConfig, volume: NetworkVolume) -> VolumeInfo:
        name, place = str(volume.name), str(volume.place)
        note = self._connection.volume_note
        self._tell(f"network volume {name!r} of {volume.size} GB is created in {place}: {note}")
        try:
            made = await self._rest.create_volume(name=name, size_gb=volume.size, data_center=place)
        except AuthenticationError:
            raise  # it is no parameter's fault
        except ApiError as error:
            raise explained(error, str(config.name), f"volume {name!r} in {place}") from error
        await asyncio.sleep(VOLUME_SETTLE_S)
        # As they are listed, which is the same for everybody: where that is the oldest first, latecomers lose surely.
        rivals = _matching(volume, await self._rest.volumes())
        if made.id not in [rival.id for rival in rivals] or rivals[0].id == made.id:
            return made
        kept = rivals[0]
        if any(made.id in endpoint.volumes for endpoint in await self._rest.endpoints()):
            return made
        logger.info("network volume %r was created by another process too; that one is used", name)
        try:
            await self._rest.delete_volume(made.id)
        except FlashPluginsError as error:
            self._tell(f"network volume {name!r} exists twice, and {made.id} could not be deleted: {error}")
        return kept


def _failed_creation(error: TransportFailure | ApiError, name: str) -> TransportFailure | ApiError:
    if isinstance(error, ApiError):
        return explained(error, name)
    unknown = (
        "; it may or may not have been created: it is used by the next attempt if it was" if error.was_sent else ""
    )
    return TransportFailure(f"endpoint {name!r} could not be created: {error}{unknown}", was_sent=error.was_sent)


def _matching(volume: NetworkVolume, listed: list[VolumeInfo]) -> list[VolumeInfo]:
    """Return the volumes of that name in that data center, as they are listed."""
    return [info for info in listed if info.name == volume.name and info.data_center == volume.place]
