# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from flash_plugins.platforms import api
from flash_plugins.platforms.local.endpoints import create_endpoint, random_id, update_endpoint
from flash_plugins.platforms.local.fields import Refused
from tests.unit.local.local_fakes import endpoint

BODY: dict[str, Any] = {
    "name": "test",
    "type": "QUEUE",
    "image": "python:3.12-slim",
    "args": "python worker.py",
    "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
}
GPU: dict[str, Any] = {name: value for name, value in BODY.items() if name != "cpu"} | {"gpu": {"pools": ["ADA_24"]}}
REQUEST_COUNT = {"type": "REQUEST_COUNT", "requestCount": 2}


def refusal(body: dict[str, Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        create_endpoint(body, created_at="2027-01-01T00:00:00Z")
    return caught.value


def test_defaults_are_runpods() -> None:
    answer = endpoint().to_json("http://here")
    assert answer["workers"] == {"min": 0, "max": 3, "idleTimeout": 10}
    assert (answer["timeout"], answer["flashboot"]) == (300_000, "OFF")
    assert (answer["dataCenterIds"], answer["networkVolumes"]) == ([], [])
    assert answer["cpu"] == [{"id": "cpu3c", "vcpuCount": 2, "memory": 4}]
    assert answer["requestUrls"]["runSync"] == f"http://here/v2/{answer['id']}/runsync"


def test_a_gpu_endpoint_shows_its_cuda_constraints() -> None:
    spec = create_endpoint(GPU, created_at="")
    assert spec.to_json("")["gpu"] == {
        "pools": ["ADA_24"],
        "count": 1,
        "allowedCudaVersions": [],
        "minCudaVersion": None,
    }


@pytest.mark.parametrize(
    ("gpu", "detail"),
    [
        ({"pools": ["ADA_48_PRO"], "excludedTypes": ["NVIDIA L4"]}, "'NVIDIA L4' is no GPU type of ADA_48_PRO"),
        ({"pools": ["ADA_24"], "excludedTypes": ["NVIDIA GeForce RTX 4090"]}, "leaves no GPU type of ADA_24"),
    ],
)
def test_excluded_types_are_of_the_pools_and_leave_one(gpu: dict[str, Any], detail: str) -> None:
    refused = refusal({**GPU, "gpu": gpu})
    assert refused.status == 400
    assert detail in refused.detail
    kept = {"pools": ["ADA_48_PRO", "NEW_POOL"], "excludedTypes": [" NVIDIA L40", "NVIDIA X1"]}
    assert (
        create_endpoint({**GPU, "gpu": kept}, created_at="").to_json("")["gpu"]["excludedTypes"]
        == kept["excludedTypes"]
    )


def test_request_count_endpoints_have_no_idle_timeout() -> None:
    assert endpoint(scaling=REQUEST_COUNT).to_json("")["workers"] == {"min": 0, "max": 3}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"bogus": 1}, "$: additional properties 'bogus' not allowed"),
        ({"workers": {"mx": 1}}, "$.workers: additional properties 'mx' not allowed"),
        ({"workers": {"max": -1}}, "$.workers.max: must be at least 0, not -1"),
        ({"workers": {"idleTimeout": 3601}}, "$.workers.idleTimeout: must be 1 to 3600, not 3601"),
        ({"workers": []}, "$.workers: must be an object"),
        ({"name": ""}, "$.name: must not be empty"),
        ({"type": "BATCH"}, "$.type: must be one of QUEUE, LOAD_BALANCER, not 'BATCH'"),
        ({"scaling": {"type": "QUEUE_DELAY"}}, "$.scaling: missing property 'queueDelay'"),
        (
            {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 0.4}},
            "$.scaling.queueDelay: must be at least 0.5, not 0.4",
        ),
        (
            {"scaling": {"type": "REQUEST_COUNT", "requestCount": 1.5}},
            "$.scaling.requestCount: must be an integer",
        ),
        ({"scaling": 4}, "$.scaling.type: must be one of QUEUE_DELAY, REQUEST_COUNT, not None"),
        ({"type": "LOAD_BALANCER"}, "$.scaling.type: must be REQUEST_COUNT for a LOAD_BALANCER endpoint"),
        ({"env": {"A": 1}}, "$.env.A: must be a string"),
        ({"ports": ["80/http", 80]}, "$.ports[1]: must be a string"),
        ({"cpu": []}, "$.cpu: needs at least 1 item"),
        ({"cpu": [{"id": "cpu3c", "vcpuCount": 3}]}, "$.cpu[0].vcpuCount: must be a power of two, not 3"),
        ({"cpu": [{"id": "cpu3c", "vcpuCount": 2}] * 2}, "$.cpu: items must be unique"),
        ({"gpu": {}}, "$.gpu: missing property 'pools'"),
        ({"gpu": None}, "$.gpu: must be an object"),
        ({"timeout": True}, "$.timeout: must be an integer"),
        ({"disk": float("inf")}, "$.disk: must be an integer"),
        ({"flashboot": "ON"}, "$.flashboot: must be one of OFF, FLASHBOOT, PRIORITY_FLASHBOOT, not 'ON'"),
    ],
)
def test_wrong_fields_are_422_and_named(change: dict[str, Any], error: str) -> None:
    refused = refusal({**BODY, **change})
    assert (refused.status, refused.errors) == (422, [error])


def test_all_missing_fields_are_named() -> None:
    assert refusal({}).errors == [
        "$: missing property 'name'",
        "$: missing property 'type'",
        "$: missing property 'scaling'",
        "$: missing property 'image'",
    ]


@pytest.mark.parametrize(
    ("change", "status", "detail"),
    [
        ({"gpu": {"pools": ["ADA_24"]}}, 400, "either gpu or cpu"),
        ({"workers": {"min": 2, "max": 1}}, 400, "workers.max (1) is below workers.min (2)"),
        ({"scaling": REQUEST_COUNT, "workers": {"idleTimeout": 5}}, 400, "idleTimeout does not apply"),
        ({"args": ""}, 400, "args is missing"),
        ({"args": "python 'w.py"}, 400, "args is not a command line"),
        ({"env": {"RUNPOD_MAX_CONCURRENCY": "many"}}, 400, "whole number of at least 1, not 'many'"),
    ],
)
def test_rule_conflicts_say_what_to_do(change: dict[str, Any], status: int, detail: str) -> None:
    refused = refusal({**BODY, **change})
    assert refused.status == status
    assert detail in refused.detail


def test_an_endpoint_needs_gpu_or_cpu() -> None:
    assert refusal({name: value for name, value in BODY.items() if name != "cpu"}).status == 400


def test_cuda_set_and_floor_exclude_each_other_unless_the_set_is_empty() -> None:
    both = {"pools": ["ADA_24"], "allowedCudaVersions": ["12.8"], "minCudaVersion": "12.1"}
    assert refusal({**GPU, "gpu": both}).status == 400
    create_endpoint({**GPU, "gpu": {**both, "allowedCudaVersions": []}}, created_at="")


def test_patch_changes_only_what_it_names_and_makes_a_version_for_containers_only() -> None:
    spec = endpoint(env={"A": "1"})
    scaled = update_endpoint(spec, {"workers": {"max": 5}})
    assert scaled.fields["workers"] == {"min": 0, "max": 5, "idleTimeout": 10}
    assert (scaled.version, scaled.id, scaled.env) == (1, spec.id, {"A": "1"})
    changed = update_endpoint(scaled, {"env": {"B": "2"}})
    assert (changed.version, changed.env) == (2, {"B": "2"})
    assert update_endpoint(changed, {"env": {"B": "2"}}).version == 2


def test_patch_of_the_gpu_replaces_the_selection_and_clears_constraints() -> None:
    body = {"pools": ["AMPERE_24"], "excludedTypes": ["NVIDIA L4"], "minCudaVersion": "12.1"}
    spec = create_endpoint({**GPU, "gpu": body}, created_at="")
    patched = update_endpoint(spec, {"gpu": {"pools": ["AMPERE_16"], "minCudaVersion": ""}})
    assert patched.fields["gpu"] == {"pools": ["AMPERE_16"], "minCudaVersion": None}
    with pytest.raises(Refused, match="needs 'pools'"):
        update_endpoint(spec, {"gpu": {"excludedTypes": ["NVIDIA L4"]}})


def test_patch_cannot_change_the_compute_family_or_the_type() -> None:
    with pytest.raises(Refused, match="compute family is fixed"):
        update_endpoint(endpoint(), {"gpu": {"pools": ["ADA_24"]}})
    with pytest.raises(Refused, match="'type' not allowed"):
        update_endpoint(endpoint(), {"type": "QUEUE"})


def test_patch_of_the_scaling_adds_and_drops_the_idle_timeout() -> None:
    counted = update_endpoint(endpoint(), {"scaling": REQUEST_COUNT})
    assert "idleTimeout" not in counted.fields["workers"]
    delayed = update_endpoint(counted, {"scaling": BODY["scaling"]})
    assert delayed.fields["workers"]["idleTimeout"] == 10


def test_ids_are_random_and_no_path_of_rest() -> None:
    ids = {random_id() for _ in range(100)}
    assert len(ids) == 100
    assert not ids & api.RESERVED_ENDPOINT_IDS


# -- load-balanced endpoints ---------------------------------------------------------------------------------

BALANCED: dict[str, Any] = {**BODY, "type": "LOAD_BALANCER", "scaling": REQUEST_COUNT}


def test_a_load_balanced_endpoint_has_a_base_and_a_health_url() -> None:
    answer = endpoint(**BALANCED).to_json("http://here")
    base = f"http://here/lb/{answer['id']}"
    assert answer["requestUrls"] == {"base": base, "health": f"{base}/ping"}
    other = endpoint(**BALANCED, env={"HEALTH_CHECK_PATH": "/v1/health"}).to_json("http://here")
    assert other["requestUrls"]["health"].endswith(f"/lb/{other['id']}/v1/health")


def test_a_load_balanced_endpoint_has_an_idle_timeout_although_it_scales_by_requests() -> None:
    spec = endpoint(**BALANCED)
    assert spec.to_json("")["workers"] == {"min": 0, "max": 3, "idleTimeout": 10}
    assert endpoint(**BALANCED, workers={"idleTimeout": 7}).idle_timeout_s == 7
    patched = update_endpoint(spec, {"scaling": {"type": "REQUEST_COUNT", "requestCount": 9}})
    assert patched.fields["workers"]["idleTimeout"] == 10


@pytest.mark.parametrize(
    ("env", "detail"),
    [
        ({"PORT": "http"}, "env.PORT must be a whole number"),
        ({"PORT_HEALTH": "70000"}, "env.PORT_HEALTH must be a port, at most 65535"),
        ({"HEALTH_CHECK_PATH": "ping"}, "env.HEALTH_CHECK_PATH must start with a slash"),
    ],
)
def test_ports_and_health_paths_that_cannot_be_are_refused(env: dict[str, str], detail: str) -> None:
    error = refusal({**BALANCED, "env": env})
    assert (error.status, detail in error.detail) == (400, True)
    assert create_endpoint({**BODY, "env": env}, created_at="").env == env  # of no concern to a queue


def test_a_load_balanced_endpoint_cannot_change_to_queue_delay() -> None:
    with pytest.raises(Refused, match="scales by REQUEST_COUNT only"):
        update_endpoint(endpoint(**BALANCED), {"scaling": BODY["scaling"]})
