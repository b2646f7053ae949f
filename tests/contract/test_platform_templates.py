# SPDX-License-Identifier: Apache-2.0
"""Templates as the local platform serves them, and endpoints that are created from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flash_plugins.platforms.local.launch import launch
from tests.contract.rest_description import Check, refused, schema_check
from tests.integration.local_support import Client

PATH = "/v2/templates"
BODY: dict[str, Any] = {
    "name": "stock",
    "image": "python:3.12-slim",
    "args": "sleep 600",
    "disk": 30,
    "env": {"A": "template", "B": "template"},
    "ports": ["80/http"],
    "registry": "cred1",
    "serverless": True,
    "allowedCudaVersions": ["12.8"],
}
ENDPOINT: dict[str, Any] = {
    "name": "from-template",
    "type": "QUEUE",
    "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
}
CONTAINER = ("image", "args", "disk", "env", "ports", "registry")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    platform = launch()
    yield Client.of(platform)
    platform.stop()


@pytest.fixture(scope="module")
def check() -> Check:
    return schema_check()


@pytest.fixture
def template(client: Client) -> dict[str, Any]:
    """A serverless template."""
    return dict(client.ok("POST", PATH, BODY))


def test_a_template_lives_from_post_to_delete(client: Client, check: Check) -> None:
    body = {"name": "bare", "image": "python:3.12-slim"}
    check("CreateTemplateRequest", body)
    status, created, _ = client.request("POST", PATH, body)
    assert status == 201
    check("Template", created)
    assert created == {
        "id": created["id"],
        **body,
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
    one = f"{PATH}/{created['id']}"
    assert client.ok("GET", one) == created
    listed = client.ok("GET", PATH)
    check("ListTemplatesResponse", listed)
    assert created in listed["templates"]

    patch = {"name": "less bare", "mounts": {"persistent": {"size": 10, "path": "/workspace"}}, "category": "CPU"}
    check("UpdateTemplateRequest", patch)
    assert client.ok("PATCH", one, patch) == {**created, **patch}
    assert client.ok("PATCH", one, {"mounts": {}}) == {**created, **patch}

    assert client.request("DELETE", one)[:2] == (204, None)
    for method in ("GET", "PATCH", "DELETE"):
        refused(client, check, method, one, {} if method == "PATCH" else None, 404)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"image": "i"}, "$: missing property 'name'"),
        ({"name": "n"}, "$: missing property 'image'"),
        ({"name": "n", "image": "i", "public": "yes"}, "$.public: must be a boolean"),
        ({"name": "n", "image": "i", "category": "TPU"}, "$.category: must be one of CPU, NVIDIA, AMD, not 'TPU'"),
        ({"name": "n", "image": "i", "disk": 0}, "$.disk: must be at least 1, not 0"),
        (
            {"name": "n", "image": "i", "mounts": {"network": []}},
            "$.mounts: additional properties 'network' not allowed",
        ),
        (
            {"name": "n", "image": "i", "mounts": {"persistent": {"size": 9, "path": "/x"}}},
            "$.mounts.persistent.size: must be at least 10, not 9",
        ),
        (
            {"name": "n", "image": "i", "allowedCudaVersions": ["12"]},
            "$.allowedCudaVersions[0]: '12' is not a version such as 12.8",
        ),
    ],
)
def test_a_refused_template_names_the_field(client: Client, check: Check, body: Any, error: str) -> None:
    assert refused(client, check, "POST", PATH, body, 422)["errors"] == [error]


def test_an_endpoint_gets_the_templates_settings(client: Client, check: Check, template: dict[str, Any]) -> None:
    body = {**ENDPOINT, "templateId": template["id"]}
    check("CreateEndpointRequest", body)
    created = client.ok("POST", "/v2/serverless", body)
    check("Endpoint", created)
    assert {name: created[name] for name in CONTAINER} == {name: BODY[name] for name in CONTAINER}
    assert "templateId" not in created


def test_the_body_wins_and_env_is_merged(client: Client, template: dict[str, Any]) -> None:
    own = {"args": "sleep 700", "disk": 5, "env": {"B": "body", "C": "body"}, "registry": None}
    created = client.ok("POST", "/v2/serverless", {**ENDPOINT, "templateId": template["id"], **own})
    assert created["env"] == {"A": "template", "B": "body", "C": "body"}
    assert (created["args"], created["disk"], created["registry"]) == ("sleep 700", 5, None)


def test_settings_are_copied_once(client: Client, template: dict[str, Any]) -> None:
    created = client.ok("POST", "/v2/serverless", {**ENDPOINT, "templateId": template["id"]})
    client.ok("PATCH", f"{PATH}/{template['id']}", {"args": "sleep 1", "env": {}})
    assert client.ok("GET", f"/v2/serverless/{created['id']}") == created


@pytest.mark.parametrize(
    ("gpu", "versions", "floor"),
    [
        ({}, ["12.8"], None),
        ({"allowedCudaVersions": []}, [], None),
        ({"allowedCudaVersions": ["12.4"]}, ["12.4"], None),
        ({"minCudaVersion": "12.1"}, [], "12.1"),
    ],
)
def test_cuda_versions_come_from_the_template_where_the_body_has_none(
    client: Client, template: dict[str, Any], gpu: dict[str, Any], versions: list[str], floor: str | None
) -> None:
    body = {name: value for name, value in ENDPOINT.items() if name != "cpu"}
    body |= {"templateId": template["id"], "gpu": {"pools": ["ADA_24"], **gpu}}
    created = client.ok("POST", "/v2/serverless", body)
    assert (created["gpu"]["allowedCudaVersions"], created["gpu"]["minCudaVersion"]) == (versions, floor)


def test_a_patch_applies_a_template_as_if_its_settings_were_given(client: Client, template: dict[str, Any]) -> None:
    own = {"image": "other", "args": "sleep 700", "env": {"OLD": "1"}}
    path = f"/v2/serverless/{client.ok('POST', '/v2/serverless', {**ENDPOINT, **own})['id']}"
    patched = client.ok("PATCH", path, {"templateId": template["id"], "env": {"B": "body"}, "disk": 7})
    assert (patched["image"], patched["args"], patched["disk"]) == ("python:3.12-slim", "sleep 600", 7)
    assert patched["env"] == {"A": "template", "B": "body"}


def test_a_template_must_exist_and_be_for_serverless(client: Client, check: Check) -> None:
    answer = refused(client, check, "POST", "/v2/serverless", {**ENDPOINT, "templateId": "nosuch"}, 404)
    assert answer["detail"] == "template 'nosuch' not found"
    for wrong in (3, "", None):
        refused(client, check, "POST", "/v2/serverless", {**ENDPOINT, "templateId": wrong}, 422)
    pods = client.ok("POST", PATH, {"name": "pods", "image": "i"})["id"]
    answer = refused(client, check, "POST", "/v2/serverless", {**ENDPOINT, "templateId": pods}, 422)
    assert answer["errors"] == [f"$.templateId: template {pods} is for pods, not for serverless endpoints"]


def test_a_template_in_use_stays(client: Client, check: Check, template: dict[str, Any]) -> None:
    endpoint = client.ok("POST", "/v2/serverless", {**ENDPOINT, "templateId": template["id"]})["id"]
    one = f"{PATH}/{template['id']}"
    assert endpoint in refused(client, check, "DELETE", one, None, 400)["detail"]
    client.ok("DELETE", f"/v2/serverless/{endpoint}")
    client.ok("DELETE", one)


def test_public_templates_are_in_the_catalog(client: Client, check: Check, template: dict[str, Any]) -> None:
    public = client.ok("POST", PATH, {**BODY, "public": True})

    def listed(query: str = "") -> list[Any]:
        answer = client.ok("GET", f"/v2/catalog/templates{query}")
        check("ListTemplatesResponse", answer)
        return list(answer["templates"])

    assert public in listed("?source=community")
    assert template not in listed("?source=community")
    assert listed() == listed("?source=official") == listed("?source=verified") == []
    refused(client, check, "GET", "/v2/catalog/templates?source=mine", None, 422)
