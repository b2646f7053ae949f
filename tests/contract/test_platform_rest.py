# SPDX-License-Identifier: Apache-2.0
"""REST v2 for serverless endpoints as the local platform serves it.

With Runpod's own description at hand every answer is checked against it: see `rest_description`.
"""

from __future__ import annotations

import datetime
import http.client
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from flash_plugins.platforms.local.launch import launch
from tests.contract.rest_description import Check, refused, schema_check
from tests.integration.local_support import Client, wait_for

BODY: dict[str, Any] = {
    "name": "rest",
    "type": "QUEUE",
    "image": "python:3.12-slim",
    "args": "sleep 600",
    "cpu": [{"id": "cpu5g", "vcpuCount": 4}],
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    platform = launch()
    yield Client.of(platform)
    platform.stop()


@pytest.fixture(scope="module")
def check() -> Check:
    """Checks an answer against a schema of Runpod's description; checks nothing without that."""
    return schema_check()


def test_an_endpoint_lives_from_post_to_delete(client: Client, check: Check) -> None:
    check("CreateEndpointRequest", BODY)
    status, created, _ = client.request("POST", "/v2/serverless", BODY)
    assert status == 201
    check("Endpoint", created)
    assert {name: created[name] for name in ("name", "type", "image", "args", "scaling")} == {
        name: BODY[name] for name in ("name", "type", "image", "args", "scaling")
    }
    assert created["cpu"] == [{"id": "cpu5g", "vcpuCount": 4, "memory": 16}]
    for name in ("run", "runSync", "status", "stream", "cancel", "retry", "purgeQueue", "health"):
        assert created["requestUrls"][name].startswith(f"http://127.0.0.1:{client.place.port}/v2/{created['id']}/")

    path = f"/v2/serverless/{created['id']}"
    assert client.ok("GET", path) == created
    listed = client.ok("GET", "/v2/serverless")
    check("ListEndpointsResponse", listed)
    assert created in listed["endpoints"]

    patch = {"name": "renamed", "workers": {"max": 1}, "timeout": 60_000}
    check("UpdateEndpointRequest", patch)
    patched = client.ok("PATCH", path, patch)
    check("Endpoint", patched)
    assert (patched["name"], patched["timeout"]) == ("renamed", 60_000)
    assert patched["workers"] == {"min": 0, "max": 1, "idleTimeout": 10}

    status, answer, _ = client.request("DELETE", path)
    assert (status, answer) == (204, None)
    refused(client, check, "GET", path, None, 404)
    refused(client, check, "DELETE", path, None, 404)


def test_a_gpu_endpoint_has_runpods_shape(client: Client, check: Check) -> None:
    volume = client.ok("POST", "/v2/network-volumes", {"name": "v", "size": 10, "dataCenter": "EU-RO-1"})["id"]
    body = {name: value for name, value in BODY.items() if name != "cpu"} | {
        "gpu": {"pools": ["ADA_24"], "allowedCudaVersions": ["12.8"]},
        "scaling": {"type": "REQUEST_COUNT", "requestCount": 2},
        "workers": {"min": 0, "max": 2},
        "env": {"A": "b"},
        "ports": ["80/http"],
        "disk": 20,
        "registry": None,
        "dataCenterIds": ["EU-RO-1"],
        "networkVolumes": [volume],
        "flashboot": "FLASHBOOT",
    }
    check("CreateEndpointRequest", body)
    created = client.ok("POST", "/v2/serverless", body)
    check("Endpoint", created)
    assert created["gpu"] == {
        "pools": ["ADA_24"],
        "count": 1,
        "allowedCudaVersions": ["12.8"],
        "minCudaVersion": None,
    }
    for name in ("workers", "env", "ports", "disk", "registry", "dataCenterIds", "networkVolumes", "flashboot"):
        assert created[name] == body[name]


def test_a_load_balanced_endpoint_has_runpods_shape(client: Client, check: Check) -> None:
    body = {
        **BODY,
        "type": "LOAD_BALANCER",
        "scaling": {"type": "REQUEST_COUNT", "requestCount": 3},
        "ports": ["80/http"],
    }
    refused(client, check, "POST", "/v2/serverless", {**body, "scaling": BODY["scaling"]}, 422)
    body["workers"] = {"min": 1, "max": 1, "idleTimeout": 7}
    check("CreateEndpointRequest", body)
    created = client.ok("POST", "/v2/serverless", body)
    check("Endpoint", created)
    assert (created["type"], created["workers"]["idleTimeout"]) == ("LOAD_BALANCER", 7)
    base = f"http://127.0.0.1:{client.place.port}/lb/{created['id']}"
    assert created["requestUrls"] == {"base": base, "health": f"{base}/ping"}
    path = f"/v2/serverless/{created['id']}"
    refused(client, check, "PATCH", path, {"scaling": BODY["scaling"]}, 400)
    patched = client.ok("PATCH", path, {"scaling": {"type": "REQUEST_COUNT", "requestCount": 9}})
    check("Endpoint", patched)
    assert patched["scaling"]["requestCount"] == 9
    workers = client.ok("GET", f"{path}/workers")
    check("ListEndpointWorkersResponse", workers)
    assert workers["summary"]["initializing"] == 1  # `sleep` never gets healthy
    client.ok("DELETE", path)


def test_names_need_not_be_unique(client: Client) -> None:
    first, second = (client.ok("POST", "/v2/serverless", BODY) for _ in range(2))
    assert first["name"] == second["name"]
    assert first["id"] != second["id"]


def test_workers_are_listed_with_a_summary(client: Client, check: Check) -> None:
    endpoint = client.ok("POST", "/v2/serverless", {**BODY, "workers": {"min": 2, "max": 2}})["id"]
    path = f"/v2/serverless/{endpoint}/workers"
    answer = client.ok("GET", path)
    check("ListEndpointWorkersResponse", answer)
    assert answer["summary"] == {
        "running": 0,
        "idle": 0,
        "initializing": 2,
        "throttled": 0,
        "unhealthy": 0,
        "total": 2,
    }
    before = {worker["id"] for worker in answer["workers"]}
    client.ok("PATCH", f"/v2/serverless/{endpoint}", {"env": {"NEW": "1"}})
    answer = wait_for(lambda: client.ok("GET", path))
    assert answer["endpointVersion"] == 2
    assert not before & {worker["id"] for worker in answer["workers"]}
    assert all(worker["version"] == 2 and not worker["isStale"] for worker in answer["workers"])


def test_releases_tell_what_changed_with_each_version(client: Client, check: Check) -> None:
    body = {**BODY, "env": {"KEPT": "1", "OLD": "1"}, "workers": {"min": 1, "max": 1}}
    created = client.ok("POST", "/v2/serverless", body)
    path = f"/v2/serverless/{created['id']}"
    client.ok("PATCH", path, {"workers": {"max": 2}})
    client.ok("PATCH", path, {"name": "renamed", "env": {"KEPT": "1", "NEW": "2"}, "disk": 7})

    answer = wait_for(lambda: one if (one := client.ok("GET", f"{path}/releases"))["rollout"]["workersTotal"] else None)
    check("ListEndpointReleasesResponse", answer)
    assert answer["endpointVersion"] == 2
    assert answer["rollout"] == {
        "inProgress": False,
        "workersOnLatest": 1,
        "workersTotal": 1,
        "percentOnLatest": 100,
    }
    newest, first = answer["releases"]
    assert (first["version"], first["diff"], first["createdAt"]) == (1, [], created["createdAt"])
    assert (newest["version"], newest["source"], newest["workerCount"]) == (2, "MANUAL", 1)
    assert {one["field"]: (one["old"], one["new"]) for one in newest["diff"]} == {
        "name": ("rest", "renamed"),
        "workers.max": (1, 2),
        "env.OLD": ("1", None),
        "env.NEW": (None, "2"),
        "disk": (None, 7),
    }
    client.ok("DELETE", path)
    refused(client, check, "GET", f"{path}/releases", None, 404)


def test_every_answer_tells_the_quota(client: Client) -> None:
    for method, path in (("GET", "/v2/serverless"), ("GET", "/v2/serverless/nosuch"), ("PUT", "/v2/templates")):
        _, _, headers = client.request(method, path)
        assert re.fullmatch(r'"minute";r=\d+;t=\d+, "hour";r=\d+;t=\d+, "day";r=\d+;t=\d+', headers["ratelimit"])
        assert headers["ratelimit-policy"].startswith('"minute";q=60000;w=60, "hour";q=')
    _, _, headers = client.request("GET", "/v2/serverless", headers={"Authorization": "Bearer wrong"})
    assert "ratelimit" not in headers


def test_over_the_quota_requests_are_told_when_to_come_again(check: Check) -> None:
    platform = launch(faults={"rest_per_minute": 2})
    try:
        client = Client.of(platform)
        left = [client.request("GET", "/v2/serverless")[2]["ratelimit"] for _ in range(2)]
        assert [text.split(";")[1] for text in left] == ["r=1", "r=0"]
        status, answer, headers = client.request("GET", "/v2/serverless")
        assert status == 429
        check("ErrorResponse", answer)
        assert 1 <= int(headers["retry-after"]) <= 60
        assert headers["ratelimit"].startswith(f'"minute";r=0;t={headers["retry-after"]}, "hour";r=98;')
        assert headers["ratelimit-policy"] == '"minute";q=2;w=60, "hour";q=100;w=3600, "day";q=1666;w=86400'
    finally:
        platform.stop()


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"bogus": 1}, 422, "$: additional properties 'bogus' not allowed"),
        ({"workers": {"min": "one"}}, 422, "$.workers.min: must be an integer"),
        ({"gpu": {"pools": ["ADA_24"]}}, 400, "either gpu or cpu"),
        ({"args": ""}, 400, "args is missing"),
        ({"workers": {"min": 1001, "max": 1001}}, 400, "over what the local platform starts: 1000"),
        ({"env": {"A=B": "x"}}, 400, "env variable 'A=B' cannot be set"),
        ({"templateId": "t"}, 404, "template 't' not found"),
    ],
)
def test_a_refused_create_says_why(client: Client, check: Check, change: Any, status: int, text: str) -> None:
    answer = refused(client, check, "POST", "/v2/serverless", {**BODY, **change}, status)
    assert text in answer["detail"]
    if status == 422:
        assert answer["errors"] == [text]


def test_a_refused_patch_changes_nothing(client: Client, check: Check) -> None:
    created = client.ok("POST", "/v2/serverless", BODY)
    path = f"/v2/serverless/{created['id']}"
    refused(client, check, "PATCH", path, {"name": "x", "workers": {"max": -1}}, 422)
    refused(client, check, "PATCH", path, {"gpu": {"pools": ["ADA_24"]}}, 400)
    assert client.ok("GET", path) == created


def test_malformed_and_unknown(client: Client, check: Check) -> None:
    refused(client, check, "POST", "/v2/serverless", b"{", 400)
    refused(client, check, "POST", "/v2/serverless", b"[]", 400)
    refused(client, check, "GET", "/v2/serverless/nosuch", None, 404)
    refused(client, check, "GET", "/v2/serverless/nosuch/workers", None, 404)
    refused(client, check, "GET", "/v2/pods", None, 404)
    answer, _, headers = client.request("PUT", "/v2/serverless", b"{}")
    assert (answer, headers["allow"]) == (405, "GET, POST")


def test_a_wrong_key_is_a_problem_too(client: Client, check: Check) -> None:
    wrong = Client(f"http://127.0.0.1:{client.place.port}", "wrong")
    refused(wrong, check, "GET", "/v2/serverless", None, 401)


def test_a_workers_log_streams_as_events(client: Client) -> None:
    script = "import time; print(1); print(2); print(3); time.sleep(1); print(4)"
    endpoint = client.ok(
        "POST", "/v2/serverless", {**BODY, "args": f"python -c '{script}'", "workers": {"min": 1, "max": 1}}
    )["id"]
    worker = client.ok("GET", f"/v2/serverless/{endpoint}/workers")["workers"][0]["id"]
    path = f"/v2/serverless/{endpoint}/workers/{worker}/logs"

    events = stream(client, f"{path}?tail=2", until="4")
    client.request("DELETE", f"/v2/serverless/{endpoint}")

    assert [event["line"] for event in events][-1] == "4"
    assert all(event["source"] == "container" and event["ts"].endswith("Z") for event in events)
    assert client.request("GET", path)[0] == 404


def test_a_log_can_be_read_since_a_time(client: Client) -> None:
    script = "import time; print(1, flush=True); time.sleep(4); print(2, flush=True); time.sleep(60)"
    endpoint = client.ok(
        "POST", "/v2/serverless", {**BODY, "args": f"python -c '{script}'", "workers": {"min": 1, "max": 1}}
    )["id"]
    worker = client.ok("GET", f"/v2/serverless/{endpoint}/workers")["workers"][0]["id"]
    path = f"/v2/serverless/{endpoint}/workers/{worker}/logs"

    first, second = stream(client, path, until="2")
    began, ended = (datetime.datetime.fromisoformat(event["ts"]) for event in (first, second))
    assert datetime.timedelta(seconds=2) < ended - began < datetime.timedelta(seconds=30)
    middle = (began + (ended - began) / 2).isoformat().replace("+00:00", "Z")
    assert [event["line"] for event in stream(client, f"{path}?since={middle}", until="2")] == ["2"]
    again = stream(client, path, until="2")
    assert abs(datetime.datetime.fromisoformat(again[1]["ts"]) - ended) < datetime.timedelta(seconds=2)
    client.request("DELETE", f"/v2/serverless/{endpoint}")


def stream(client: Client, path: str, *, until: str) -> list[dict[str, str]]:
    """Read events until a line."""
    connection = http.client.HTTPConnection(client.place.hostname or "", client.place.port, timeout=60)
    connection.request("GET", path, headers={"Authorization": f"Bearer {client.key}"})
    answer = connection.getresponse()
    assert answer.getheader("content-type", "").startswith("text/event-stream")
    events: list[dict[str, str]] = []
    while not events or events[-1]["line"] != until:
        line = answer.readline()
        assert line, "the stream ended"
        if line.startswith(b"data: "):
            events.append(json.loads(line.removeprefix(b"data: ")))
    connection.close()
    return events
