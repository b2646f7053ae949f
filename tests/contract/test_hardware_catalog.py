# SPDX-License-Identifier: Apache-2.0
"""Our tables of hardware against facts collected from Runpod's packages and documentation.

The collection is not ours to ship: its path comes from the variable RUNPOD_CATALOG, else it is looked for beside the
checkout. Without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from flash_plugins import (
    CpuInstanceType,
    CudaVersion,
    DataCenter,
    EndpointConfig,
    GpuGroup,
    GpuType,
    ServerlessScalerType,
    ServerlessType,
)
from flash_plugins.hardware import S3_DATACENTERS
from flash_plugins.objects.location import runpod_location
from flash_plugins.resources import VOLUME_SIZE_RANGE_GB, NetworkVolume
from flash_plugins.routes import RESERVED_PATHS
from tests.support import ROOT

PATH = os.environ.get("RUNPOD_CATALOG") or ROOT.parent / "shared" / "reference" / "runpod-catalog.json"
ENUMS: dict[str, type[CudaVersion | DataCenter | ServerlessScalerType | ServerlessType]] = {
    "cuda_versions": CudaVersion,
    "data_centers": DataCenter,
    "serverless_scaler_types": ServerlessScalerType,
    "serverless_types": ServerlessType,
}


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    if not os.path.exists(PATH):
        pytest.skip(f"no collection of facts at {PATH}; set RUNPOD_CATALOG")
    with open(PATH, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def test_every_pool_has_the_platforms_types_memory_and_price(facts: dict[str, Any]) -> None:
    assert {group.name for group in GpuGroup} == set(facts["gpu_groups"])
    for name, fact in facts["gpu_groups"].items():
        group = GpuGroup[name]
        assert (group.value, group.memory_gb) == (fact["value"], fact["memory_gb"])
        assert group.usd_per_second == fact["serverless_usd_per_second"]
        if group is not GpuGroup.ANY:
            assert {gpu.value for gpu in group.types} == set(fact["platform_types"])


def test_every_gpu_type_of_the_packages_is_there(facts: dict[str, Any]) -> None:
    for name, fact in facts["gpu_types"].items():
        gpu = GpuType[name]
        assert (gpu.value, gpu.memory_gb) == (fact["value"], fact["memory_gb"])
        if fact["pool"] is not None:
            assert (gpu.pool.value, gpu.display) == (fact["pool"], fact["display"])
    for name, value in facts["gpu_types_added_in_runpod_2"].items():
        assert GpuType[name] == value
    for gpu in GpuType.all():
        fact = facts["all_platform_gpu_types"][gpu.value]
        assert (gpu.display, gpu.memory_gb) == (fact["display"], fact["memory_gb"])


def test_every_cpu_type_has_its_size_and_disk(facts: dict[str, Any]) -> None:
    assert {cpu.name for cpu in CpuInstanceType} == set(facts["cpu_instance_types"])
    for name, fact in facts["cpu_instance_types"].items():
        cpu = CpuInstanceType[name]
        assert (cpu.value, cpu.flavor, cpu.vcpu) == (fact["value"], fact["flavor"], fact["vcpu"])
        assert (cpu.memory_gb, cpu.max_disk_gb) == (fact["memory_gb"], fact["max_container_disk_gb"])


@pytest.mark.parametrize("name", ENUMS)
def test_every_member_of_an_enum_is_there(facts: dict[str, Any], name: str) -> None:
    for member, value in facts[name].items():
        assert ENUMS[name][member].value == value


def test_every_data_center_that_programs_or_volumes_use_is_known(facts: dict[str, Any]) -> None:
    used = [*facts["data_centers_used_by_examples_but_not_in_1_21"], *facts["s3_endpoints"]]
    for places in facts["cpu_data_centers_runpod_2"].values():
        used += places
    assert set(used) <= {center.value for center in DataCenter}


def test_defaults_are_those_of_the_package_that_is_replaced(facts: dict[str, Any]) -> None:
    theirs = facts["endpoint_defaults"]["flash"]
    ours = EndpointConfig.from_parameters("e", {})
    assert list(ours.workers) == theirs["workers"]
    assert (ours.idle_timeout, ours.scaler_value) == (theirs["idle_timeout_s"], theirs["scaler_value"])
    assert [gpu.value for gpu in ours.gpu] == [theirs["gpu"]]
    assert ours.min_cuda_version.value == theirs["min_cuda_version"]
    for name in ("flashboot", "gpu_count", "execution_timeout_ms", "max_concurrency", "accelerate_downloads"):
        assert getattr(ours, name) == theirs[name]
    sizes = facts["network_volume"]["size_gb"]
    assert (sizes["min"], sizes["max"]) == VOLUME_SIZE_RANGE_GB
    assert NetworkVolume(name="v").size == sizes["flash_default"]
    assert set(RESERVED_PATHS) >= set(facts["reserved_lb_paths"])


def test_the_volumes_of_the_same_data_centers_have_an_s3_api_at_the_same_addresses(facts: dict[str, Any]) -> None:
    assert {center.value for center in S3_DATACENTERS} == set(facts["s3_endpoints"])
    for center, address in facts["s3_endpoints"].items():
        location = runpod_location("volume", center)
        assert (location.endpoint, location.region) == (address.rstrip("/"), center)
