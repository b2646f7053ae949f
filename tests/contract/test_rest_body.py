# SPDX-License-Identifier: Apache-2.0
"""What we send to REST v2, against Runpod's own description of it.

The description is not ours to ship: its path comes from the variable RUNPOD_OPENAPI, else it is looked for beside
the checkout. Without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_plugins import CpuInstanceType, CudaVersion, DataCenter, EndpointConfig, GpuGroup, GpuType
from flash_plugins.config import EndpointParameters
from flash_plugins.dispatcher.session import _worker_env
from flash_plugins.platforms import api
from flash_plugins.platforms.provision import changes, endpoint_body
from tests.support import ROOT


@cache
def description() -> dict[str, Any]:
    path = os.environ.get("RUNPOD_OPENAPI") or ROOT.parent / "shared" / "reference" / "runpod-openapi-v2.json"
    if not os.path.exists(path):
        pytest.skip(f"no description of REST v2 at {path}; set RUNPOD_OPENAPI")
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """Check against one schema of the description."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": description()["components"]}
    return jsonschema.Draft202012Validator(schema)


def problems(name: str, body: Mapping[str, Any]) -> list[str]:
    travelled = json.loads(json.dumps(body, allow_nan=False))
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(travelled)]


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\- ]{0,127}", fullmatch=True)
variables = st.dictionaries(
    st.from_regex(r"[A-Z_]{1,20}", fullmatch=True), st.text(st.characters(exclude_characters="\0"))
)
gpus = st.sampled_from([*GpuGroup, *GpuType])


@st.composite
def configs(draw: st.DrawFn, *, family: str | None = None) -> EndpointConfig:
    """Any endpoint that we allow."""
    parameters: dict[str, Any] = {}
    if (family or draw(st.sampled_from(["gpu", "cpu", "neither"]))) == "cpu":
        parameters["cpu"] = draw(st.lists(st.sampled_from(CpuInstanceType), min_size=1, max_size=5))
    else:
        parameters["gpu"] = draw(st.none() | gpus | st.lists(gpus, min_size=1, max_size=5))
    low = draw(st.integers(0, 5))
    by_count = draw(st.booleans())
    parameters |= {
        "workers": (low, low + draw(st.integers(0, 50))),
        "idle_timeout": draw(st.integers(1, 3600)),
        "env": draw(variables),
        "gpu_count": draw(st.integers(1, 8)),
        "execution_timeout_ms": draw(st.just(0) | st.integers(5_000, 604_800_000)),
        "flashboot": draw(st.booleans()),
        "scaler_type": "REQUEST_COUNT" if by_count else "QUEUE_DELAY",
        "scaler_value": draw(st.integers(1, 100) if by_count else st.integers(1, 60) | st.floats(0.5, 600)),
        "datacenter": draw(st.lists(st.sampled_from(DataCenter), max_size=4)),
        "min_cuda_version": draw(st.sampled_from(CudaVersion)),
        "max_concurrency": draw(st.integers(1, 100)),
    }
    # A new one needs a line here.
    others = {"gpu", "cpu", "id", "image", "dependencies", "system_dependencies", "accelerate_downloads", "volume"}
    others |= {"template", "python_version"}
    assert set(parameters) | others == set(EndpointParameters.__annotations__)
    return EndpointConfig.from_parameters(draw(names), parameters)


def body_of(config: EndpointConfig, *, streams: bool = False, command: str = api.WORKER_COMMAND) -> dict[str, Any]:
    return endpoint_body(config, _worker_env(str(config.name), streams=streams), command)


@pytest.fixture(autouse=True)
def is_described() -> None:
    description()


@given(configs(), st.booleans(), st.sampled_from([api.WORKER_COMMAND, "python -m my.worker"]))
def test_every_endpoint_is_created_with_a_valid_body(config: EndpointConfig, streams: bool, command: str) -> None:
    assert problems("CreateEndpointRequest", body_of(config, streams=streams, command=command)) == []


@given(configs())
def test_rules_that_the_schema_leaves_to_words_are_kept(config: EndpointConfig) -> None:
    body = body_of(config)
    assert ("gpu" in body) != ("cpu" in body)
    is_by_count = body["scaling"]["type"] == "REQUEST_COUNT"
    assert ("idleTimeout" in body["workers"]) != is_by_count
    if "gpu" in body:
        pools = {GpuGroup(pool) for pool in body["gpu"]["pools"]}
        excluded = {GpuType(gpu) for gpu in body["gpu"].get("excludedTypes", [])}
        assert all(gpu.pool in pools for gpu in excluded)
        assert all(set(pool.types) - excluded for pool in pools), "nothing is left of a pool"
        assert "allowedCudaVersions" not in body["gpu"]
    else:
        assert all(flavor["vcpuCount"] & (flavor["vcpuCount"] - 1) == 0 for flavor in body["cpu"])
    assert set(config.env) <= set(body["env"])
    assert body["env"][api.MAX_CONCURRENCY_ENV] == str(config.max_concurrency)


def as_listed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The endpoint as REST v2 lists it after a POST of `body`, going by the description of its answers."""
    listed: dict[str, Any] = {
        **json.loads(json.dumps(body)),
        "id": "abc123",
        "disk": 20,
        "ports": [],
        "registry": None,
        "networkVolumes": [],
        "createdAt": "2026-01-01T00:00:00Z",
        "requestUrls": {
            name: f"https://api.runpod.ai/v2/abc123/{name}"
            for name in ("run", "runSync", "status", "stream", "cancel", "retry", "purgeQueue", "health")
        },
    }
    if "gpu" in listed:
        listed["gpu"].setdefault("allowedCudaVersions", [])
    for flavor in listed.get("cpu", ()):
        flavor["memory"] = 8
    return listed


@given(configs())
def test_an_endpoint_that_is_listed_as_it_was_made_is_not_patched(config: EndpointConfig) -> None:
    body = body_of(config)
    listed = as_listed(body)
    assert problems("Endpoint", listed) == []
    assert changes(listed, body) == {}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[EndpointConfig, EndpointConfig]:
    family = draw(st.sampled_from(["gpu", "cpu"]))
    old = draw(configs(family=family))
    return old, draw(configs(family=family)).with_name(str(old.name))


@given(pairs())
def test_every_change_is_a_valid_patch_after_which_nothing_is_left_to_change(
    pair: tuple[EndpointConfig, EndpointConfig],
) -> None:
    old, new = pair
    listed, wanted = as_listed(body_of(old)), body_of(new)
    patch = changes(listed, wanted)
    assert problems("UpdateEndpointRequest", patch) == []
    assert all(patch[field] == wanted[field] for field in patch)
    assert not {"name", "type"} & set(patch)
    assert changes(as_listed({**body_of(old), **patch}), wanted) == {}


def test_a_wrong_body_is_noticed() -> None:
    body = body_of(EndpointConfig.from_parameters("e", {}))
    assert problems("CreateEndpointRequest", {**body, "bogus": 1})
    assert problems("CreateEndpointRequest", {**body, "gpu": {"count": 1}})
    assert problems("UpdateEndpointRequest", {"workers": {"min": -1}})


def test_the_default_endpoint_in_full() -> None:
    body = body_of(EndpointConfig.from_parameters("e", {}))
    env = body.pop("env")
    assert body == {
        "name": "e",
        "type": "QUEUE",
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
        "image": "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404",
        "args": api.WORKER_COMMAND,
        "workers": {"min": 0, "max": 1, "idleTimeout": 60},
        "timeout": 86_400_000,
        "flashboot": "FLASHBOOT",
        "dataCenterIds": [],
        "gpu": {"pools": [group.value for group in GpuGroup.all()], "count": 1, "minCudaVersion": "12.8"},
    }
    assert set(env) == {api.PYTHON_ENV, api.ENDPOINT_NAME_ENV, api.MAX_CONCURRENCY_ENV}


def test_a_load_balanced_endpoint_in_full() -> None:
    config = EndpointConfig.from_parameters("api", {"cpu": "cpu5c-2-4", "workers": (1, 5), "env": {"A": "1"}})
    body = endpoint_body(config, {api.PYTHON_ENV: "3.12"}, "start", kind=api.EndpointKind.LOAD_BALANCER)
    assert problems("CreateEndpointRequest", body) == []
    assert body["type"] == "LOAD_BALANCER"
    assert body["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 4}
    assert body["workers"] == {"min": 1, "max": 5, "idleTimeout": 60}
    assert body["ports"] == ["80/http"]
    assert body["args"] == "start"
    assert {"PORT": "80", "PORT_HEALTH": "80", "A": "1"}.items() <= body["env"].items()


def test_paths_and_limits_are_those_of_the_description() -> None:
    paths = description()["paths"]
    assert api.SERVERLESS_PATH in paths
    assert {"get", "post"} <= set(paths[api.SERVERLESS_PATH])
    assert {"get", "patch", "delete"} <= set(paths[f"{api.SERVERLESS_PATH}/{{id}}"])
    assert {path.split("/")[2] for path in paths} <= set(api.RESERVED_ENDPOINT_IDS)
    workers = description()["components"]["schemas"]["EndpointWorkers"]["properties"]["idleTimeout"]
    assert (workers["minimum"], workers["maximum"]) == (api.IDLE_TIMEOUT_MIN_S, api.IDLE_TIMEOUT_MAX_S)
    delay = description()["components"]["schemas"]["QueueDelayScaling"]["properties"]["queueDelay"]
    assert delay["minimum"] == api.QUEUE_DELAY_MIN_S
