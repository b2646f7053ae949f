# SPDX-License-Identifier: Apache-2.0
"""Templates: container settings by a name, copied into endpoints once. It starts nothing and keeps no files.

Rules: Runpod's REST v2 description (2026-08). Where it is silent: a template without `disk` has 50 GB, as in
its examples; it is in use while an endpoint that was created from it, or changed by it, exists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from .. import api
from .endpoints import random_id
from .fields import (
    CONTAINER_CHECKS,
    CUDA_VERSION,
    JsonObject,
    Refused,
    array,
    boolean,
    number,
    object_of,
    one_of,
    refuse,
    string,
)
from .restroute import answer, read_body, route

__all__ = ["Templates", "template_routes"]

_FIELDS = {
    **CONTAINER_CHECKS,
    "name": string(at_least=1),
    "mounts": object_of({"persistent": object_of({"size": number(10), "path": string()}, required=("size", "path"))}),
    "serverless": boolean,
    "public": boolean,
    "category": one_of("CPU", "NVIDIA", "AMD"),
    "startSsh": boolean,
    "startJupyter": boolean,
    "allowedCudaVersions": array(string(at_least=1, pattern=CUDA_VERSION)),
}

#: Container settings that an endpoint gets from its template; `env` is merged.
_COPIED: Final = ("image", "args", "disk", "ports", "registry")
#: Slices of the public catalog.
_SOURCES: Final = ("official", "verified", "community")
#: Most public templates that are listed.
_PUBLIC_MAX: Final = 100


def _defaults() -> JsonObject:
    return {
        "args": "",
        "disk": 50,
        "mounts": {},
        "ports": [],
        "env": {},
        "registry": None,
        "serverless": False,
        "public": False,
        "category": "NVIDIA",
        "startSsh": True,
        "startJupyter": True,
        "allowedCudaVersions": [],
    }


class Templates:
    """The templates of the account, each as REST v2 shows it.

    Args:
        exists: Tells whether there is an endpoint with an id.
    """

    def __init__(self, exists: Callable[[str], bool]) -> None:
        self._exists = exists
        self._templates: dict[str, JsonObject] = {}
        self._users: dict[str, set[str]] = {}

    def all(self) -> list[JsonObject]:
        """Return every template, the oldest first."""
        return list(self._templates.values())

    def get(self, template_id: str) -> JsonObject:
        """Return one template.

        Raises:
            Refused: There is none with that id.
        """
        try:
            return self._templates[template_id]
        except KeyError:
            raise Refused(404, f"template {template_id!r} not found") from None

    def create(self, body: JsonObject) -> JsonObject:
        """Make a template as a REST v2 request describes it.

        Raises:
            Refused: The request is refused.
        """
        refuse(object_of(_FIELDS, required=("name", "image"))(body, "$"))
        template = {"id": random_id()[:10], **_defaults(), **body}
        self._templates[template["id"]] = template
        return template

    def update(self, template: JsonObject, patch: JsonObject) -> JsonObject:
        """Change the given fields of a template; endpoints made from it stay as they are.

        Raises:
            Refused: The request is refused.
        """
        refuse(object_of(_FIELDS)(patch, "$"))
        changed = {**template, **patch}
        if not patch.get("mounts"):
            changed["mounts"] = template["mounts"]
        self._templates[changed["id"]] = changed
        return changed

    def delete(self, template: JsonObject) -> None:
        """Forget a template.

        Raises:
            Refused: Endpoints use it.
        """
        users = sorted(filter(self._exists, self._users.get(template["id"], ())))
        if users:
            raise Refused(400, f"template {template['id']} is in use by endpoint {', '.join(users)}: delete that first")
        del self._templates[template["id"]]
        self._users.pop(template["id"], None)

    def forget_registry(self, registry_id: str) -> None:
        """Have no template name a credential any more."""
        for template in self._templates.values():
            if template["registry"] == registry_id:
                template["registry"] = None

    def applied(self, body: JsonObject, *, is_new: bool) -> JsonObject:
        """Return a request for an endpoint with its template's settings in place of `templateId`.

        What the body says wins, except that `env` is merged; what the template leaves empty is not copied. The
        CUDA versions of the template count for a new GPU endpoint that names none.

        Raises:
            Refused: The template is unknown, or one for pods.
        """
        if "templateId" not in body:
            return body
        refuse(string(at_least=1)(body["templateId"], "$.templateId"))
        template = self.get(body["templateId"])
        if not template["serverless"]:
            refuse([f"$.templateId: template {template['id']} is for pods, not for serverless endpoints"])
        merged = {name: template[name] for name in _COPIED if template[name]}
        merged |= {name: value for name, value in body.items() if name != "templateId"}
        env, gpu = body.get("env", {}), body.get("gpu", {})
        if template["env"] and isinstance(env, dict):
            merged["env"] = {**template["env"], **env}
        is_open = isinstance(gpu, dict) and not gpu.keys() & {"allowedCudaVersions", "minCudaVersion"}
        if is_new and gpu and is_open and template["allowedCudaVersions"]:
            merged["gpu"] = {**gpu, "allowedCudaVersions": template["allowedCudaVersions"]}
        return merged

    def note_use(self, body: JsonObject, endpoint_id: str) -> None:
        """Remember that an endpoint got the settings of the template that `body` names, if it names one."""
        if "templateId" in body:
            self._users.setdefault(body["templateId"], set()).add(endpoint_id)


def template_routes(templates: Templates) -> list[BaseRoute]:
    """Return the routes of REST v2, the public catalog included: it holds the account's own public templates."""

    async def show_all(request: Request) -> Response:
        return answer({"templates": templates.all()})

    async def create(request: Request) -> Response:
        return answer(templates.create(await read_body(request)), 201)

    async def show(request: Request) -> Response:
        return answer(templates.get(request.path_params["id"]))

    async def update(request: Request) -> Response:
        template = templates.get(request.path_params["id"])
        return answer(templates.update(template, await read_body(request)))

    async def delete(request: Request) -> Response:
        templates.delete(templates.get(request.path_params["id"]))
        return Response(status_code=204)

    async def show_public(request: Request) -> Response:
        source = request.query_params.get("source", _SOURCES[0])
        refuse(one_of(*_SOURCES)(source, "query.source"))
        public = [template for template in templates.all() if template["public"]] if source == "community" else []
        return answer({"templates": public[:_PUBLIC_MAX]})

    return [
        route(api.TEMPLATES_PATH, {"GET": show_all, "POST": create}),
        route(f"{api.TEMPLATES_PATH}/{{id}}", {"GET": show, "PATCH": update, "DELETE": delete}),
        route(f"{api.CATALOG_PATH}/templates", {"GET": show_public}),
    ]
