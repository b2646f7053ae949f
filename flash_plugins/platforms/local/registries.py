# SPDX-License-Identifier: Apache-2.0
"""Credentials for private images: their ids and names. Passwords are taken and forgotten: no image is pulled here.

Rules: Runpod's REST v2 description (2026-08).
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from .. import api
from .endpoints import random_id
from .fields import JsonObject, Refused, object_of, refuse, string
from .restroute import answer, read_body, route
from .templates import Templates

__all__ = ["registry_routes"]

_TEXT = string(at_least=1)
_FIELDS = {"name": _TEXT, "username": _TEXT, "password": _TEXT}


def registry_routes(templates: Templates) -> list[BaseRoute]:
    """Return the routes of REST v2; templates lose a credential that is deleted."""
    registries: dict[str, JsonObject] = {}

    def find(request: Request) -> JsonObject:
        wanted = request.path_params["id"]
        if wanted not in registries:
            raise Refused(404, f"registry credential {wanted!r} not found")
        return registries[wanted]

    async def show_all(request: Request) -> Response:
        return answer({"registries": list(registries.values())})

    async def create(request: Request) -> Response:
        body = await read_body(request)
        refuse(object_of(_FIELDS, required=tuple(_FIELDS))(body, "$"))
        created = {"id": random_id()[:10], "name": body["name"]}
        registries[created["id"]] = created
        return answer(created, 201)

    async def show(request: Request) -> Response:
        return answer(find(request))

    async def delete(request: Request) -> Response:
        removed = registries.pop(find(request)["id"])
        templates.forget_registry(removed["id"])
        return Response(status_code=204)

    return [
        route(api.REGISTRIES_PATH, {"GET": show_all, "POST": create}),
        route(f"{api.REGISTRIES_PATH}/{{id}}", {"GET": show, "DELETE": delete}),
    ]
