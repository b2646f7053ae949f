# SPDX-License-Identifier: Apache-2.0
"""Serverless endpoints as REST v2 describes them: checked, defaulted, merged and shown. It starts nothing.

Rules: Runpod's REST v2 description (2026-08). Differences of the local platform, each with a message that
says so: `args` is needed (an image cannot be run, only "this machine's python"). The settings of a template have
been copied before: see `templates`.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...hardware import GpuGroup, GpuType
from .. import api
from .fields import (
    CONTAINER_CHECKS,
    CUDA_VERSION,
    Check,
    JsonObject,
    Refused,
    array,
    number,
    object_of,
    one_of,
    refuse,
    string,
)
from .scaler import QueueDelay, RequestCount, Scaling

__all__ = ["EndpointSpec", "create_endpoint", "random_id", "update_endpoint"]

_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
#: Most workers of an endpoint; on Runpod an account has a quota. All of them are processes of this machine.
_WORKERS_LIMIT = 1_000
#: Digits of the longest number that a variable may hold.
_COUNT_DIGITS = 15
#: GB of memory per vCPU by the last letter of a CPU flavor (compute, general, memory), from the catalog.
_CPU_MEMORY_GB = {"c": 2, "g": 4, "m": 8}
_PORT_MAX = 65_535
#: Shown in an answer when the endpoint has them.
_OPTIONAL_FIELDS = ("image", "args", "disk", "env", "ports", "registry")


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What one endpoint should be. `fields` is its REST form without what the platform adds."""

    id: str
    created_at: str
    version: int
    fields: JsonObject
    scaling: Scaling = field(init=False)

    def __post_init__(self) -> None:
        wanted = self.fields["scaling"]
        scaling: Scaling = (
            QueueDelay(float(wanted["queueDelay"]))
            if wanted["type"] == "QUEUE_DELAY"
            else RequestCount(wanted["requestCount"])
        )
        object.__setattr__(self, "scaling", scaling)

    @property
    def args(self) -> str:
        """Command line of a worker."""
        return str(self.fields["args"])

    @property
    def env(self) -> Mapping[str, str]:
        """Environment variables of a worker."""
        return self.fields.get("env") or {}

    @property
    def workers_min(self) -> int:
        """Workers that are kept without any job."""
        return int(self.fields["workers"]["min"])

    @property
    def workers_max(self) -> int:
        """Most workers at a time."""
        return int(self.fields["workers"]["max"])

    @property
    def idle_timeout_s(self) -> float:
        """Seconds after which a worker without a job is stopped."""
        return float(self.fields["workers"].get("idleTimeout", api.IDLE_TIMEOUT_DEFAULT_S))

    @property
    def job_timeout_s(self) -> float:
        """Execution timeout of a job that sets none, seconds."""
        return float(self.fields["timeout"]) / 1000

    @property
    def worker_cap(self) -> int | None:
        """Jobs in flight per worker at most; None leaves it to the worker's own loop, as on Runpod."""
        text = self.env.get(api.MAX_CONCURRENCY_ENV)
        return None if text is None else int(text)

    @property
    def is_balanced(self) -> bool:
        """True if requests go straight to its workers, False if jobs wait in a queue."""
        return bool(self.fields["type"] == "LOAD_BALANCER")

    @property
    def health_path(self) -> str:
        """Path at which a load-balanced worker is asked for its health."""
        return self.env.get(api.HEALTH_CHECK_PATH_ENV) or api.HEALTH_CHECK_PATH_DEFAULT

    def to_json(self, base_url: str) -> JsonObject:
        """Return the answer of REST v2 about this endpoint of the platform at `base_url`."""
        fields = self.fields
        answer: JsonObject = {"id": self.id, "name": fields["name"], "type": fields["type"]}
        answer |= {name: fields[name] for name in _OPTIONAL_FIELDS if name in fields}
        if "gpu" in fields:
            answer["gpu"] = {"count": 1, "allowedCudaVersions": [], "minCudaVersion": None, **fields["gpu"]}
        if "cpu" in fields:
            answer["cpu"] = [{**cpu, "memory": _cpu_memory(cpu)} for cpu in fields["cpu"]]
        answer |= {name: fields[name] for name in ("workers", "scaling", "timeout", "flashboot")}
        answer |= {name: fields.get(name, []) for name in ("dataCenterIds", "networkVolumes")}
        answer["requestUrls"] = self._request_urls(base_url)
        answer["createdAt"] = self.created_at
        return answer

    def _request_urls(self, base_url: str) -> JsonObject:
        if self.is_balanced:
            base = base_url + api.LOCAL_BALANCED_PATH.format(id=self.id)
            return {"base": base, "health": base + self.health_path}
        base = f"{base_url}/v2/{self.id}"
        return {
            "run": f"{base}/run",
            "runSync": f"{base}/runsync",
            "status": f"{base}/status/{{job_id}}",
            "stream": f"{base}/stream/{{job_id}}",
            "cancel": f"{base}/cancel/{{job_id}}",
            "retry": f"{base}/retry/{{job_id}}",
            "purgeQueue": f"{base}/purge-queue",
            "health": f"{base}/health",
        }


def random_id() -> str:
    """Return a new id as Runpod's look; never one of REST v2's own path segments."""
    while True:
        new = "".join(secrets.choice(_ID_ALPHABET) for _ in range(14))
        if new not in api.RESERVED_ENDPOINT_IDS:
            return new


def create_endpoint(body: JsonObject, *, created_at: str) -> EndpointSpec:
    """Return the endpoint a create request describes.

    Raises:
        Refused: The request is refused.
    """
    errors = _check_fields(body)
    errors += [f"$: missing property '{name}'" for name in ("name", "type", "scaling", "image") if name not in body]
    gpu = body.get("gpu")
    if isinstance(gpu, dict) and "pools" not in gpu:
        errors.append("$.gpu: missing property 'pools'")
    if isinstance(gpu, dict) and gpu.get("minCudaVersion") == "":
        errors.append("$.gpu.minCudaVersion: '' is not a version such as 12.8")
    if body.get("type") == "LOAD_BALANCER" and _scaling_type(body.get("scaling")) == "QUEUE_DELAY":
        errors.append("$.scaling.type: must be REQUEST_COUNT for a LOAD_BALANCER endpoint")
    refuse(errors)
    workers = {
        "min": api.WORKERS_MIN_DEFAULT,
        # A minimum over the default maximum raises it.
        "max": max(api.WORKERS_MAX_DEFAULT, body.get("workers", {}).get("min", 0)),
        "idleTimeout": api.IDLE_TIMEOUT_DEFAULT_S,
    }
    if body["type"] == "QUEUE" and body["scaling"]["type"] == "REQUEST_COUNT":
        del workers["idleTimeout"]
    fields: JsonObject = {"timeout": api.ENDPOINT_TIMEOUT_DEFAULT_MS, "flashboot": "OFF", **body}
    fields["workers"] = {**workers, **body.get("workers", {})}
    _check_rules(fields)
    return EndpointSpec(id=random_id(), created_at=created_at, version=1, fields=fields)


def update_endpoint(spec: EndpointSpec, patch: JsonObject) -> EndpointSpec:
    """Return what an endpoint becomes by a PATCH; only the given fields change.

    Raises:
        Refused: The request is refused.
    """
    errors = _check_fields(patch)
    if "type" in patch:
        errors.append("$: additional properties 'type' not allowed")
    gpu = patch.get("gpu")
    if isinstance(gpu, dict) and "excludedTypes" in gpu and "pools" not in gpu:
        errors.append("$.gpu: 'excludedTypes' needs 'pools'")
    refuse(errors)
    old = spec.fields
    for family, other in (("gpu", "cpu"), ("cpu", "gpu")):
        if family in patch and (other in patch or other in old):
            raise Refused(400, f"the compute family is fixed: this endpoint cannot change to {family}")
    fields = {**old, **patch}
    fields["workers"] = {**old["workers"], **patch.get("workers", {})}
    is_timeless = old["type"] == "QUEUE" and fields["scaling"]["type"] == "REQUEST_COUNT"
    if is_timeless and "idleTimeout" not in patch.get("workers", {}):
        fields["workers"].pop("idleTimeout", None)
    elif not is_timeless:
        fields["workers"].setdefault("idleTimeout", api.IDLE_TIMEOUT_DEFAULT_S)
    if "gpu" in patch:
        fields["gpu"] = _merged_gpu(old.get("gpu", {}), patch["gpu"])
    _check_rules(fields)
    is_release = any(fields.get(name) != old.get(name) for name in api.RELEASE_FIELDS)
    return replace(spec, fields=fields, version=spec.version + is_release)


def _merged_gpu(old: JsonObject, patch: JsonObject) -> JsonObject:
    kept = {name: value for name, value in old.items() if name != "excludedTypes" or "pools" not in patch}
    merged = {**kept, **patch}
    if merged.get("minCudaVersion") == "":
        merged["minCudaVersion"] = None
    return merged


def _cpu_memory(cpu: JsonObject) -> int:
    return int(cpu["vcpuCount"]) * _CPU_MEMORY_GB.get(str(cpu["id"])[-1], 2)


def _check_rules(fields: JsonObject) -> None:
    """Check what concerns more than one field."""
    is_balanced = fields["type"] == "LOAD_BALANCER"
    if is_balanced and fields["scaling"]["type"] != "REQUEST_COUNT":
        raise Refused(400, "a LOAD_BALANCER endpoint scales by REQUEST_COUNT only, not by QUEUE_DELAY")
    if "gpu" in fields and "cpu" in fields:
        raise Refused(400, "an endpoint has either gpu or cpu, not both: leave one out")
    if "gpu" not in fields and "cpu" not in fields:
        raise Refused(400, 'an endpoint needs gpu or cpu, such as cpu: [{"id": "cpu3c", "vcpuCount": 2}]')
    workers = fields["workers"]
    if workers["max"] < workers["min"]:
        raise Refused(400, f"workers.max ({workers['max']}) is below workers.min ({workers['min']})")
    if workers["max"] > _WORKERS_LIMIT:
        raise Refused(400, f"workers.max ({workers['max']}) is over what the local platform starts: {_WORKERS_LIMIT}")
    if not is_balanced and fields["scaling"]["type"] == "REQUEST_COUNT" and "idleTimeout" in workers:
        raise Refused(400, "workers.idleTimeout does not apply to a QUEUE endpoint with REQUEST_COUNT")
    gpu = fields.get("gpu", {})
    if gpu.get("allowedCudaVersions") and gpu.get("minCudaVersion"):
        raise Refused(400, "gpu.allowedCudaVersions and gpu.minCudaVersion exclude each other")
    _check_exclusions(gpu.get("pools", []), gpu.get("excludedTypes", []))
    try:
        words = shlex.split(fields.get("args", ""))
    except ValueError as error:
        raise Refused(400, f"args is not a command line: {error}") from error
    if not _is_process_text(fields.get("args", "")):
        raise Refused(400, "args is not a command line: it has a NUL, or half of a surrogate pair")
    if not words:
        raise Refused(
            400,
            "args is missing: the local platform runs args as the worker's command line and takes the image as "
            'this machine\'s python, for example args: "python /path/worker.py"',
        )
    _check_environment(fields.get("env", {}), is_balanced=is_balanced)


def _check_exclusions(pools: list[str], excluded: list[str]) -> None:
    """Check that excluded GPU types are of the pools, and leave one; pools that we do not know may hold any."""
    if any(pool not in set(GpuGroup.all()) for pool in pools):
        return
    held = {gpu.value for gpu in GpuType.all() if gpu.pool in pools}
    for name in excluded:
        if name.strip() not in held:
            raise Refused(400, f"gpu.excludedTypes: {name[:100]!r} is no GPU type of {', '.join(pools)}")
    if held and held <= {name.strip() for name in excluded}:
        raise Refused(400, f"gpu.excludedTypes leaves no GPU type of {', '.join(pools)}")


def _check_environment(env: Mapping[str, str], *, is_balanced: bool) -> None:
    """Check the variables that mean something to the platform."""
    for name, text in env.items():
        if not name or "=" in name or not _is_process_text(name + text):
            problem = "a name is not empty and has no '='; neither it nor the value has NUL or half of a surrogate pair"
            raise Refused(400, f"env variable {name[:100]!r} cannot be set: {problem}")
    ports = (api.PORT_ENV, api.PORT_HEALTH_ENV) if is_balanced else ()
    for name in (api.MAX_CONCURRENCY_ENV, api.INIT_TIMEOUT_ENV, api.PING_INTERVAL_ENV, *ports):
        value = env.get(name)
        if value is not None and not _is_count(value):
            raise Refused(400, f"env.{name} must be a whole number of at least 1, not {value[:100]!r}")
    for name in ports:
        if int(env.get(name, "1")) > _PORT_MAX:
            raise Refused(400, f"env.{name} must be a port, at most {_PORT_MAX}, not {env[name]}")
    path = env.get(api.HEALTH_CHECK_PATH_ENV)
    if is_balanced and path and not path.startswith("/"):
        raise Refused(400, f"env.{api.HEALTH_CHECK_PATH_ENV} must start with a slash, not {path!r}")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _COUNT_DIGITS and int(text) >= 1


def _is_process_text(text: str) -> bool:
    """Return whether a process can be given a text as argument or variable."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _check_fields(body: JsonObject) -> list[str]:
    return object_of(_FIELDS)(body, "$")


def _scaling(value: Any, path: str) -> list[str]:
    kind = _scaling_type(value)
    errors = one_of("QUEUE_DELAY", "REQUEST_COUNT")(kind, f"{path}.type")
    if errors:
        return errors
    is_delay = kind == "QUEUE_DELAY"
    amount = "queueDelay" if is_delay else "requestCount"
    check = number(api.QUEUE_DELAY_MIN_S, is_whole=False) if is_delay else number(1)
    return object_of({"type": string(), amount: check}, required=(amount,))(value, path)


def _scaling_type(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else None


def _power_of_two(value: Any, path: str) -> list[str]:
    errors = number(2)(value, path)
    return errors if errors or int(value).bit_count() == 1 else [f"{path}: must be a power of two, not {value}"]


_FIELDS: Mapping[str, Check] = {
    **CONTAINER_CHECKS,
    "name": string(at_least=1),
    "type": one_of("QUEUE", "LOAD_BALANCER"),
    "scaling": _scaling,
    "gpu": object_of(
        {
            "pools": array(string(), at_least=1),
            "excludedTypes": array(string(at_least=1), is_unique=True),
            "count": number(1),
            "allowedCudaVersions": array(string(at_least=1, pattern=CUDA_VERSION)),
            "minCudaVersion": string(pattern=CUDA_VERSION),
        }
    ),
    "cpu": array(
        object_of({"id": string(at_least=1), "vcpuCount": _power_of_two}, required=("id", "vcpuCount")),
        at_least=1,
        is_unique=True,
    ),
    "workers": object_of(
        {
            "min": number(0),
            "max": number(0),
            "idleTimeout": number(api.IDLE_TIMEOUT_MIN_S, api.IDLE_TIMEOUT_MAX_S),
        }
    ),
    "dataCenterIds": array(string()),
    "networkVolumes": array(string()),
    "timeout": number(1),
    "flashboot": one_of("OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"),
}
