# SPDX-License-Identifier: Apache-2.0
"""Queue endpoints called by their names, as official SDKs call what they deployed: the id `flash`, and a header."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flash_plugins.platforms.local.launch import launch
from tests.integration.local_support import Client


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    platform = launch()
    yield Client.of(platform)
    platform.stop()


def submit(client: Client, named: str | None) -> str | None:
    """Submit a job to the endpoint of that name and return the job's id, None if there is no such endpoint."""
    headers = {"Authorization": f"Bearer {client.key}", "X-Flash-App": "app", "X-Flash-Environment": "default"}
    if named is not None:
        headers["X-Flash-Endpoint"] = named
    status, answer, _ = client.request("POST", "/v2/flash/run", {"input": 1}, headers=headers)
    assert status in (200, 404), answer
    return str(answer["id"]) if status == 200 else None


def queue_of(client: Client, job_id: str | None, *endpoints: str) -> str:
    (found,) = [one for one in endpoints if client.request("GET", f"/v2/{one}/status/{job_id}")[0] == 200]
    return found


def test_a_name_means_the_newest_endpoint(client: Client) -> None:
    old, new = (client.create("sleep 1", name="twice", workers={"max": 0}) for _ in range(2))
    assert queue_of(client, submit(client, "twice"), old, new) == new
    client.ok("DELETE", f"/v2/serverless/{new}")
    assert queue_of(client, submit(client, "twice"), old) == old


def test_an_id_is_a_name_too(client: Client) -> None:
    endpoint = client.create("sleep 1", name="by id", workers={"max": 0})
    assert queue_of(client, submit(client, endpoint), endpoint) == endpoint


@pytest.mark.parametrize("named", [None, "", "nosuch", "flash"])
def test_what_has_no_such_name_is_not_found(client: Client, named: str | None) -> None:
    assert submit(client, named) is None
