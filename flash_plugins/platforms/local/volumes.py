# SPDX-License-Identifier: Apache-2.0
"""Network volumes: folders of this user that outlive the platform. It never looks at what workers put into them.

    <base>/<name>-<data center>/volume.json   id, name, size, data center, type
                                files/        what the workers of an attached endpoint see

Several platforms may run at once, so nothing is kept in memory: whatever is asked for is read from the folders.
A folder without a readable `volume.json` is none of ours, or is being made. Sizes are noted, not enforced.

Rules: Runpod's REST v2 description (2026-08). It says neither which status an unknown data center, an unknown
volume or a conflict of data centers gets, nor whether a volume in use may be deleted: here 400, 404, 400, and no.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ...hardware import DataCenter
from .. import api
from .endpoints import random_id
from .fields import JsonObject, Refused, number, object_of, one_of, refuse, string
from .restroute import answer, read_body, route

__all__ = ["Volume", "Volumes", "volume_routes"]

_LOG = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: Longest part of a folder's name that comes from the volume's name, characters.
_SLUG_MAX = 60
_NOTE = "volume.json"
#: How often removing a volume is tried: a worker that is just ending may still write into it.
_REMOVALS = 5
_REMOVAL_PAUSE_S = 0.2

_CHANGEABLE = {
    "name": string(at_least=1),
    "size": number(api.VOLUME_SIZE_MIN_GB, api.VOLUME_SIZE_MAX_GB),
}
_FIELDS = {**_CHANGEABLE, "dataCenter": string(at_least=1), "type": one_of(*api.VOLUME_TYPES)}


@dataclass(frozen=True, slots=True)
class Volume:
    """One network volume; `size` is in GB, `created_at` in seconds since 1970."""

    id: str
    name: str
    size: int
    data_center: str
    type: str
    created_at: float
    folder: Path

    @property
    def files(self) -> Path:
        """The folder that workers see."""
        return self.folder / "files"

    def to_json(self) -> JsonObject:
        """Return the answer of REST v2 about this volume."""
        return {
            "id": self.id,
            "name": self.name,
            "size": self.size,
            "dataCenter": self.data_center,
            "type": self.type,
        }


class Volumes:
    """The network volumes below one folder. Reads and writes files; `delete` may take long."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def all(self) -> list[Volume]:
        """Return every volume, the oldest first."""
        found = [volume for note in self._base.glob(f"*/{_NOTE}") if (volume := _read(note)) is not None]
        return sorted(found, key=lambda volume: (volume.created_at, volume.id))

    def get(self, volume_id: str) -> Volume:
        """Return one volume.

        Raises:
            Refused: There is none with that id.
        """
        for volume in self.all():
            if volume.id == volume_id:
                return volume
        raise Refused(404, f"network volume {volume_id!r} not found")

    def create(self, body: JsonObject) -> Volume:
        """Make a volume as a REST v2 request describes it; names need not be unique.

        Raises:
            Refused: The request is refused.
        """
        refuse(object_of(_FIELDS, required=("name", "size", "dataCenter"))(body, "$"))
        center = body["dataCenter"]
        if center not in set(DataCenter):
            raise Refused(400, f"data center {center!r} is unknown: it is one of {', '.join(DataCenter)}")
        folder = self._new_folder(body["name"], center)
        kind = body.get("type", api.VOLUME_TYPES[0])
        volume = Volume(random_id()[:10], body["name"], int(body["size"]), center, kind, time.time(), folder)
        volume.files.mkdir(mode=0o700)
        _write(volume)
        return volume

    def update(self, volume: Volume, patch: JsonObject) -> Volume:
        """Rename or enlarge a volume.

        Raises:
            Refused: The request is refused.
        """
        errors = object_of(_CHANGEABLE)(patch, "$")
        refuse(errors if patch else ["$: must have at least one property"])
        size = int(patch.get("size", volume.size))
        if size < volume.size:
            raise Refused(400, f"a network volume cannot shrink: it has {volume.size} GB, not {size} or less")
        changed = replace(volume, name=patch.get("name", volume.name), size=size)
        _write(changed)
        return changed

    def delete(self, volume: Volume) -> None:
        """Remove a volume and all its files. Blocks.

        Raises:
            OSError: A file cannot be removed; the volume stays, with what is left of it.
        """
        for tries_left in reversed(range(_REMOVALS)):
            try:
                if volume.files.exists():
                    shutil.rmtree(volume.files)
                shutil.rmtree(volume.folder)
            except OSError:
                if not tries_left:
                    raise
                time.sleep(_REMOVAL_PAUSE_S)
            else:
                return

    def check(self, fields: JsonObject) -> None:
        """Check what an endpoint says about volumes and places: it is pinned to the places of its volumes.

        Raises:
            Refused: A volume is unknown, is elsewhere, or shares its data center with another one.
        """
        seen: dict[str, Volume] = {}
        for volume_id in fields.get("networkVolumes") or ():
            volume = self.get(volume_id)
            center = volume.data_center
            if center in seen:
                raise Refused(400, f"network volumes {seen[center].id} and {volume.id} are both in {center}: one each")
            if fields.get("dataCenterIds") and center not in fields["dataCenterIds"]:
                allowed = ", ".join(fields["dataCenterIds"])
                raise Refused(400, f"network volume {volume.id} is in {center} and dataCenterIds allow only {allowed}")
            seen[center] = volume

    def environment(self, fields: JsonObject) -> dict[str, str]:
        """Return what a worker of an endpoint is told about its volume: the first of its list that is still there."""
        wanted = fields.get("networkVolumes") or []
        found = [volume for volume in self.all() if volume.id in wanted]
        if not found:
            return {}
        volume = min(found, key=lambda one: wanted.index(one.id))
        return {
            api.VOLUME_ID_ENV: volume.id,
            api.VOLUME_PATH_ENV: str(volume.files),
            api.DATA_CENTER_ENV: volume.data_center,
        }

    def _new_folder(self, name: str, center: str) -> Path:
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:_SLUG_MAX] or "volume"
        self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = 1
        while True:
            folder = self._base / (f"{slug}-{center}" if number == 1 else f"{slug}-{center}-{number}")
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                number += 1
            else:
                return folder


def _read(note: Path) -> Volume | None:
    """Return the volume that a note is about, None for one that cannot be read."""
    try:
        said = json.loads(note.read_text())
        return Volume(
            id=str(said["id"]),
            name=str(said["name"]),
            size=int(said["size"]),
            data_center=str(said["dataCenter"]),
            type=str(said["type"]),
            created_at=float(said["createdAt"]),
            folder=note.parent,
        )
    except FileNotFoundError:  # removed this very moment
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        _LOG.warning("%s is no note of a network volume and is ignored: %r", note, error)
        return None


def _write(volume: Volume) -> None:
    draft = volume.folder / f"{_NOTE}.{os.getpid()}"
    draft.write_text(json.dumps({**volume.to_json(), "createdAt": volume.created_at}))
    draft.replace(volume.folder / _NOTE)


async def _stored(action: str, operation: Callable[..., _Result], *arguments: object) -> _Result:
    """Return what a file operation returns, which other requests need not wait for."""
    try:
        return await asyncio.to_thread(operation, *arguments)
    except OSError as error:
        raise Refused(500, f"cannot {action} the network volume: {error}") from error


def volume_routes(volumes: Volumes, used_by: Callable[[str], Iterable[str]]) -> list[BaseRoute]:
    """Return the routes of REST v2.

    Args:
        used_by: Returns the ids of the endpoints that use a volume.
    """

    async def show_all(request: Request) -> Response:
        listed = [volume.to_json() for volume in volumes.all()]
        # Newer than the description: runpod 2.0.0rc2 takes no answer without it.
        return answer({"networkVolumes": listed, "pagination": {"hasNextPage": False, "nextCursor": None}})

    async def create(request: Request) -> Response:
        volume = await _stored("create", volumes.create, await read_body(request))
        return answer(volume.to_json(), 201)

    async def show(request: Request) -> Response:
        return answer(volumes.get(request.path_params["id"]).to_json())

    async def update(request: Request) -> Response:
        volume = volumes.get(request.path_params["id"])
        changed = await _stored("update", volumes.update, volume, await read_body(request))
        return answer(changed.to_json())

    async def delete(request: Request) -> Response:
        volume = volumes.get(request.path_params["id"])
        users = list(used_by(volume.id))
        if users:
            raise Refused(
                400, f"network volume {volume.id} is in use by endpoint {', '.join(users)}: delete that first"
            )
        await _stored("delete", volumes.delete, volume)
        return Response(status_code=204)

    return [
        route(api.VOLUMES_PATH, {"GET": show_all, "POST": create}),
        route(f"{api.VOLUMES_PATH}/{{id}}", {"GET": show, "PATCH": update, "DELETE": delete}),
    ]
