# SPDX-License-Identifier: Apache-2.0
"""The catalog of REST v2: what could be rented, from `hardware`. This machine stands for all of it, always free.

Rules: Runpod's REST v2 description (2026-08). Prices are the published ones of serverless GPUs; there are no pods
here and no published prices of CPUs, so those are 0. Names of data centers are their ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ...hardware import CPU_DATACENTERS, CPU_FLAVOR_MIN_VCPU, CpuInstanceType, CudaVersion, DataCenter, GpuType
from .. import api
from .fields import JsonObject, Refused, array, one_of, refuse, string
from .restroute import answer, route, whole_number

__all__ = ["catalog_routes"]

_Item = TypeVar("_Item")

_REGIONS: Final = {
    "US": "NORTH_AMERICA",
    "CA": "NORTH_AMERICA",
    "EU": "EUROPE",
    "EUR": "EUROPE",
    "AP": "ASIA",
    "OC": "OCEANIA",
}
_ALL_REGIONS: Final = (
    *("NORTH_AMERICA", "SOUTH_AMERICA", "EUROPE", "ASIA", "MIDDLE_EAST", "AFRICA", "OCEANIA", "ANTARCTICA"),
    "UNKNOWN",
)
_COMPLIANCE: Final = (
    *("GDPR", "ISO_IEC_27001", "ISO_14001", "PCI_DSS", "HITRUST", "SOC_1_TYPE_2", "SOC_2_TYPE_2", "SOC_3_TYPE_2"),
    *("ITAR", "FISMA_HIGH", "HIPAA", "RENEWABLE"),
)
#: Kind and generation of a CPU flavor, by its last letter and its number.
_CPU_KINDS: Final = {"c": "Compute-Optimized", "g": "General Purpose", "m": "Memory-Optimized"}
#: What counts only where availability is asked for.
_GPU_FILTERS: Final = ("product", "count", "cloud", "countryCodes", "cudaVersions", "minCudaVersion")
_CPU_FILTERS: Final = ("product", "vcpuCount")
_FREE: Final = "HIGH"

_COUNTRY = re.compile(r"[A-Z]{2}")
_VERSION = re.compile(r"\d+\.\d+", re.ASCII)
_FLOOR = re.compile(r"\d+(\.\d+)?", re.ASCII)


def _country(center: DataCenter) -> str:
    area, country, *_ = center.value.split("-")
    return area if area in ("US", "CA") else country


def _place(center: DataCenter) -> JsonObject:
    return {"id": center.value, "name": center.value, "availability": _FREE}


def _gpu(gpu: GpuType) -> JsonObject:
    price: JsonObject = {"secure": 0.0, "community": 0.0}
    if gpu.usd_per_hour is not None:
        price["serverless"] = gpu.usd_per_hour
    return {
        "id": gpu.value,
        "name": gpu.display,
        "pool": gpu.pool.value,
        "manufacturer": gpu.value.partition(" ")[0],
        "memory": gpu.memory_gb,
        "secure": False,
        "community": False,
        "price": price,
        "maxCount": {"secure": 0, "community": 0},
    }


def _cpus() -> dict[str, JsonObject]:
    found = {}
    for flavor in dict.fromkeys(cpu.flavor for cpu in CpuInstanceType):
        members = [cpu for cpu in CpuInstanceType if cpu.flavor == flavor]
        found[flavor] = {
            "id": flavor,
            "name": _CPU_KINDS[flavor[-1]],
            "group": f"Gen {flavor[3:-1]}",
            "vcpu": {"min": CPU_FLAVOR_MIN_VCPU, "max": max(cpu.vcpu for cpu in members)},
            "ramGbPerVcpu": members[0].memory_gb / members[0].vcpu,
            "price": {"securePerVcpu": 0.0, "serverlessPerVcpu": 0.0},
        }
    return found


def _center(center: DataCenter, include: Iterable[str]) -> JsonObject:
    shown: JsonObject = {
        "id": center.value,
        "name": center.value,
        "region": _REGIONS[center.value.partition("-")[0]],
        "globalNetwork": False,
        "networkVolumeTypes": list(api.VOLUME_TYPES),
        "compliance": [],
    }
    if "GPU_AVAILABILITY" in include:
        shown["gpuAvailability"] = [
            {"id": gpu.value, "name": gpu.display, "availability": _FREE} for gpu in GpuType.all()
        ]
    if "CPU_AVAILABILITY" in include and center in CPU_DATACENTERS:
        shown["cpuAvailability"] = [
            {"id": cpu["id"], "name": cpu["name"], "availability": _FREE} for cpu in _cpus().values()
        ]
    return shown


def _wants_availability(query: Mapping[str, str], filters: tuple[str, ...], products: tuple[str, ...]) -> bool:
    """Check `include`, and what counts only with it.

    Raises:
        Refused: A value is wrong (422), or the parameters do not go together (400).
    """
    include = _list(query, "include", "AVAILABILITY")
    _list(query, "product", *products)
    if "cloud" in query:
        refuse(one_of("SECURE", "COMMUNITY")(query["cloud"], "query.cloud"))
    for name, least in (("count", 1), ("vcpuCount", CPU_FLAVOR_MIN_VCPU)):
        if name in filters and name in query:
            whole_number(query[name], name, least)
    if not include:
        for name in filters:
            if name in query:
                raise Refused(400, f"{name} is valid only with include=AVAILABILITY")
    elif not query.get("product"):
        raise Refused(400, f"include=AVAILABILITY needs product, one or more of {', '.join(products)}")
    return bool(include)


def _gpu_availability(query: Mapping[str, str]) -> tuple[list[JsonObject], list[JsonObject]]:
    """Return the data centers and the CUDA versions that a query asks about."""
    countries = _list(query, "countryCodes", pattern=_COUNTRY)
    versions = _list(query, "cudaVersions", pattern=_VERSION)
    floor = query.get("minCudaVersion")
    if floor is not None and not _FLOOR.fullmatch(floor):
        refuse([f"query.minCudaVersion: {floor[:100]!r} is not a version such as 12 or 12.1"])
    if versions and floor is not None:
        raise Refused(400, "cudaVersions and minCudaVersion exclude each other")
    places = [_place(center) for center in DataCenter if not countries or _country(center) in countries]
    offered = [
        {"version": version.value, "available": True}
        for version in CudaVersion
        if (not versions or version in versions) and (floor is None or _parts(version) >= _parts(floor))
    ]
    return places, offered


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _list(query: Mapping[str, str], name: str, *allowed: str, pattern: re.Pattern[str] | None = None) -> list[str]:
    """Return a comma-separated parameter, each value one of the allowed or of the pattern's form."""
    if name not in query:
        return []
    values = query[name].split(",")
    refuse(array(one_of(*allowed) if allowed else string(at_least=1))(values, f"query.{name}"))
    if pattern is not None:
        refuse([f"query.{name}: {value[:100]!r} is malformed" for value in values if not pattern.fullmatch(value)])
    return values


class _Catalog:
    """The handlers."""

    async def gpus(self, request: Request) -> Response:
        query = request.query_params
        shown = [self._shown_gpu(gpu, query) for gpu in GpuType.all()]
        # With countries given, a GPU that is in none of them is not listed.
        return answer({"gpus": [gpu for gpu in shown if gpu.get("availability") != "NONE"]})

    async def gpu(self, request: Request) -> Response:
        found = _known(request, {gpu.value: gpu for gpu in GpuType.all()}, "GPU type")
        return answer(self._shown_gpu(found, request.query_params))

    async def cpus(self, request: Request) -> Response:
        return answer({"cpus": [self._shown_cpu(cpu, request.query_params) for cpu in _cpus().values()]})

    async def cpu(self, request: Request) -> Response:
        return answer(self._shown_cpu(_known(request, _cpus(), "CPU flavor"), request.query_params))

    async def centers(self, request: Request) -> Response:
        query = request.query_params
        include = _list(query, "include", "GPU_AVAILABILITY", "CPU_AVAILABILITY")
        regions = _list(query, "regions", *_ALL_REGIONS)
        kinds = _list(query, "networkVolumeTypes", *api.VOLUME_TYPES)
        compliance = _list(query, "compliance", *_COMPLIANCE)
        if "globalNetwork" in query:
            refuse(one_of("true", "false")(query["globalNetwork"], "query.globalNetwork"))
        shown = [
            center
            for center in (_center(one, include) for one in DataCenter)
            if (not regions or center["region"] in regions)
            and set(kinds) <= set(center["networkVolumeTypes"])
            and set(compliance) <= set(center["compliance"])
            and query.get("globalNetwork") != ("false" if center["globalNetwork"] else "true")
        ]
        return answer({"dataCenters": shown})

    async def center(self, request: Request) -> Response:
        include = _list(request.query_params, "include", "GPU_AVAILABILITY", "CPU_AVAILABILITY")
        return answer(_center(_known(request, {one.value: one for one in DataCenter}, "data center"), include))

    def _shown_gpu(self, gpu: GpuType, query: Mapping[str, str]) -> JsonObject:
        shown = _gpu(gpu)
        is_asked = _wants_availability(query, _GPU_FILTERS, ("POD", "CLUSTER", "SERVERLESS"))
        places, versions = _gpu_availability(query)
        if is_asked:
            shown["availability"] = _FREE if places and versions else "NONE"
            if shown["availability"] == _FREE:
                shown |= {"dataCenters": places, "cudaVersions": versions}
        return shown

    def _shown_cpu(self, cpu: JsonObject, query: Mapping[str, str]) -> JsonObject:
        if not _wants_availability(query, _CPU_FILTERS, ("POD", "SERVERLESS")):
            return cpu
        count = int(query.get("vcpuCount", CPU_FLAVOR_MIN_VCPU))  # checked
        if count.bit_count() != 1:
            raise Refused(400, f"vcpuCount must be a power of two, not {count}")
        if count > cpu["vcpu"]["max"]:
            return {**cpu, "availability": "NONE"}
        return {**cpu, "availability": _FREE, "dataCenters": [_place(center) for center in sorted(CPU_DATACENTERS)]}


def _known(request: Request, items: Mapping[str, _Item], kind: str) -> _Item:
    wanted = request.path_params["id"]
    if wanted not in items:
        raise Refused(404, f"{kind} {wanted!r} not found")
    return items[wanted]


def catalog_routes() -> list[BaseRoute]:
    """Return the routes of REST v2, except that of public templates."""
    catalog = _Catalog()
    return [
        route(f"{api.CATALOG_PATH}/gpus", {"GET": catalog.gpus}),
        route(f"{api.CATALOG_PATH}/gpus/{{id}}", {"GET": catalog.gpu}),
        route(f"{api.CATALOG_PATH}/cpus", {"GET": catalog.cpus}),
        route(f"{api.CATALOG_PATH}/cpus/{{id}}", {"GET": catalog.cpu}),
        route(f"{api.CATALOG_PATH}/datacenters", {"GET": catalog.centers}),
        route(f"{api.CATALOG_PATH}/datacenters/{{id}}", {"GET": catalog.center}),
    ]
