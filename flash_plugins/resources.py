# SPDX-License-Identifier: Apache-2.0
"""What an endpoint refers to beside its hardware: network volumes and templates. It creates neither.

Names of fields are those of `runpod_flash` 1.21, so that programs written for it keep working.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .errors import ConfigError
from .hardware import DataCenter

__all__ = ["NetworkVolume", "PodTemplate", "parse_volumes"]

#: Sizes that REST v2 allows for a network volume, GB.
VOLUME_SIZE_RANGE_GB: Final = (10, 4096)
#: Where a volume is made unless its user says so: the default of `runpod_flash`.
VOLUME_DATACENTER_DEFAULT: Final = DataCenter.EU_RO_1


@dataclass(frozen=True, slots=True)
class NetworkVolume:
    """Storage that outlives workers; on Runpod mounted at `/runpod-volume` of each worker of the endpoint.

    With a name, the volume of that name in that data center is used, and created if there is none. With an id,
    that volume is used as it is.

    Attributes:
        name: Its name. Name or id is needed.
        id: Its id on the platform.
        size: GB, 10 to 4096, for one that is created. Default 100. A smaller existing one is not grown.
        datacenter: Where it is. Default EU-RO-1, as in `runpod_flash`; with an id alone unknown (None).
        dataCenterId: Another spelling of `datacenter`.

    Raises:
        ConfigError: Neither name nor id, a blank name, a size out of range, or an unknown data center.
    """

    name: str | None = None
    id: str | None = None
    size: int = 100
    datacenter: DataCenter | str | None = None
    dataCenterId: DataCenter | str | None = None

    def __post_init__(self) -> None:
        for what, value in (("name", self.name), ("id", self.id)):
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ConfigError(f"NetworkVolume({what}={value!r}): give a text that is not blank")
        if self.name is None and self.id is None:
            raise ConfigError("NetworkVolume(): give name=… to find or create a volume, or id=… of an existing one")
        low, high = VOLUME_SIZE_RANGE_GB
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not low <= self.size <= high:
            raise ConfigError(f"NetworkVolume(size={self.size!r}): give whole GB from {low} to {high}")
        given = self.datacenter if self.datacenter is not None else self.dataCenterId
        if given is None and self.name is not None:
            given = VOLUME_DATACENTER_DEFAULT
        place = None if given is None else DataCenter.from_string(given)
        object.__setattr__(self, "datacenter", place)
        object.__setattr__(self, "dataCenterId", place)

    @property
    def place(self) -> DataCenter | None:
        """The data center, None where only an id is known."""
        return None if self.datacenter is None else DataCenter(self.datacenter)


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """Settings of a worker's container that `Endpoint` has no parameter of its own for.

    Attributes:
        id: An existing serverless template, whose settings the platform copies when the endpoint is created; what
            the endpoint sets itself wins. Default none.
        name: Ignored: nothing is created under it.
        imageName: Image of the workers. Default: the endpoint's own.
        containerDiskInGb: Container disk, GB. Default 64, as in `runpod_flash`.
        containerRegistryAuthId: Id of the credential for a private image.
        dockerArgs: Start command; only for endpoints that run an image of their own (`image=`).
        env: Variables, as a mapping or as `[{"key": …, "value": …}]`; `Endpoint(env=…)` wins.
        ports: `"80/http,22/tcp"` or a list of such entries.
        startScript: Not available through REST v2; refused unless empty.
        advancedStart: As above.
        config: As above.

    Raises:
        ConfigError: A value cannot be used.
    """

    id: str | None = None
    name: str = ""
    imageName: str = ""
    containerDiskInGb: int | None = 64
    containerRegistryAuthId: str = ""
    dockerArgs: str = ""
    env: Mapping[str, str] | Sequence[Any] = field(default=(), repr=False)  # Any: mappings or objects with key, value
    ports: str | Sequence[str] = ""
    startScript: str = ""
    advancedStart: bool = False
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for what in ("startScript", "advancedStart", "config"):
            if getattr(self, what):
                raise ConfigError(
                    f"PodTemplate({what}={getattr(self, what)!r}): Runpod's REST API has nothing like it; leave it out"
                )
        disk = self.containerDiskInGb
        if disk is not None and (isinstance(disk, bool) or not isinstance(disk, int) or disk < 1):
            raise ConfigError(f"PodTemplate(containerDiskInGb={disk!r}): give whole GB, at least 1")
        for what in ("id", "name", "imageName", "containerRegistryAuthId", "dockerArgs"):
            value = getattr(self, what)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"PodTemplate({what}={value!r}): give a text")
        object.__setattr__(self, "env", _variables(self.env))
        object.__setattr__(self, "ports", _ports(self.ports))

    @property
    def variables(self) -> dict[str, str]:
        """`env` as a mapping."""
        assert isinstance(self.env, Mapping)
        return dict(self.env)

    @property
    def port_list(self) -> tuple[str, ...]:
        """`ports` as entries such as `80/http`."""
        return tuple(self.ports)


def _variables(env: Any) -> dict[str, str]:  # Any: what a user wrote
    pairs = list(env.items()) if isinstance(env, Mapping) else [_pair(entry) for entry in env]
    for key, value in pairs:
        if not isinstance(key, str) or not isinstance(value, str) or not key:
            raise ConfigError(f"PodTemplate(env=…): entry {key!r} must be a text, and so must its value")
    return dict(pairs)


def _pair(entry: Any) -> tuple[Any, Any]:
    if isinstance(entry, Mapping):
        entry = dict(entry)
        return entry.get("key"), entry.get("value")
    return getattr(entry, "key", None), getattr(entry, "value", None)


def _ports(ports: Any) -> tuple[str, ...]:
    entries = ports.split(",") if isinstance(ports, str) else list(ports)
    found = tuple(entry.strip() for entry in entries if entry.strip())
    for entry in found:
        number, _, protocol = entry.partition("/")
        if not number.isdigit() or not 0 < int(number) < 65536 or protocol not in ("http", "tcp"):
            raise ConfigError(f"PodTemplate(ports=…): {entry!r} is no port; write it as 80/http or 22/tcp")
    return found


def parse_volumes(value: object) -> tuple[NetworkVolume, ...]:
    """Return the volumes of an endpoint: one, or a list with one for each data center.

    Raises:
        ConfigError: Something else, an empty list, or two volumes of one data center.
    """
    if isinstance(value, NetworkVolume):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise ConfigError(
            f"Endpoint(volume={value!r}) is a {type(value).__name__}: give a NetworkVolume, or a list of them"
        )
    if not value:
        raise ConfigError("Endpoint(volume=[]): the list is empty; leave the parameter out for no volume")
    places: dict[DataCenter, int] = {}
    for index, volume in enumerate(value):
        if not isinstance(volume, NetworkVolume):
            raise ConfigError(
                f"Endpoint(volume=…): entry {index} is {volume!r}, a {type(volume).__name__}: give NetworkVolume "
                "objects"
            )
        if volume.place is not None and places.setdefault(volume.place, index) != index:
            raise ConfigError(
                f"Endpoint(volume=…): entries {places[volume.place]} and {index} are both in {volume.place}; "
                "give one volume for each data center"
            )
    return tuple(value)
