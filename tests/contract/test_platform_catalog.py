# SPDX-License-Identifier: Apache-2.0
"""The catalog and the bill as the local platform serves them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from flash_plugins.hardware import CpuInstanceType, CudaVersion, DataCenter, GpuType
from flash_plugins.platforms.local.launch import launch
from tests.contract.rest_description import Check, refused, schema_check
from tests.integration.local_support import Client


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    platform = launch()
    yield Client.of(platform)
    platform.stop()


@pytest.fixture(scope="module")
def check() -> Check:
    return schema_check()


def test_gpus_are_those_of_the_pools(client: Client, check: Check) -> None:
    answer = client.ok("GET", "/v2/catalog/gpus")
    check("ListGpuTypesResponse", answer)
    assert [gpu["id"] for gpu in answer["gpus"]] == [gpu.value for gpu in GpuType.all()]
    by_id = {gpu["id"]: gpu for gpu in answer["gpus"]}
    card = by_id["NVIDIA GeForce RTX 4090"]
    assert (card["pool"], card["memory"], card["name"]) == ("ADA_24", 24, "RTX 4090")
    assert card["price"]["serverless"] == pytest.approx(0.00031 * 3600)
    assert "serverless" not in by_id["NVIDIA GeForce RTX 5090"]["price"]
    assert not any(gpu.keys() & {"availability", "dataCenters", "cudaVersions"} for gpu in answer["gpus"])
    assert client.ok("GET", "/v2/catalog/gpus/NVIDIA%20GeForce%20RTX%204090") == card


def test_availability_comes_when_asked_for(client: Client, check: Check) -> None:
    query = "include=AVAILABILITY&product=SERVERLESS"
    answer = client.ok("GET", f"/v2/catalog/gpus?{query}&countryCodes=RO,NO&minCudaVersion=12.8")
    check("ListGpuTypesResponse", answer)
    gpu = answer["gpus"][0]
    assert gpu["availability"] == "HIGH"
    assert [center["id"] for center in gpu["dataCenters"]] == ["EU-RO-1", "EUR-NO-1", "EUR-NO-2"]
    assert [one["version"] for one in gpu["cudaVersions"]] == ["12.8", "12.9", "13.0"]

    exact = client.ok("GET", f"/v2/catalog/gpus?{query}&cudaVersions=12.4,99.9")["gpus"][0]
    assert exact["cudaVersions"] == [{"version": "12.4", "available": True}]
    assert client.ok("GET", f"/v2/catalog/gpus?{query}&countryCodes=AQ") == {"gpus": []}
    nowhere = client.ok("GET", f"/v2/catalog/gpus/{quote('NVIDIA L4')}?{query}&countryCodes=AQ")
    check("GpuType", nowhere)
    assert nowhere["availability"] == "NONE"
    assert "dataCenters" not in nowhere
    whole = client.ok("GET", f"/v2/catalog/gpus?{query}")["gpus"][0]
    assert [one["version"] for one in whole["cudaVersions"]] == [version.value for version in CudaVersion]


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("gpus?product=POD", 400, "product is valid only with include=AVAILABILITY"),
        ("gpus?count=2", 400, "count is valid only with include=AVAILABILITY"),
        ("gpus?cloud=SECURE", 400, "cloud is valid only with"),
        ("gpus?countryCodes=FR", 400, "countryCodes is valid only with"),
        ("gpus?minCudaVersion=12", 400, "minCudaVersion is valid only with"),
        ("gpus?include=AVAILABILITY", 400, "needs product, one or more of POD, CLUSTER, SERVERLESS"),
        ("gpus?include=AVAILABILITY&product=POD&cudaVersions=12.8&minCudaVersion=12", 400, "exclude each other"),
        ("gpus?include=PRICE", 422, "query.include[0]: must be one of AVAILABILITY, not 'PRICE'"),
        ("gpus?include=AVAILABILITY&product=HOUSE", 422, "query.product[0]: must be one of"),
        ("gpus?include=AVAILABILITY&product=POD&count=0", 422, "query.count: must be a whole number, at least 1"),
        ("gpus?include=AVAILABILITY&product=POD&countryCodes=fr", 422, "query.countryCodes: 'fr' is malformed"),
        ("gpus?include=AVAILABILITY&product=POD&cudaVersions=12", 422, "query.cudaVersions: '12' is malformed"),
        ("gpus?include=AVAILABILITY&product=POD&minCudaVersion=x", 422, "query.minCudaVersion: 'x' is not a version"),
        ("cpus?vcpuCount=4", 400, "vcpuCount is valid only with include=AVAILABILITY"),
        ("cpus?include=AVAILABILITY&product=CLUSTER", 422, "query.product[0]: must be one of POD, SERVERLESS"),
        ("cpus?include=AVAILABILITY&product=POD&vcpuCount=3", 400, "vcpuCount must be a power of two, not 3"),
        ("datacenters?regions=MARS", 422, "query.regions[0]: must be one of NORTH_AMERICA"),
        ("datacenters?globalNetwork=maybe", 422, "query.globalNetwork: must be one of true, false"),
        ("datacenters/EU-RO-1?include=AVAILABILITY", 422, "query.include[0]: must be one of GPU_AVAILABILITY"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(
    client: Client, check: Check, path: str, status: int, text: str
) -> None:
    assert text in refused(client, check, "GET", f"/v2/catalog/{path}", None, status)["detail"]


def test_cpus_are_the_flavors(client: Client, check: Check) -> None:
    answer = client.ok("GET", "/v2/catalog/cpus")
    check("ListCpuTypesResponse", answer)
    assert {cpu["id"] for cpu in answer["cpus"]} == {cpu.flavor for cpu in CpuInstanceType}
    general = client.ok("GET", "/v2/catalog/cpus/cpu3g")
    assert general in answer["cpus"]
    assert (general["group"], general["ramGbPerVcpu"], general["vcpu"]) == ("Gen 3", 4, {"min": 2, "max": 8})

    asked = "include=AVAILABILITY&product=SERVERLESS,POD"
    known = client.ok("GET", f"/v2/catalog/cpus/cpu5c?{asked}&vcpuCount=8")
    check("CpuType", known)
    assert (known["availability"], known["dataCenters"][0]["id"]) == ("HIGH", "EU-RO-1")
    assert client.ok("GET", f"/v2/catalog/cpus/cpu5c?{asked}&vcpuCount=16")["availability"] == "NONE"


def test_data_centers_can_be_filtered(client: Client, check: Check) -> None:
    answer = client.ok("GET", "/v2/catalog/datacenters")
    check("ListDataCentersResponse", answer)
    assert [center["id"] for center in answer["dataCenters"]] == [center.value for center in DataCenter]
    assert "UNKNOWN" not in {center["region"] for center in answer["dataCenters"]}

    def ids(query: str) -> set[str]:
        filtered = client.ok("GET", f"/v2/catalog/datacenters?{query}")
        check("ListDataCentersResponse", filtered)
        return {center["id"] for center in filtered["dataCenters"]}

    assert ids("regions=OCEANIA,ASIA") == {"AP-IN-1", "AP-IN-2", "AP-JP-1", "OC-AU-1"}
    assert ids("networkVolumeTypes=STANDARD,HIGH_PERFORMANCE") == ids("globalNetwork=false") == ids("")
    assert ids("compliance=GDPR") == ids("globalNetwork=true") == set()

    both = client.ok("GET", "/v2/catalog/datacenters/EU-RO-1?include=GPU_AVAILABILITY,CPU_AVAILABILITY")
    check("DataCenter", both)
    assert len(both["gpuAvailability"]) == len(GpuType.all())
    assert {cpu["id"] for cpu in both["cpuAvailability"]} == {cpu.flavor for cpu in CpuInstanceType}
    far = client.ok("GET", "/v2/catalog/datacenters/US-KS-2?include=CPU_AVAILABILITY")
    assert "cpuAvailability" not in far
    assert "gpuAvailability" not in far


def query_of(client: Client, check: Check, query: str) -> dict[str, Any]:
    answer = client.ok("GET", f"/v2/billing/serverless?{query}")
    check("ListServerlessBillingResponse", answer)
    assert answer["records"] == []
    assert answer["metadata"]["totals"]["totalAmount"] == 0
    return dict(answer["metadata"]["query"])


@pytest.mark.parametrize(
    ("bucket", "start", "end"),
    [
        ("hour", "2026-05-14T10:00:00Z", "2026-05-14T13:00:00Z"),
        ("day", "2026-05-14T00:00:00Z", "2026-05-15T00:00:00Z"),
        ("week", "2026-05-11T00:00:00Z", "2026-05-18T00:00:00Z"),
        ("month", "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z"),
        ("year", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
    ],
)
def test_the_bill_is_empty_and_its_window_ends_with_buckets(
    client: Client, check: Check, bucket: str, start: str, end: str
) -> None:
    times = "startTime=2026-05-14T12:30:00%2B02:00&endTime=2026-05-14T12:00:01Z"
    found = query_of(client, check, f"{times}&bucketSize={bucket}&serverlessId=ep1")
    assert found == {"startTime": start, "endTime": end, "bucketSize": bucket, "serverlessId": "ep1"}


def test_the_bill_of_the_last_buckets(client: Client, check: Check) -> None:
    found = query_of(client, check, "lastN=25&bucketSize=month")
    assert found["startTime"].endswith("-01T00:00:00Z")
    months = [int(found[name][:4]) * 12 + int(found[name][5:7]) for name in ("startTime", "endTime")]
    assert months[1] - months[0] == 25
    assert query_of(client, check, "")["bucketSize"] == "day"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("lastN=3&startTime=2026-05-14T12:30:00Z", 400),
        ("lastN=0", 422),
        ("lastN=999999999999", 400),
        ("bucketSize=fortnight", 422),
        ("startTime=yesterday", 422),
        ("startTime=2026-05-14", 422),
        ("startTime=2026-05-14T12:30:00", 422),
        ("startTime=0001-01-01T00:00:00%2B23:59", 422),
        ("startTime=2026-05-14T12:30:00Z&endTime=2026-05-14T12:30:00Z", 400),
        ("endTime=9999-12-31T23:59:59Z", 400),
    ],
)
def test_a_refused_bill_says_why(client: Client, check: Check, query: str, status: int) -> None:
    refused(client, check, "GET", f"/v2/billing/serverless?{query}", None, status)
