# SPDX-License-Identifier: Apache-2.0
"""What an endpoint is asked to be, checked once: `EndpointConfig`, and what this process is set to: `Settings`.

Only this module and the command line read the environment; everything else gets values as arguments.
Plain frozen dataclasses: importing pydantic alone costs more than the whole import budget of the package.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

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

if TYPE_CHECKING:
    GpuRequest = GpuType | GpuGroup | str | Sequence[GpuType | GpuGroup | str]
    CpuRequest = CpuInstanceType | str | Sequence[CpuInstanceType | str]

__all__ = ["EndpointConfig", "EndpointParameters", "Settings", "is_ci", "worker_endpoint"]

_Member = TypeVar("_Member", bound=Enum)

#: Parameters of `runpod_flash.Endpoint` that this version does not have yet. Named so that the error can say so.
_NOT_YET = frozenset(
    {
        "accelerate_downloads",
        "dependencies",
        "id",
        "image",
        "python_version",
        "system_dependencies",
        "template",
        "volume",
    }
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\- ]{0,127}")

#: Worker idle time allowed by REST v2, seconds.
_IDLE_TIMEOUT_RANGE_S = (1, 3600)


class EndpointParameters(TypedDict, total=False):
    """Keyword parameters of `Endpoint`; see `EndpointConfig` for meaning, units and defaults."""

    gpu: GpuRequest | None
    cpu: CpuRequest | None
    workers: int | Sequence[int] | None
    idle_timeout: int
    env: Mapping[str, str] | None
    gpu_count: int
    execution_timeout_ms: int
    flashboot: bool
    scaler_type: ServerlessScalerType | str | None
    scaler_value: float
    datacenter: DataCenter | str | Sequence[DataCenter | str] | None
    min_cuda_version: CudaVersion | str
    max_concurrency: int


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """Everything that defines one endpoint, validated. Immutable and hashable by `fingerprint`.

    Attributes:
        name: Name of the endpoint, one endpoint per name. None until a function is decorated.
        gpu: GPU types or groups in order of preference. Empty with `cpu`. Default any GPU.
        cpu: CPU instance types in order of preference. Excludes `gpu`.
        workers: (min, max) workers. Default (0, 1). An integer n means (0, n).
        idle_timeout: Seconds a worker waits for work before it is stopped. Default 60, 1 to 3600.
        env: Environment of the workers. Not part of the fingerprint: changing it recreates nothing.
        gpu_count: GPUs per worker. Default 1.
        execution_timeout_ms: Longest run of one call, milliseconds. Default 0: no limit of ours (the
            platform is told 24 hours, since its own default of 10 minutes would end long calls).
        flashboot: Let Runpod revive stopped workers. Default True. No effect locally.
        scaler_type: QUEUE_DELAY (default) or REQUEST_COUNT.
        scaler_value: QUEUE_DELAY: seconds a request waits before workers are added, at least 0.5.
            REQUEST_COUNT: requests per worker, at least 1. Default 4. Where neither this nor `scaler_type`
            is given the local platform adds workers after half a second: starting one costs nothing there.
        datacenter: Data centers allowed. Default empty: the platform chooses. No effect locally.
        min_cuda_version: Lowest CUDA version of the GPU machines. Default 12.8.
        max_concurrency: Calls that one worker runs at once. Default 1.
        packages: Top-level packages that define what is decorated, no parameter of `Endpoint`: what an adapter
            sends to workers needs the adapter there. Not part of the fingerprint.
        has_default_scaling: Whether neither `scaler_type` nor `scaler_value` was given, no parameter of `Endpoint`.
    """

    name: str | None = None
    gpu: tuple[GpuType | GpuGroup, ...] = ()
    cpu: tuple[CpuInstanceType, ...] = ()
    workers: tuple[int, int] = (0, 1)
    idle_timeout: int = 60
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets
    gpu_count: int = 1
    execution_timeout_ms: int = 0
    flashboot: bool = True
    scaler_type: ServerlessScalerType = ServerlessScalerType.QUEUE_DELAY
    scaler_value: float = 4
    datacenter: tuple[DataCenter, ...] = ()
    min_cuda_version: CudaVersion = CudaVersion.V12_8
    max_concurrency: int = 1
    packages: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    has_default_scaling: bool = field(default=False, repr=False, compare=False)

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
        cpu = parse_cpus(given["cpu"]) if "cpu" in given else ()
        gpu = () if cpu else parse_gpus(given.get("gpu", GpuGroup.ANY))
        scaler = _member(ServerlessScalerType, "scaler_type", given.get("scaler_type", "QUEUE_DELAY"))
        return cls(
            name=_check_name(name),
            gpu=gpu,
            cpu=cpu,
            workers=_check_workers(given.get("workers")),
            idle_timeout=_check_int("idle_timeout", given.get("idle_timeout", 60), *_IDLE_TIMEOUT_RANGE_S, unit="s"),
            env=_check_env(given.get("env", {})),
            gpu_count=_check_int("gpu_count", given.get("gpu_count", 1), 1),
            execution_timeout_ms=_check_execution_timeout(given.get("execution_timeout_ms", 0)),
            flashboot=_check_flashboot(given.get("flashboot", True)),
            scaler_type=scaler,
            scaler_value=_check_scaler_value(scaler, given.get("scaler_value", 4)),
            datacenter=_check_datacenters(given.get("datacenter", ())),
            min_cuda_version=_member(CudaVersion, "min_cuda_version", given.get("min_cuda_version", CudaVersion.V12_8)),
            has_default_scaling=not {"scaler_type", "scaler_value"} & given.keys(),
            max_concurrency=_check_int("max_concurrency", given.get("max_concurrency", 1), 1),
        )

    def with_name(self, name: str) -> EndpointConfig:
        """Return the same config under `name`."""
        return replace(self, name=_check_name(name))

    def with_packages(self, packages: Iterable[str]) -> EndpointConfig:
        """Return the same config with more `packages`."""
        return replace(self, packages=self.packages.union(packages))

    def without_env(self) -> EndpointConfig:
        """Return the same config with an empty `env`."""
        return replace(self, env={})

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


def _check_known(parameters: Mapping[str, Any]) -> None:
    known = list(EndpointParameters.__annotations__)
    for key in parameters:
        if key in known:
            continue
        if key in _NOT_YET:
            raise UnknownParameterError(
                f"Endpoint parameter {key!r} is not supported by this version of flash-plugins yet; "
                f"leave it out. Supported: {', '.join(known)}"
            )
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


def _check_env(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"Endpoint(env=…) is a {type(value).__name__}: give a mapping of strings to strings")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str) or not key or "=" in key or "\0" in key + text:
            raise ConfigError(
                f"Endpoint(env=…): entry {key!r} must be a non-empty string without '=' and its value a string"
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


def _check_flashboot(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"Endpoint(flashboot={value!r}): give True or False")
    return value


def _check_scaler_value(scaler: ServerlessScalerType, value: object) -> float:
    if scaler is ServerlessScalerType.REQUEST_COUNT:
        return _check_int("scaler_value", value, 1, unit="requests per worker (REQUEST_COUNT)")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.5 <= value < float("inf"):
        raise ConfigError(f"Endpoint(scaler_value={value!r}): QUEUE_DELAY takes seconds, at least 0.5")
    return value


def _check_datacenters(value: object) -> tuple[DataCenter, ...]:
    if isinstance(value, str):  # members are strings too
        return (DataCenter.from_string(value),)
    if not isinstance(value, Iterable):
        raise ConfigError(f"Endpoint(datacenter={value!r}): give a DataCenter, its name, or a list of them")
    return tuple(DataCenter.from_string(entry) for entry in value)


def _member(kind: type[_Member], parameter: str, value: object) -> _Member:
    try:
        return kind(value)
    except ValueError:
        allowed = ", ".join(str(member.value) for member in kind)
        raise ConfigError(f"Endpoint({parameter}={value!r}): give one of {allowed}") from None


@dataclass(frozen=True, slots=True)
class Settings:
    """What this process is set to.

    Attributes:
        platform: `local` or `runpod`, None to choose by whether a key is configured.
        platform_source: Where `platform` was set, None if it was not.
        api_key: Runpod API key, None if there is none.
        key_source: Where the key was found.
        api_base: Base URL of REST v2, without `/v2`.
        job_base: Base URL of the job API, without `/v2`.
        progress: `auto`, `on` or `off`.
        package_spec: What workers that are not of this machine install with pip, None for the versions here.
    """

    platform: str | None = None
    platform_source: str | None = None
    api_key: str | None = field(default=None, repr=False)
    key_source: str | None = None
    api_base: str = api.CLOUD_API_BASE
    job_base: str = api.CLOUD_JOB_BASE
    progress: str = "auto"
    package_spec: str | None = None

    @classmethod
    def load(cls, *, platform: str | None = None, progress: str | None = None) -> Settings:
        """Return the settings in force.

        `FLASH_PLATFORM` wins over the `platform` argument, so that a script can be moved without an edit.
        `RUNPOD_API_KEY` wins over `~/.runpod/config.toml`; `RUNPOD_API_BASE_URL` and
        `RUNPOD_ENDPOINT_BASE_URL` mean what they mean to Runpod's own clients (the second ends in `/v2`).
        `FLASH_PLUGINS_SPEC` is what workers in the cloud install.

        Raises:
            ConfigError: A value cannot be used.
        """
        environ = os.environ
        key, key_source = _find_key(environ)
        chosen, source = (environ.get("FLASH_PLATFORM") or None), "FLASH_PLATFORM"
        if chosen is None:
            chosen, source = platform, "flash_plugins.configure"
        return cls(
            platform=chosen,
            platform_source=source if chosen else None,
            api_key=key,
            key_source=key_source,
            api_base=(environ.get("RUNPOD_API_BASE_URL") or api.CLOUD_API_BASE).rstrip("/"),
            job_base=(environ.get("RUNPOD_ENDPOINT_BASE_URL") or api.CLOUD_JOB_BASE).rstrip("/").removesuffix("/v2"),
            package_spec=environ.get(api.PACKAGE_SPEC_ENV, "").strip() or None,
            progress=_check_progress(environ.get("FLASH_PROGRESS") or progress or "auto"),
        )


def is_ci() -> bool:
    """Return whether this process runs in continuous integration (the variable `CI` is set)."""
    return bool(os.environ.get("CI"))


def worker_endpoint() -> str | None:
    """Return the name of the endpoint whose worker this process is, None outside workers."""
    return os.environ.get(api.ENDPOINT_NAME_ENV)


def _check_progress(value: str) -> str:
    if value not in ("auto", "on", "off"):
        raise ConfigError(f"FLASH_PROGRESS (or configure(progress=…)) is {value!r}: give auto, on or off")
    return value


def _find_key(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    if key := environ.get("RUNPOD_API_KEY", "").strip():
        return key, "RUNPOD_API_KEY"
    home = environ.get("HOME")
    if not home:
        return None, None
    path = Path(home) / ".runpod" / "config.toml"
    try:
        found = tomllib.loads(path.read_text()).get("default", {}).get("api_key")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None, None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError, IsADirectoryError) as error:
        raise ConfigError(f"{path} is not a Runpod configuration file ({error}); repair or remove it") from error
    return (found, str(path)) if isinstance(found, str) and found else (None, None)
