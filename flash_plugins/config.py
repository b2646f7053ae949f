# SPDX-License-Identifier: Apache-2.0
"""What an endpoint is asked to be, checked once: `EndpointConfig`. It sends nothing and reads no environment.

A plain frozen dataclass: importing pydantic alone costs more than the whole import budget of the package.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from .errors import ConfigError, UnknownParameterError
from .hardware import (
    CpuInstanceType,
    CudaVersion,
    DataCenter,
    GpuGroup,
    GpuType,
    ServerlessScalerType,
    parse_cpus,
    parse_gpus,
)
from .platforms import api
from .requirements import parse_dependencies, parse_system_dependencies
from .resources import NetworkVolume, PodTemplate, parse_volumes

if TYPE_CHECKING:
    GpuRequest = GpuType | GpuGroup | str | Sequence[GpuType | GpuGroup | str]
    CpuRequest = CpuInstanceType | str | Sequence[CpuInstanceType | str]

__all__ = ["EndpointConfig", "EndpointParameters"]

_Member = TypeVar("_Member", bound=Enum)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\- ]{0,127}")

_PYTHON = re.compile(r"3\.1[1-9]")

#: Worker idle time allowed by REST v2, seconds.
_IDLE_TIMEOUT_RANGE_S = (1, 3600)


class EndpointParameters(TypedDict, total=False):
    """Keyword parameters of `Endpoint`; see `EndpointConfig` for meaning, units and defaults."""

    id: str | None
    gpu: GpuRequest | None
    cpu: CpuRequest | None
    workers: int | Sequence[int] | None
    idle_timeout: int
    dependencies: Sequence[str] | str | None
    system_dependencies: Sequence[str] | None
    accelerate_downloads: bool
    volume: NetworkVolume | Sequence[NetworkVolume] | None
    datacenter: DataCenter | str | Sequence[DataCenter | str] | None
    env: Mapping[str, str] | None
    gpu_count: int
    execution_timeout_ms: int
    flashboot: bool
    image: str | None
    scaler_type: ServerlessScalerType | str | None
    scaler_value: float
    template: PodTemplate | None
    min_cuda_version: CudaVersion | str
    python_version: str | None
    max_concurrency: int
    transport: Literal["queue", "load_balanced"]


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """Everything that defines one endpoint, validated. Immutable and hashable by `fingerprint`.

    Attributes:
        name: Name of the endpoint, one endpoint per name. None until a function is decorated.
        id: Id of an endpoint that exists: the object is its client, and every other parameter but `name` is left to
            it. Excludes `image`. Default None.
        gpu: GPU types or groups in order of preference. Empty with `cpu`. Default any GPU.
        cpu: CPU instance types in order of preference. Excludes `gpu`.
        workers: (min, max) workers. Default (0, 1). An integer n means (0, n).
        idle_timeout: Seconds a worker waits for work before it is stopped. Default 60, 1 to 3600.
        dependencies: What workers install with pip before the first call: requirements as pip writes them (pins,
            extras, markers), or `"auto"`: what the decorated code imports, in the versions installed here.
            Default none.
        system_dependencies: Debian packages that workers install before the first call. Default none. Skipped
            locally.
        accelerate_downloads: Let workers use faster ways to download packages and models. Default True.
        volume: Network volumes, one per data center; found by name or created. Default none.
        env: Environment of the workers. Not part of the fingerprint: changing it recreates nothing.
        gpu_count: GPUs per worker. Default 1.
        execution_timeout_ms: Longest run of one call, milliseconds. Default 0: no limit of ours (the
            platform is told 24 hours, since its own default of 10 minutes would end long calls).
        flashboot: Let Runpod revive stopped workers. Default True. No effect locally.
        image: Container image that serves the endpoint instead of decorated code: the object is its client.
            Default None.
        scaler_type: QUEUE_DELAY (default) or REQUEST_COUNT.
        scaler_value: QUEUE_DELAY: seconds a request waits before workers are added, at least 0.5.
            REQUEST_COUNT: requests per worker, at least 1. Default 4, and `max_concurrency` where `transport` is
            `"load_balanced"`. Where neither this nor `scaler_type` is given, the local platform adds workers to a
            queue after half a second: starting one costs nothing there.
        datacenter: Data centers allowed. Default empty: all of them, or those of the volumes. No effect locally.
        template: Settings of the container that have no parameter of their own. Default none.
        min_cuda_version: Lowest CUDA version of the GPU machines. Default 12.8.
        python_version: Python of the workers, such as `"3.12"`. Default None: the caller's. Decorated code travels
            between equal versions only.
        max_concurrency: Calls that one worker runs at once. Default 1.
        transport: How calls of decorated functions get to workers. `"queue"` (default): as jobs, which the platform
            keeps until a worker takes them, and runs again where one was lost. `"load_balanced"`: as HTTP requests
            straight to a worker, in less time, up to 30 MB each way, and to a certain worker where that is asked for;
            nothing is kept or repeated by the platform.
        packages: Top-level packages that define what is decorated, no parameter of `Endpoint`: what an adapter
            sends to workers needs the adapter there. Not part of the fingerprint.
        has_default_scaling: Whether neither `scaler_type` nor `scaler_value` was given, no parameter of `Endpoint`.
        has_default_scaler_type: Whether `scaler_type` was not given, no parameter of `Endpoint`.
        lacks_env: Whether there was an `env` which did not travel to this worker, no parameter of `Endpoint`.
    """

    name: str | None = None
    id: str | None = None
    gpu: tuple[GpuType | GpuGroup, ...] = ()
    cpu: tuple[CpuInstanceType, ...] = ()
    workers: tuple[int, int] = (0, 1)
    idle_timeout: int = 60
    dependencies: tuple[str, ...] | Literal["auto"] = ()
    system_dependencies: tuple[str, ...] = ()
    accelerate_downloads: bool = True
    volume: tuple[NetworkVolume, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets
    gpu_count: int = 1
    execution_timeout_ms: int = 0
    flashboot: bool = True
    image: str | None = None
    scaler_type: ServerlessScalerType = ServerlessScalerType.QUEUE_DELAY
    scaler_value: float = 4
    datacenter: tuple[DataCenter, ...] = ()
    template: PodTemplate | None = None
    min_cuda_version: CudaVersion = CudaVersion.V12_8
    python_version: str | None = None
    max_concurrency: int = 1
    transport: Literal["queue", "load_balanced"] = "queue"
    packages: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    has_default_scaling: bool = field(default=False, repr=False, compare=False)
    has_default_scaler_type: bool = field(default=True, repr=False, compare=False)
    lacks_env: bool = field(default=False, repr=False, compare=False)

    @classmethod
    def from_parameters(cls, name: str | None, parameters: Mapping[str, Any]) -> EndpointConfig:
        """Check what a user wrote and return the config.

        Raises:
            UnknownParameterError: A keyword is no parameter; the closest one is suggested.
            ConfigError: A value cannot be used; the message quotes it and says what can.
        """
        _check_known(parameters)
        given = {key: value for key, value in parameters.items() if value is not None}
        if "gpu" in given and "cpu" in given:
            raise ConfigError(
                f"Endpoint(gpu={given['gpu']!r}, cpu={given['cpu']!r}): a worker has either GPUs or a CPU type; "
                "give one of the two"
            )
        _check_client(name, given)
        cpu = parse_cpus(given["cpu"]) if "cpu" in given else ()
        is_gpu_default = "gpu" not in given and not cpu
        gpu = () if cpu or (is_gpu_default and "id" in given) else parse_gpus(given.get("gpu", GpuGroup.ANY))
        transport = _check_transport(given.get("transport", "queue"))
        is_balanced = transport == "load_balanced"
        usual = ServerlessScalerType.REQUEST_COUNT if is_balanced else ServerlessScalerType.QUEUE_DELAY
        scaler = _member(ServerlessScalerType, "scaler_type", given.get("scaler_type", usual))
        concurrency = _check_int("max_concurrency", given.get("max_concurrency", 1), 1)
        volumes = parse_volumes(given["volume"]) if "volume" in given else ()
        if is_balanced and scaler is not usual:
            raise ConfigError(
                f"Endpoint(transport={transport!r}, scaler_type={scaler.value!r}): load-balanced endpoints scale by "
                "REQUEST_COUNT only; leave scaler_type out"
            )
        return cls(
            name=_check_name(name),
            id=_check_text("id", given.get("id")),
            gpu=gpu,
            cpu=cpu,
            workers=_check_workers(given.get("workers")),
            idle_timeout=_check_int("idle_timeout", given.get("idle_timeout", 60), *_IDLE_TIMEOUT_RANGE_S, unit="s"),
            dependencies=_check_dependencies(given.get("dependencies", ())),
            system_dependencies=parse_system_dependencies(given.get("system_dependencies", ())),
            accelerate_downloads=_check_flag("accelerate_downloads", given.get("accelerate_downloads", True)),
            volume=volumes,
            env=_check_env(given.get("env", {}), is_of_image=given.get("image") is not None),
            gpu_count=_check_int("gpu_count", given.get("gpu_count", 1), 1),
            execution_timeout_ms=_check_execution_timeout(given.get("execution_timeout_ms", 0)),
            flashboot=_check_flag("flashboot", given.get("flashboot", True)),
            image=_check_text("image", given.get("image")),
            scaler_type=scaler,
            scaler_value=_check_scaler_value(scaler, given.get("scaler_value", concurrency if is_balanced else 4)),
            datacenter=_check_datacenters(given.get("datacenter", ()), volumes),
            template=_check_template(given.get("template")),
            min_cuda_version=_member(CudaVersion, "min_cuda_version", given.get("min_cuda_version", CudaVersion.V12_8)),
            python_version=_check_python(given.get("python_version")),
            has_default_scaling=not {"scaler_type", "scaler_value"} & given.keys(),
            has_default_scaler_type="scaler_type" not in given,
            max_concurrency=concurrency,
            transport=transport,
        )

    def with_name(self, name: str) -> EndpointConfig:
        """Return the same config under `name`."""
        return replace(self, name=_check_name(name))

    def for_routes(self) -> EndpointConfig:
        """Return the same config for a load-balanced endpoint, which scales by requests in flight.

        Raises:
            ConfigError: Another way of scaling was asked for.
        """
        if not self.has_default_scaler_type and self.scaler_type is not ServerlessScalerType.REQUEST_COUNT:
            raise ConfigError(
                f"endpoint {self.name!r} has routes and scaler_type={self.scaler_type.value!r}: load-balanced "
                "endpoints scale by REQUEST_COUNT only; leave scaler_type out"
            )
        kind = ServerlessScalerType.REQUEST_COUNT
        return replace(self, scaler_type=kind, scaler_value=_check_scaler_value(kind, self.scaler_value))

    @property
    def kind(self) -> api.EndpointKind:
        """How an endpoint with decorated code takes its calls."""
        return api.EndpointKind.LOAD_BALANCER if self.transport == "load_balanced" else api.EndpointKind.QUEUE

    def with_packages(self, packages: Iterable[str]) -> EndpointConfig:
        """Return the same config with more `packages`."""
        return replace(self, packages=self.packages.union(packages))

    def without_env(self) -> EndpointConfig:
        """Return the same config with an empty `env`, noted as lacking it where there was one."""
        return replace(self, env={}, lacks_env=self.lacks_env or bool(self.env))

    def differences(self, other: EndpointConfig) -> list[str]:
        """Return, for each field that defines the endpoint and differs, a clause with both values, none of `env`."""
        found = []
        for spec in fields(self):
            mine, others = getattr(self, spec.name), getattr(other, spec.name)
            if spec.compare and mine != others:
                found.append("env differs" if spec.name == "env" else f"{spec.name} is {mine!r} and {others!r}")
        return found

    @property
    def fingerprint(self) -> str:
        """Hex digest of all but `env` and `packages`: equal configs have equal fingerprints, in every process."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.compare and spec.name != "env"}
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def version(self) -> tuple[object, ...]:
        """What tells one state of an endpoint from another, all that is left out of the fingerprint included.

        For comparison only: it holds values of the environment.
        """
        template = {} if self.template is None else self.template.variables
        variables = (tuple(sorted(env.items())) for env in (self.env, template))
        return (self.fingerprint, *variables, tuple(sorted(self.packages)))

    def require_workers(self) -> None:
        """Refuse a call that no worker could ever run.

        Raises:
            ConfigError: `workers` ends at 0.
        """
        if self.workers[1] == 0:
            raise ConfigError(
                f"endpoint {self.name!r} has workers={self.workers}: no worker may start, so a call would wait "
                "for ever; allow one with workers=1 or workers=(0, 1)"
            )

    def require_python(self) -> None:
        """Refuse code that the workers could not load.

        Raises:
            ConfigError: `python_version` is another one than this process runs.
        """
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        if self.python_version not in (None, here):
            raise ConfigError(
                f"endpoint {self.name!r} has python_version={self.python_version!r}, and this process runs Python "
                f"{here}: functions travel as bytecode, which only an equal version loads; run this program with "
                f"Python {self.python_version}, or leave python_version out"
            )


def _check_known(parameters: Mapping[str, Any]) -> None:
    known = list(EndpointParameters.__annotations__)
    for key in parameters:
        if key in known:
            continue
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
        raise UnknownParameterError(f"Endpoint has no parameter {key!r}; {hint}")


def _check_name(name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"Endpoint name {name!r}: use 1 to 128 letters, digits, '-', '_', '.' or spaces, beginning with a "
            "letter or digit"
        )
    return name


def _check_int(parameter: str, value: object, low: int, high: int | None = None, *, unit: str = "") -> int:
    wanted = f"a whole number from {low}" + (f" to {high}" if high is not None else "") + (f" {unit}" if unit else "")
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise ConfigError(f"Endpoint({parameter}={value!r}): give {wanted}")
    return value


def _check_workers(value: object) -> tuple[int, int]:
    if value is None:
        return (0, 1)
    if isinstance(value, int) and not isinstance(value, bool):
        return (0, _check_int("workers", value, 0))
    if isinstance(value, (tuple, list)) and len(value) == 2:
        low, high = (_check_int("workers", bound, 0) for bound in value)
        if low <= high:
            return (low, high)
        raise ConfigError(f"Endpoint(workers={value!r}): the minimum {low} is above the maximum {high}")
    raise ConfigError(f"Endpoint(workers={value!r}): give the maximum as an integer, or (minimum, maximum)")


#: Bytes of one variable, `NAME=value` and a NUL, that Linux starts no process with (MAX_ARG_STRLEN).
_ENV_ENTRY_LIMIT_BYTES = 131_072
#: Names that shells pass on; dash drops all others without a word.
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _check_env(value: object, *, is_of_image: bool) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"Endpoint(env=…) is a {type(value).__name__}: give a mapping of strings to strings")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str) or not key or "=" in key or "\0" in key + text:
            raise ConfigError(
                f"Endpoint(env=…): entry {key!r} must be a non-empty string without '=' and its value a string"
            )
        size = len(f"{key}={text}".encode(errors="replace")) + 1
        if size >= _ENV_ENTRY_LIMIT_BYTES:
            raise ConfigError(
                f"Endpoint(env=…): entry {key!r} has {size} bytes, and no process starts with a variable of "
                f"{_ENV_ENTRY_LIMIT_BYTES} or more: put it in a file on a volume"
            )
        if not is_of_image and not _SHELL_NAME.fullmatch(key):
            raise ConfigError(
                f"Endpoint(env=…): the shell that starts workers drops {key!r}: name it with letters from A to Z, "
                "digits and '_'"
            )
    return dict(value)


def _check_execution_timeout(value: object) -> int:
    if value == 0 and not isinstance(value, bool):
        return 0
    return _check_int(
        "execution_timeout_ms",
        value,
        api.EXECUTION_TIMEOUT_MIN_MS,
        api.POLICY_MAX_MS,
        unit="ms (0: no limit)",
    )


def _check_flag(parameter: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"Endpoint({parameter}={value!r}): give True or False")
    return value


def _check_client(name: object, given: Mapping[str, Any]) -> None:
    if "id" in given and "image" in given:
        raise ConfigError(
            f"Endpoint(id={given['id']!r}, image={given['image']!r}): an id stands for an endpoint that exists, an "
            "image for one to be created; give one of the two"
        )
    for mode in ("id", "image"):
        if mode in given and "transport" in given:
            raise ConfigError(
                f"Endpoint({mode}={given[mode]!r}, transport={given['transport']!r}): transport says how calls of "
                f"decorated code get to workers, and with {mode} there is none; leave transport out"
            )
    if "image" in given and name is None:
        raise ConfigError(f"Endpoint(image={given['image']!r}): give name=…, under which the endpoint is created")


def _check_transport(value: object) -> Literal["queue", "load_balanced"]:
    if value == "queue" or value == "load_balanced":
        return value
    raise ConfigError(f"Endpoint(transport={value!r}): give one of 'queue', 'load_balanced'")


def _check_text(parameter: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip() or any(map(str.isspace, value))):
        raise ConfigError(f"Endpoint({parameter}={value!r}): give a text without spaces")
    return value


def _check_dependencies(value: object) -> tuple[str, ...] | Literal["auto"]:
    return "auto" if value == "auto" else parse_dependencies(value)


def _check_template(value: object) -> PodTemplate | None:
    if value is not None and not isinstance(value, PodTemplate):
        raise ConfigError(f"Endpoint(template={value!r}) is a {type(value).__name__}: give a PodTemplate")
    return value


def _check_python(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not _PYTHON.fullmatch(value)):
        raise ConfigError(f"Endpoint(python_version={value!r}): give a version such as '3.12', 3.11 or newer")
    return value


def _check_scaler_value(scaler: ServerlessScalerType, value: object) -> float:
    if scaler is ServerlessScalerType.REQUEST_COUNT:
        return _check_int("scaler_value", value, 1, unit="requests per worker (REQUEST_COUNT)")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.5 <= value < float("inf"):
        raise ConfigError(f"Endpoint(scaler_value={value!r}): QUEUE_DELAY takes seconds, at least 0.5")
    return value


def _check_datacenters(value: object, volumes: Sequence[NetworkVolume]) -> tuple[DataCenter, ...]:
    if isinstance(value, str):  # members are strings too
        centers: tuple[DataCenter, ...] = (DataCenter.from_string(value),)
    elif isinstance(value, Iterable):
        centers = tuple(dict.fromkeys(DataCenter.from_string(entry) for entry in value))
    else:
        raise ConfigError(f"Endpoint(datacenter={value!r}): give a DataCenter, its name, or a list of them")
    for volume in volumes:
        if centers and volume.place is not None and volume.place not in centers:
            raise ConfigError(
                f"Endpoint(datacenter={[center.value for center in centers]}): volume {volume.name or volume.id!r} "
                f"is in {volume.place.value}, where no worker may run; add that data center, or move the volume"
            )
    return centers


def _member(kind: type[_Member], parameter: str, value: object) -> _Member:
    try:
        return kind(value)
    except ValueError:
        allowed = ", ".join(str(member.value) for member in kind)
        raise ConfigError(f"Endpoint({parameter}={value!r}): give one of {allowed}") from None
