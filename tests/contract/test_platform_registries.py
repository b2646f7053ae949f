# SPDX-License-Identifier: Apache-2.0
"""Credentials for private images as the local platform serves them: names to refer to, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flash_plugins.platforms.local.launch import launch
from tests.contract.rest_description import Check, refused, schema_check
from tests.integration.local_support import Client

PATH = "/v2/registries"
BODY: dict[str, Any] = {"name": "hub", "username": "me", "password": "secret"}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    platform = launch()
    yield Client.of(platform)
    platform.stop()


@pytest.fixture(scope="module")
def check() -> Check:
    return schema_check()


def test_a_credential_lives_from_post_to_delete_and_never_shows_its_password(client: Client, check: Check) -> None:
    check("CreateRegistryRequest", BODY)
    status, created, _ = client.request("POST", PATH, BODY)
    assert (status, created) == (201, {"id": created["id"], "name": "hub"})
    check("Registry", created)
    one = f"{PATH}/{created['id']}"
    assert client.ok("GET", one) == created
    listed = client.ok("GET", PATH)
    check("ListRegistriesResponse", listed)
    assert created in listed["registries"]
    assert client.request("DELETE", one)[:2] == (204, None)
    refused(client, check, "GET", one, None, 404)
    refused(client, check, "DELETE", one, None, 404)


def test_a_credential_needs_all_three(client: Client, check: Check) -> None:
    answer = refused(client, check, "POST", PATH, {"name": "hub", "password": ""}, 422)
    assert answer["errors"] == ["$: missing property 'username'", "$.password: must not be empty"]


def test_templates_lose_a_credential_that_is_deleted(client: Client) -> None:
    credential = client.ok("POST", PATH, BODY)["id"]
    template = client.ok("POST", "/v2/templates", {"name": "t", "image": "i", "registry": credential})
    assert template["registry"] == credential
    client.ok("DELETE", f"{PATH}/{credential}")
    assert client.ok("GET", f"/v2/templates/{template['id']}")["registry"] is None
