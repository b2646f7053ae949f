# SPDX-License-Identifier: Apache-2.0
"""Hooks of schemathesis: generated requests get past the rules that a schema cannot express, and answers are counted.

What is generated invalid stays as it is. Valid requests for endpoints get a command line, one compute family and
a number of workers that fits; ids in paths are, most of the time, those of something that exists.
"""

import json
import os
import urllib.request
import zlib
from collections import Counter
from typing import Any

import jsonschema_rs  # type: ignore[import-not-found]
import schemathesis  # type: ignore[import-not-found]

URL = os.environ["PLATFORM_URL"]
KEY = os.environ["PLATFORM_KEY"]
with open(os.environ["DESCRIPTION"]) as file:
    DOCUMENT = json.load(file)

#: What to make where nothing exists that a path could name.
SEEDS: dict[str, Any] = {
    "/v2/serverless": {
        "name": "seed",
        "type": "QUEUE",
        "image": "i",
        "args": "sleep 1",
        "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
        "workers": {"min": 2, "max": 3},
    },
    "/v2/templates": {"name": "seed", "image": "i", "args": "sleep 1", "serverless": True},
    "/v2/network-volumes": {"name": "seed", "size": 10, "dataCenter": "EU-RO-1"},
    "/v2/registries": {"name": "seed", "username": "u", "password": "p"},
}
#: Answers so far, by operation and status.
SEEN: Counter[str] = Counter()


def call(method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"Authorization": f"Bearer {KEY}"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def some_id(collection: str, choice: int) -> str:
    """Return the id of something that exists, making it if need be."""
    listed = next(iter(call("GET", collection).values()))
    if not listed and collection in SEEDS:
        listed = [call("POST", collection, SEEDS[collection])]
    return str(listed[choice % len(listed)]["id"])


def is_valid(schema: str, body: Any) -> bool:
    root = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    try:
        return bool(jsonschema_rs.validator_for(root).is_valid(body))
    except ValueError:  # not even JSON
        return False


def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    path = context.operation.path
    choice = zlib.crc32(str(path_parameters).encode("utf-8", "surrogatepass"))
    if "{id}" in path and choice % 4:
        return {**path_parameters, "id": some_id(path.partition("/{id}")[0], choice)}
    return path_parameters


def map_body(context: Any, body: Any) -> Any:
    operation = context.operation.label
    if operation == "POST /v2/network-volumes" and is_valid("CreateNetworkVolumeRequest", body):
        return {**body, "dataCenter": "EU-RO-1"}
    if operation == "PATCH /v2/network-volumes/{id}" and is_valid("UpdateNetworkVolumeRequest", body):
        return {**body, "size": 4096}
    if operation == "POST /v2/serverless" and is_valid("CreateEndpointRequest", body):
        return acceptable({"cpu": [{"id": "cpu3c", "vcpuCount": 2}], **body}, {"args": "sleep 1"})
    if operation == "PATCH /v2/serverless/{id}" and is_valid("UpdateEndpointRequest", body):
        kept = {name: value for name, value in body.items() if name != "gpu"}
        return acceptable(kept, {"args": "sleep 1"} if "args" in body else {})
    return body


def acceptable(body: Any, changes: Any) -> Any:
    """Return a request for an endpoint that breaks no rule, as far as one can tell without the platform."""
    choice = zlib.crc32(repr(sorted(body)).encode())
    left_out = {"templateId", "env" if choice % 3 else "registry"}
    if "gpu" in body:
        left_out |= {"cpu"}
        gpu = {name: value for name, value in body["gpu"].items() if name not in ("minCudaVersion", "excludedTypes")}
        changes = {**changes, "gpu": gpu}
    body = {name: value for name, value in body.items() if name not in left_out} | changes
    if "cpu" in body:
        cpus = {(cpu["id"], 2 << int(cpu["vcpuCount"]) % 5): None for cpu in body["cpu"]}
        body["cpu"] = [{"id": flavor, "vcpuCount": count} for flavor, count in cpus]
    if "workers" in body:
        least = min(int(body["workers"].get("min", 0)), 1000)
        body["workers"] = {
            **body["workers"],
            "min": least,
            "max": max(least, int(body["workers"].get("max", 3)) % 1000),
        }
        body["workers"].pop("idleTimeout", None)
    if body.get("networkVolumes"):
        body["networkVolumes"] = [some_id("/v2/network-volumes", choice)]
        body["dataCenterIds"] = []
    return body


def after_call(context: Any, case: Any, response: Any) -> None:
    SEEN[f"{case.operation.label} {response.status_code}"] += 1
    with open(os.environ["SEEN"], "w") as seen:
        json.dump(SEEN, seen)


for hook in (map_path_parameters, map_body, after_call):
    schemathesis.hook(hook)
