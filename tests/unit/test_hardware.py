# SPDX-License-Identifier: Apache-2.0
"""Hardware names, facts and the REST v2 form of a choice."""

from __future__ import annotations

import re

import pytest

from flash_plugins.errors import ConfigError
from flash_plugins.hardware import (
    CPU_DATACENTERS,
    CPU_FLAVOR_MIN_VCPU,
    PRICE_DATE,
    PRICE_SOURCE,
    CpuInstanceType,
    CudaVersion,
    DataCenter,
    GpuGroup,
    GpuType,
    ServerlessScalerType,
    ServerlessType,
    cpu_flavors,
    gpu_pools,
    parse_cpus,
    parse_gpus,
)

#: Member names of runpod-flash 1.21: a program that uses one of them must find it here.
FLASH_NAMES: dict[type, str] = {
    GpuGroup: "ANY ADA_24 ADA_32_PRO ADA_48_PRO ADA_80_PRO AMPERE_16 AMPERE_24 AMPERE_48 AMPERE_80 "
    "HOPPER_141 BLACKWELL_96 BLACKWELL_180",
    GpuType: "ANY NVIDIA_GEFORCE_RTX_4090 NVIDIA_GEFORCE_RTX_5090 NVIDIA_RTX_6000_ADA_GENERATION "
    "NVIDIA_RTX_PRO_6000_BLACKWELL_SERVER_EDITION NVIDIA_RTX_PRO_6000_BLACKWELL_WORKSTATION_EDITION "
    "NVIDIA_RTX_PRO_6000_BLACKWELL_MAX_Q_WORKSTATION_EDITION NVIDIA_H100_80GB_HBM3 NVIDIA_RTX_A4000 "
    "NVIDIA_RTX_A4500 NVIDIA_RTX_4000_ADA_GENERATION NVIDIA_RTX_2000_ADA_GENERATION NVIDIA_RTX_A5000 "
    "NVIDIA_L4 NVIDIA_GEFORCE_RTX_3090 NVIDIA_A40 NVIDIA_RTX_A6000 NVIDIA_A100_80GB_PCIe "
    "NVIDIA_A100_SXM4_80GB NVIDIA_H200 NVIDIA_B200",
    CpuInstanceType: "CPU3G_1_4 CPU3G_2_8 CPU3G_4_16 CPU3G_8_32 CPU3C_1_2 CPU3C_2_4 CPU3C_4_8 CPU3C_8_16 "
    "CPU5C_1_2 CPU5C_2_4 CPU5C_4_8 CPU5C_8_16",
    DataCenter: "US_CA_2 US_IL_1 US_KS_2 US_MO_1 US_MO_2 US_NC_2 US_NE_1 US_WA_1 EU_CZ_1 EU_RO_1 EUR_NO_1",
    CudaVersion: "V11_8 V12_0 V12_1 V12_2 V12_3 V12_4 V12_5 V12_6 V12_7 V12_8 V12_9 V13_0",
    ServerlessScalerType: "QUEUE_DELAY REQUEST_COUNT",
    ServerlessType: "QB LB",
}


@pytest.mark.parametrize("enum", FLASH_NAMES, ids=lambda enum: enum.__name__)
def test_every_name_of_runpod_flash_exists(enum: type) -> None:
    missing = [name for name in FLASH_NAMES[enum].split() if not hasattr(enum, name)]
    assert not missing


def test_every_gpu_type_is_in_a_pool_and_every_pool_has_types() -> None:
    assert all(gpu.pool is not GpuGroup.ANY and gpu.memory_gb for gpu in GpuType.all())
    assert all(group.types and group.memory_gb for group in GpuGroup.all())
    assert sorted(GpuGroup.ANY.types) == sorted(GpuType.all())


def test_members_are_their_values() -> None:
    assert GpuType.NVIDIA_A100_SXM4_80GB.value == "NVIDIA A100-SXM4-80GB"
    assert str(GpuGroup.ADA_24) == "ADA_24"
    assert GpuType("NVIDIA L4") is GpuType.NVIDIA_L4
    assert CudaVersion("12.8") is CudaVersion.V12_8


def test_no_value_appears_twice() -> None:
    for enum in (GpuGroup, GpuType, CpuInstanceType, DataCenter, CudaVersion):
        assert len(enum.__members__) == len({member.value for member in enum})


def test_prices_carry_source_and_date() -> None:
    assert GpuType.NVIDIA_GEFORCE_RTX_4090.usd_per_hour == pytest.approx(1.116)
    assert GpuGroup.ADA_32_PRO.usd_per_hour is None
    assert re.fullmatch(r"\d{4}-\d{2}", PRICE_DATE)
    assert PRICE_SOURCE.startswith("https://")


def test_cpu_facts_follow_from_the_name() -> None:
    cpu = CpuInstanceType.CPU5C_4_8
    assert (cpu.flavor, cpu.vcpu, cpu.memory_gb, cpu.max_disk_gb) == ("cpu5c", 4, 8, 60)
    per_vcpu = {"cpu3g": (4, 10), "cpu3c": (2, 10), "cpu5c": (2, 15)}
    for cpu in CpuInstanceType.all():
        assert (cpu.memory_gb / cpu.vcpu, cpu.max_disk_gb / cpu.vcpu) == per_vcpu[cpu.flavor]


@pytest.mark.parametrize("text", ["US-GA-2", "us-ga-2", "US_GA_2", " us_ga_2 "])
def test_data_center_from_string(text: str) -> None:
    assert DataCenter.from_string(text) is DataCenter.US_GA_2


def test_unknown_data_center_suggests_close_ones() -> None:
    with pytest.raises(ConfigError, match=r"datacenter='EU-RO-7' is unknown: did you mean 'EU-RO-1'"):
        DataCenter.from_string("EU-RO-7")
    assert DataCenter.EU_RO_1 in CPU_DATACENTERS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (GpuType.NVIDIA_L4, (GpuType.NVIDIA_L4,)),
        (GpuGroup.ADA_24, (GpuGroup.ADA_24,)),
        ("any", (GpuGroup.ANY,)),
        (GpuType.ANY, (GpuGroup.ANY,)),
        ("NVIDIA GeForce RTX 4090", (GpuType.NVIDIA_GEFORCE_RTX_4090,)),
        ("NVIDIA_A100_80GB_PCIe", (GpuType.NVIDIA_A100_80GB_PCIe,)),
        ("4090", (GpuType.NVIDIA_GEFORCE_RTX_4090,)),
        ("l4", (GpuType.NVIDIA_L4,)),
        ("L40", (GpuType.NVIDIA_L40,)),
        ("h100 sxm", (GpuType.NVIDIA_H100_80GB_HBM3,)),
        ("ada 24", (GpuGroup.ADA_24,)),
        ("hopper", (GpuGroup.HOPPER_141,)),
        (["4090", GpuGroup.ADA_24, GpuType.NVIDIA_GEFORCE_RTX_4090],
         (GpuType.NVIDIA_GEFORCE_RTX_4090, GpuGroup.ADA_24)),
        (("B200",), (GpuType.NVIDIA_B200,)),
    ],
)  # fmt: skip
def test_gpus_are_found_by_value_name_or_fragment(value: object, expected: tuple[GpuType | GpuGroup, ...]) -> None:
    parsed = parse_gpus(value)
    assert parsed == expected
    assert [type(gpu) for gpu in parsed] == [type(gpu) for gpu in expected]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("RTX 4091", r"gpu='RTX 4091' is unknown: did you mean 'NVIDIA GeForce RTX 4090'"),
        ("H1000", r"gpu='H1000' is unknown: did you mean 'NVIDIA H100"),
        ("xyz", r"gpu='xyz' is unknown: it may be one of any, ADA_24"),
        ("A100", r"gpu='A100' fits 2 names \('NVIDIA A100 80GB PCIe', 'NVIDIA A100-SXM4-80GB'\)"),
        ("", r"gpu='' is unknown"),
        ([], r"gpu=\[\] is empty"),
        (7, r"gpu=7 is a int: give a GpuType"),
        (None, r"gpu=None is a NoneType"),
        (["4090", 3], r"gpu\[1\]=3 is a int"),
        (CpuInstanceType.CPU5C_4_8, r"gpu=<CpuInstanceType.CPU5C_4_8: 'cpu5c-4-8'> is unknown"),
    ],
)
def test_wrong_gpus_are_quoted_with_what_is_allowed(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_gpus(value)


@pytest.mark.parametrize("value", ["cpu5c-4-8", "CPU5C_4_8", "5c-4", CpuInstanceType.CPU5C_4_8, ["cpu5c-4-8"]])
def test_cpus_are_found_by_value_name_or_fragment(value: object) -> None:
    assert parse_cpus(value) == (CpuInstanceType.CPU5C_4_8,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("cpu5c-4-9", r"cpu='cpu5c-4-9' is unknown: did you mean 'cpu5c-4-8'"),
        ("cpu5c", r"cpu='cpu5c' fits 4 names"),
        ((), r"cpu=\(\) is empty"),
        (GpuType.NVIDIA_L4, r"is unknown"),
    ],
)
def test_wrong_cpus_are_quoted_with_what_is_allowed(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_cpus(value)


def test_a_type_leaves_out_the_rest_of_its_pool() -> None:
    assert gpu_pools([GpuType.NVIDIA_RTX_6000_ADA_GENERATION]) == (
        ["ADA_48_PRO"],
        ["NVIDIA L40", "NVIDIA L40S"],
    )


def test_a_group_keeps_its_pool_whole_even_beside_one_of_its_types() -> None:
    assert gpu_pools([GpuType.NVIDIA_L4, GpuGroup.AMPERE_24]) == (["AMPERE_24"], [])


def test_pools_come_in_the_order_of_the_choice() -> None:
    pools, excluded = gpu_pools([GpuType.NVIDIA_H200, GpuGroup.ADA_24, GpuType.NVIDIA_A40])
    assert pools == ["HOPPER_141", "ADA_24", "AMPERE_48"]
    assert excluded == ["NVIDIA RTX A6000"]


@pytest.mark.parametrize("any_gpu", [GpuGroup.ANY, GpuType.ANY])
def test_any_gpu_is_every_pool(any_gpu: GpuGroup | GpuType) -> None:
    assert gpu_pools([any_gpu]) == ([group.value for group in GpuGroup.all()], [])


def test_cpu_flavors_are_unique() -> None:
    assert cpu_flavors([CpuInstanceType.CPU5C_4_8, CpuInstanceType.CPU5C_4_8, CpuInstanceType.CPU3G_2_8]) == [
        {"id": "cpu5c", "vcpuCount": 4},
        {"id": "cpu3g", "vcpuCount": 2},
    ]


def test_one_vcpu_is_rounded_up() -> None:
    assert cpu_flavors([CpuInstanceType.CPU3C_1_2]) == [{"id": "cpu3c", "vcpuCount": CPU_FLAVOR_MIN_VCPU}]


def test_an_empty_choice_is_an_error() -> None:
    with pytest.raises(ConfigError, match="names no GPU"):
        gpu_pools([])
    with pytest.raises(ConfigError, match="names no CPU"):
        cpu_flavors([])
