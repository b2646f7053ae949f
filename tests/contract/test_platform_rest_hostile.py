# SPDX-License-Identifier: Apache-2.0
"""REST v2 of the local platform against requests that no client of good will sends: refused, never an error of ours."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from flash_plugins.platforms.local.launch import launch
from tests.contract.rest_description import Check, schema_check
from tests.integration.local_support import Client

ENDPOINT: dict[str, Any] = {
    "name": "hostile",
    "type": "QUEUE",
    "image": "python:3.12-slim",
    "args": "sleep 600",
    "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
}
COLLECTIONS = ("/v2/serverless", "/v2/templates", "/v2/network-volumes")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    platform = launch()
    yield Client.of(platform)
    assert platform.is_alive(), platform.exit_reason()
    platform.stop()


@pytest.fixture(scope="module")
def check() -> Check:
    return schema_check()


def with_field(name: str, json_text: str) -> bytes:
    """An endpoint's body with one field as the text says, valid JSON or not."""
    rest = json.dumps({key: value for key, value in ENDPOINT.items() if key != name})
    return f'{rest[:-1]}, "{name}": {json_text}}}'.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("path", COLLECTIONS)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"\xff\xfe{\x00}\x00", id="UTF-16"),
        pytest.param(b'{"name": "\xed\xa0\x80"}', id="surrogate in UTF-8"),
        pytest.param(b'{"size": ' + b"9" * 5_000 + b"}", id="number of 5,000 digits"),
        pytest.param(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep"),
        pytest.param(b"name=x&size=10", id="form"),
    ],
)
def test_what_is_no_json_object_is_refused(client: Client, check: Check, path: str, body: bytes) -> None:
    status, answer, headers = client.request("POST", path, body)
    assert (status, headers["content-type"]) == (400, "application/problem+json"), answer
    check("ErrorResponse", answer)


@pytest.mark.parametrize("depth", [10, 500, 900, 940, 960, 980])
@pytest.mark.parametrize("field", ["flashboot", "dataCenterIds", "env", "cpu", "scaling", "bogus"])
def test_depth_is_refused_at_any_field(client: Client, field: str, depth: int) -> None:
    status, answer, _ = client.request("POST", "/v2/serverless", with_field(field, "[" * depth + "]" * depth))
    assert status in (400, 422), answer
    assert len(answer["detail"]) < 1_000


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("timeout", "1" + "0" * 400),
        ("timeout", "1e999"),
        ("timeout", "NaN"),
        ("timeout", str(2**63)),
        ("scaling", '{"type": "QUEUE_DELAY", "queueDelay": 1e999}'),
        ("scaling", '{"type": "QUEUE_DELAY", "queueDelay": NaN}'),
        ("scaling", '{"type": "QUEUE_DELAY", "queueDelay": 1' + "0" * 400 + "}"),
        ("scaling", '{"type": "REQUEST_COUNT", "requestCount": 1.5}'),
        ("cpu", '[{"id": "cpu3c", "vcpuCount": 6.0}]'),
        ("disk", "-1e-400"),
        ("name", "3"),
        ("env", '{"A": null}'),
    ],
)
def test_numbers_out_of_this_world_are_wrong_fields(client: Client, check: Check, field: str, text: str) -> None:
    status, answer, _ = client.request("POST", "/v2/serverless", with_field(field, text))
    assert status == 422, answer
    assert answer["errors"][0].startswith(f"$.{field}")
    check("ErrorResponse", answer)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("env", r'{"A\u0000": "x"}'),
        ("env", r'{"A": "x\u0000y"}'),
        ("env", '{"": "x"}'),
        ("env", r'{"\ud800": "x"}'),
        ("env", r'{"A": "\udfff"}'),
        ("args", r'"sleep \u0000"'),
        ("args", r'"sleep \ud800"'),
        ("args", '"sleep \'600"'),
        ("networkVolumes", r'["\ud800"]'),
        ("networkVolumes", '["../../etc"]'),
    ],
)
def test_what_no_process_can_be_given_is_refused_before_it_starts(client: Client, field: str, text: str) -> None:
    status, answer, _ = client.request("POST", "/v2/serverless", with_field(field, text))
    assert status in (400, 404), answer


@pytest.mark.parametrize("name", ["\0", "\ud800", "\udfff\ud800", "a" * 100_000, "\n\r", '"', "💥"])
@pytest.mark.parametrize("path", COLLECTIONS)
def test_any_text_is_a_name(client: Client, path: str, name: str) -> None:
    body = {**ENDPOINT, "name": name}
    if path == "/v2/templates":
        body = {"name": name, "image": "i"}
    elif path == "/v2/network-volumes":
        body = {"name": name, "size": 10, "dataCenter": "EU-RO-1"}
    created = client.ok("POST", path, body)
    assert created["name"] == name
    assert client.ok("GET", f"{path}/{created['id']}") == created
    client.ok("DELETE", f"{path}/{created['id']}")


def test_a_refusal_names_the_first_of_many_wrong_fields(client: Client) -> None:
    status, answer, _ = client.request("POST", "/v2/serverless", {str(number): 1 for number in range(100_000)})
    assert status == 422
    assert answer["errors"][0] == "$: additional properties '0' not allowed"
    assert answer["errors"][-1] == "and 99,984 more"


def test_too_large_a_body_is_refused(client: Client) -> None:
    status, answer, _ = client.request("POST", "/v2/templates", b'{"name": "' + b"x" * 10_000_000 + b'"}')
    assert status == 413, answer


@pytest.mark.parametrize("method", ["PUT", "TRACE", "PROPFIND", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", [*COLLECTIONS, "/v2/catalog/gpus", "/v2/billing/serverless"])
def test_a_wrong_method_is_told_the_right_ones(client: Client, method: str, path: str) -> None:
    connection = http.client.HTTPConnection(client.place.hostname or "", client.place.port, timeout=60)
    connection.request(method, path, headers={"Authorization": f"Bearer {client.key}"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert (answer.status, answer.getheader("content-type")) == (405, "application/problem+json")
    assert answer.getheader("allow") in ("GET", "GET, POST")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/serverless/",
        "/v2/serverless//workers",
        "/v2/serverless/%00",
        "/v2/serverless/%ed%a0%80",
        "/v2/serverless/..%2f..%2fetc/releases",
        "/v2/templates/" + "x" * 10_000,
        "/v2/network-volumes/..%2f..%2f..%2fetc",
        "/v2/network-volumes/a/b",
        "/v2/catalog",
        "/v2/catalog/gpus/any",
        "/v2/catalog/datacenters/MOON-1",
        "/v2/billing",
    ],
)
def test_unknown_paths_and_ids_are_not_found(client: Client, check: Check, path: str) -> None:
    status, answer, headers = client.request("GET", path)
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    check("ErrorResponse", answer)


@pytest.mark.parametrize(
    "query", ["tail=%C2%B2", "tail=" + "9" * 5_000, "tail=-1", "tail=", "source=both", "since=now"]
)
def test_a_log_is_asked_for_with_care(client: Client, query: str) -> None:
    endpoint = client.create("sleep 600", workers={"min": 1})
    worker = client.workers(endpoint)[0]["id"]
    status, answer, _ = client.request("GET", f"/v2/serverless/{endpoint}/workers/{worker}/logs?{query}")
    client.ok("DELETE", f"/v2/serverless/{endpoint}")
    assert status == 422, answer


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "", "application/json; charset=\xff"])
def test_the_content_type_does_not_matter(client: Client, content_type: str) -> None:
    headers = {"Authorization": f"Bearer {client.key}", "Content-Type": content_type}
    status, created, _ = client.request("POST", "/v2/templates", {"name": "n", "image": "i"}, headers=headers)
    assert status == 201, created
