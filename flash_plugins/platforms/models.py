# SPDX-License-Identifier: Apache-2.0
"""What REST v2 answers, as typed values: decoded once, here. It sends nothing.

Fields that are new to us are ignored and those that Runpod's description calls optional may be missing, so that a newer
service can still be read. Source of every shape: the REST v2 description, 2026-08.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .api import EndpointKind

__all__ = [
    "CpuInfo",
    "EndpointInfo",
    "EndpointWorkers",
    "GpuInfo",
    "LogLine",
    "ReleaseInfo",
    "Rollout",
    "TemplateInfo",
    "VolumeInfo",
    "WorkerInfo",
    "WorkerSummary",
]

#: JSON as it came.
_Json = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EndpointInfo:
    """One serverless endpoint.

    Attributes:
        id: Its id.
        name: Its name; several endpoints may share one.
        kind: How it takes requests; None where neither its type nor its URLs tell.
        image: Container image.
        workers_min: Workers that are always kept.
        workers_max: Most workers. Runpod lowers it to 2 after three idle days, and to 0 after seven.
        idle_timeout_s: Seconds until an idle worker stops; None where that does not apply.
        scaling: As it came: `{"type": "QUEUE_DELAY", "queueDelay": 4}`.
        timeout_ms: Longest execution of one request, milliseconds.
        flashboot: `OFF`, `FLASHBOOT` or `PRIORITY_FLASHBOOT`.
        gpu_pools: Ids of its GPU pools; empty for CPU endpoints.
        gpu_count: GPUs of one worker.
        cpus: Its CPU choices as `cpu5c with 4 vCPU`; empty for GPU endpoints.
        data_centers: Ids of the data centers allowed; empty for all.
        volumes: Ids of its network volumes.
        env: Environment of its workers; never in `repr`.
        urls: Its request URLs by operation.
        created_at: When it was created, RFC 3339; empty where not said.
        fields: The answer as it came; never in `repr`.
    """

    id: str
    name: str
    kind: EndpointKind | None
    image: str | None
    workers_min: int
    workers_max: int
    idle_timeout_s: int | None
    scaling: Mapping[str, Any] = field(hash=False)
    timeout_ms: int | None
    flashboot: str | None
    gpu_pools: tuple[str, ...]
    gpu_count: int
    cpus: tuple[str, ...]
    data_centers: tuple[str, ...]
    volumes: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False, hash=False)
    urls: Mapping[str, str] = field(hash=False)
    created_at: str
    fields: _Json = field(repr=False, hash=False, compare=False)

    @classmethod
    def parse(cls, answer: _Json) -> EndpointInfo:
        """Return what an answer says. Raises KeyError, TypeError or ValueError for what nobody described."""
        workers, gpu = _object(answer, "workers"), _object(answer, "gpu")
        urls = {str(name): str(url) for name, url in _object(answer, "requestUrls").items()}
        return cls(
            id=str(answer["id"]),
            name=str(answer["name"]),
            kind=_kind(answer.get("type"), urls),
            image=_optional(answer, "image", str),
            workers_min=int(workers.get("min") or 0),
            workers_max=int(workers.get("max") or 0),
            idle_timeout_s=_optional(workers, "idleTimeout", int),
            scaling=dict(_object(answer, "scaling")),
            timeout_ms=_optional(answer, "timeout", int),
            flashboot=_optional(answer, "flashboot", str),
            gpu_pools=_texts(gpu, "pools"),
            gpu_count=int(gpu.get("count") or 1) if gpu else 0,
            cpus=tuple(f"{cpu.get('id')} with {cpu.get('vcpuCount')} vCPU" for cpu in answer.get("cpu") or ()),
            data_centers=_texts(answer, "dataCenterIds"),
            volumes=_texts(answer, "networkVolumes"),
            env={str(name): str(value) for name, value in _object(answer, "env").items()},
            urls=urls,
            created_at=str(answer.get("createdAt") or ""),
            fields=answer,
        )

    @property
    def age_order(self) -> tuple[str, str]:
        """What endpoints of one name are sorted by, the oldest first, alike in every process."""
        return (self.created_at, self.id)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One worker of an endpoint; stopped ones are not listed.

    Attributes:
        id: Its id.
        status: `RUNNING` (works), `IDLE` (waits for work), `INITIALIZING`, `THROTTLED` (waits for capacity) or
            `UNHEALTHY`; possibly one that is newer than this package.
        is_stale: Whether it runs an older configuration than the endpoint has.
        version: Configuration that it runs, None if unknown.
        image: Container image, None if unknown.
        gpu_type: GPU that it runs on, None until it is placed.
        gpu_count: GPUs that it has.
        data_center: Where it runs, None until it is placed.
        uptime_s: Seconds it has been running, None until it does.
        started_at: When it started, RFC 3339; None until it did.
    """

    id: str
    status: str
    is_stale: bool
    version: int | None
    image: str | None
    gpu_type: str | None
    gpu_count: int
    data_center: str | None
    uptime_s: int | None
    started_at: str | None

    @classmethod
    def parse(cls, answer: _Json) -> WorkerInfo:
        """As `EndpointInfo.parse`."""
        return cls(
            id=str(answer["id"]),
            status=str(answer["status"]),
            is_stale=bool(answer.get("isStale")),
            version=_optional(answer, "version", int),
            image=_optional(answer, "image", str),
            gpu_type=_optional(answer, "gpuTypeId", str),
            gpu_count=int(answer.get("gpuCount") or 0),
            data_center=_optional(answer, "dataCenterId", str),
            uptime_s=_optional(answer, "uptimeSeconds", int),
            started_at=_optional(answer, "startedAt", str),
        )


@dataclass(frozen=True, slots=True)
class WorkerSummary:
    """How many workers an endpoint has, by state."""

    running: int = 0
    idle: int = 0
    initializing: int = 0
    throttled: int = 0
    unhealthy: int = 0
    total: int = 0

    @classmethod
    def parse(cls, answer: _Json) -> WorkerSummary:
        """As `EndpointInfo.parse`; counts that are missing are 0."""
        return cls(**{name: int(answer.get(name) or 0) for name in cls.__annotations__})


@dataclass(frozen=True, slots=True)
class EndpointWorkers:
    """The workers of an endpoint, and how many there are in each state."""

    workers: tuple[WorkerInfo, ...]
    summary: WorkerSummary
    version: int | None

    @classmethod
    def parse(cls, answer: _Json) -> EndpointWorkers:
        """As `EndpointInfo.parse`."""
        workers = tuple(WorkerInfo.parse(entry) for entry in answer.get("workers") or ())
        summary = WorkerSummary.parse(_object(answer, "summary"))
        return cls(workers, summary, _optional(answer, "endpointVersion", int))


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a worker's log.

    Attributes:
        id: What a later request goes on from (`Last-Event-ID`).
        source: `container` or `system`.
        line: The text.
        ts: When it was written, RFC 3339.
    """

    id: str | None
    source: str
    line: str
    ts: str

    @classmethod
    def parse(cls, answer: _Json, event_id: str | None) -> LogLine:
        """As `EndpointInfo.parse`."""
        return cls(event_id, str(answer.get("source", "")), str(answer.get("line", "")), str(answer.get("ts", "")))


@dataclass(frozen=True, slots=True)
class ReleaseInfo:
    """One version of an endpoint's configuration; `changes` names the fields that it changed."""

    id: str
    version: int | None
    created_at: str
    worker_count: int
    changes: tuple[str, ...]

    @classmethod
    def parse(cls, answer: _Json) -> ReleaseInfo:
        """As `EndpointInfo.parse`."""
        return cls(
            id=str(answer["id"]),
            version=_optional(answer, "version", int),
            created_at=str(answer.get("createdAt") or ""),
            worker_count=int(answer.get("workerCount") or 0),
            changes=tuple(str(entry.get("field")) for entry in answer.get("diff") or ()),
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far an endpoint's workers run its newest configuration, with the releases, newest first."""

    is_in_progress: bool
    workers_on_latest: int
    workers_total: int
    releases: tuple[ReleaseInfo, ...]

    @classmethod
    def parse(cls, answer: _Json) -> Rollout:
        """As `EndpointInfo.parse`."""
        rollout = _object(answer, "rollout")
        return cls(
            is_in_progress=bool(rollout.get("inProgress")),
            workers_on_latest=int(rollout.get("workersOnLatest") or 0),
            workers_total=int(rollout.get("workersTotal") or 0),
            releases=tuple(ReleaseInfo.parse(entry) for entry in answer.get("releases") or ()),
        )


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """One network volume; `size_gb` in GB, `data_center` an id such as `EU-RO-1`. Names need not be unique."""

    id: str
    name: str
    size_gb: int
    data_center: str
    kind: str | None

    @classmethod
    def parse(cls, answer: _Json) -> VolumeInfo:
        """As `EndpointInfo.parse`."""
        return cls(
            id=str(answer["id"]),
            name=str(answer["name"]),
            size_gb=int(answer.get("size") or 0),
            data_center=str(answer["dataCenter"]),
            kind=_optional(answer, "type", str),
        )


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """One template; `env` is never in `repr`."""

    id: str
    name: str
    image: str | None
    args: str | None
    disk_gb: int | None
    ports: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False, hash=False)
    is_serverless: bool

    @classmethod
    def parse(cls, answer: _Json) -> TemplateInfo:
        """As `EndpointInfo.parse`."""
        return cls(
            id=str(answer["id"]),
            name=str(answer["name"]),
            image=_optional(answer, "image", str),
            args=_optional(answer, "args", str),
            disk_gb=_optional(answer, "disk", int),
            ports=_texts(answer, "ports"),
            env={str(name): str(value) for name, value in _object(answer, "env").items()},
            is_serverless=bool(answer.get("serverless")),
        )


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """One GPU type of the catalog.

    Attributes:
        id: Id of the type.
        name: Short name.
        pool: Serverless pool that holds it, None for none.
        memory_gb: GPU memory, GB.
        usd_per_hour: Serverless list price of one GPU, USD an hour; None where it cannot be had.
    """

    id: str
    name: str
    pool: str | None
    memory_gb: int
    usd_per_hour: float | None

    @classmethod
    def parse(cls, answer: _Json) -> GpuInfo:
        """As `EndpointInfo.parse`."""
        return cls(
            id=str(answer["id"]),
            name=str(answer.get("name") or answer["id"]),
            pool=_optional(answer, "pool", str),
            memory_gb=int(answer.get("memory") or 0),
            usd_per_hour=_optional(_object(answer, "price"), "serverless", float),
        )


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """One CPU flavor of the catalog; `usd_per_vcpu_hour` is the serverless list price, None where there is none."""

    id: str
    name: str
    vcpu_min: int
    vcpu_max: int
    ram_gb_per_vcpu: float
    usd_per_vcpu_hour: float | None

    @classmethod
    def parse(cls, answer: _Json) -> CpuInfo:
        """As `EndpointInfo.parse`."""
        vcpu = _object(answer, "vcpu")
        return cls(
            id=str(answer["id"]),
            name=str(answer.get("name") or answer["id"]),
            vcpu_min=int(vcpu.get("min") or 0),
            vcpu_max=int(vcpu.get("max") or 0),
            ram_gb_per_vcpu=float(answer.get("ramGbPerVcpu") or 0),
            usd_per_vcpu_hour=_optional(_object(answer, "price"), "serverlessPerVcpu", float),
        )


def _kind(given: object, urls: Mapping[str, str]) -> EndpointKind | None:
    if given in EndpointKind.__members__:
        return EndpointKind(str(given))
    if given is None and urls:  # the description does not require it in answers
        return EndpointKind.LOAD_BALANCER if "base" in urls else EndpointKind.QUEUE
    return None


def _object(answer: _Json, name: str) -> _Json:
    found = answer.get(name)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise TypeError(f"{name} is {found!r}, not an object")
    return found


def _texts(answer: _Json, name: str) -> tuple[str, ...]:
    return tuple(str(entry) for entry in answer.get(name) or ())


def _optional(answer: _Json, name: str, kind: Callable[[Any], T]) -> T | None:
    found = answer.get(name)
    return None if found is None else kind(found)
