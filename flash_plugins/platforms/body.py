# SPDX-License-Identifier: Apache-2.0
"""What an endpoint's config is in REST v2: the body that creates it, every setting explicit. It asks nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..config import EndpointConfig
from ..errors import ConfigError
from ..hardware import CPU_FLAVOR_MIN_VCPU, ServerlessScalerType, cpu_flavors, gpu_pools
from ..resources import PodTemplate
from . import api
from .api import EndpointKind
from .models import VolumeInfo

__all__ = ["DISK_DEFAULT_GB", "Wanted", "endpoint_body", "managed_names", "notes_of"]

#: Container disk of a GPU worker whose user left it open, GB (as in runpod 2.0); a CPU worker gets what it may have.
DISK_DEFAULT_GB: Final = 30
#: What `PodTemplate` has where its user left the disk open, GB.
_TEMPLATE_DISK_GB: Final = PodTemplate().containerDiskInGb
#: REST v2 bodies are JSON, hence `Any`.
_Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One endpoint as it should be on the platform.

    Attributes:
        config: What its user asked for; an image endpoint where `config.image` is set.
        env: Environment that the package itself adds; has `api.PYTHON_ENV` unless the endpoint has an image.
        kind: How it takes requests.
        cargo: Variables with the code that is deployed with it; None leaves those that it has.
        image_args: Start command of an image endpoint; empty for the template's or the image's own.
    """

    config: EndpointConfig
    env: Mapping[str, str] = field(repr=False)
    kind: EndpointKind = EndpointKind.QUEUE
    cargo: Mapping[str, str] | None = field(default=None, repr=False)
    image_args: str = ""

    @property
    def name(self) -> str:
        """Name of the endpoint."""
        return str(self.config.name)


def endpoint_body(
    wanted: Wanted, worker_command: str, *, queue_delay_s: float | None = None, volumes: Sequence[VolumeInfo] = ()
) -> _Body:
    """Return the REST v2 body that creates an endpoint. Every setting is explicit: defaults may move.

    Where a template is named (`PodTemplate(id=…)`), what it may decide is left out unless the user set it.

    Args:
        wanted: The endpoint.
        worker_command: Command line that starts our worker; unused for an endpoint with an image of its own.
        queue_delay_s: The platform's own delay for an endpoint whose scaling was left open.
        volumes: The network volumes of the config, which exist by now.

    Raises:
        ConfigError: Parameters that cannot go together.
    """
    config = wanted.config.for_routes() if wanted.kind is EndpointKind.LOAD_BALANCER else wanted.config
    env = _environment(wanted)
    body: _Body = {
        "name": config.name,
        "type": wanted.kind.value,
        **_container(wanted, env, worker_command),
        "env": _with_list_of_names(env, wanted.cargo or {}, config.template),
        "ports": _ports(wanted.kind, config, env),
        **_scaling(wanted.kind, config, queue_delay_s),
        "timeout": config.execution_timeout_ms or api.NO_EXECUTION_LIMIT_MS,
        "flashboot": "FLASHBOOT" if config.flashboot else "OFF",
        "networkVolumes": [volume.id for volume in volumes],
        "dataCenterIds": _data_centers(config, volumes),
        **_compute(config),
    }
    if config.template is not None and config.template.id:
        body["templateId"] = config.template.id
        for field_name, empty in (("ports", []), ("registry", None), ("image", None), ("disk", None), ("args", "")):
            if body[field_name] == empty:
                del body[field_name]
    return body


def notes_of(wanted: Wanted) -> list[str]:
    """Return what the user should know about parameters that mean something else than they say."""
    config = wanted.config
    notes = [
        f"endpoint {config.name!r}: REST v2 has no workers below {CPU_FLAVOR_MIN_VCPU} vCPUs, so {cpu.value} asks for "
        f"{CPU_FLAVOR_MIN_VCPU} of {cpu.flavor}"
        for cpu in config.cpu
        if cpu.vcpu < CPU_FLAVOR_MIN_VCPU
    ]
    is_called = config.kind is EndpointKind.LOAD_BALANCER
    if wanted.kind is EndpointKind.LOAD_BALANCER and not is_called and config.max_concurrency != 1:
        notes.append(
            f"endpoint {config.name!r}: max_concurrency={config.max_concurrency} has no effect on a load-balanced "
            "endpoint, whose workers take requests as they come; scaler_value says how many each should have"
        )
    return notes


def managed_names(env: Mapping[str, str]) -> tuple[frozenset[str], str | None]:
    """Return the variables of an endpoint that we set, as its environment says, and the template it was made from."""
    try:
        found = json.loads(env.get(api.MANAGED_ENV, "{}"))
        return frozenset(map(str, found.get("env", ()))), found.get("template")
    except (ValueError, AttributeError, TypeError):  # somebody edited it: then nothing is known to be ours
        return frozenset(), None


def _with_list_of_names(
    env: Mapping[str, str], cargo: Mapping[str, str], template: PodTemplate | None
) -> dict[str, str]:
    listed: _Body = {"env": sorted(env)}
    if template is not None and template.id:
        listed["template"] = template.id
    return {**env, **cargo, api.MANAGED_ENV: json.dumps(listed, separators=(",", ":"))}


def _environment(wanted: Wanted) -> dict[str, str]:
    config = wanted.config
    template_env = config.template.variables if config.template is not None else {}
    env = {**template_env, **config.env, **wanted.env}
    if wanted.kind is EndpointKind.LOAD_BALANCER:
        port = env.setdefault(api.PORT_ENV, str(api.BALANCED_PORT_DEFAULT))
        env.setdefault(api.PORT_HEALTH_ENV, port)
        if config.kind is EndpointKind.LOAD_BALANCER:
            env[api.CALLS_AT_ONCE_ENV] = str(config.max_concurrency)
    elif config.image is None or config.max_concurrency != 1:
        env[api.MAX_CONCURRENCY_ENV] = str(config.max_concurrency)
    return env


def _container(wanted: Wanted, env: Mapping[str, str], worker_command: str) -> _Body:
    config, template = wanted.config, wanted.config.template
    if config.image is None:
        if template is not None and template.dockerArgs:
            raise ConfigError(
                f"endpoint {config.name!r}: PodTemplate(dockerArgs={template.dockerArgs!r}) would replace the command "
                "that runs the decorated code; leave it out, or serve an image of your own with Endpoint(image=…)"
            )
        args = worker_command
    else:
        args = wanted.image_args or (template.dockerArgs if template is not None else "")
    return {
        "image": _image(config, env),
        "args": args,
        "disk": _disk_gb(config),
        "registry": (template.containerRegistryAuthId or None) if template is not None else None,
    }


def _image(config: EndpointConfig, env: Mapping[str, str]) -> str | None:
    if config.image is not None:
        return config.image
    here = env[api.PYTHON_ENV]
    if config.python_version not in (None, here):
        raise ConfigError(
            f"endpoint {config.name!r} has python_version={config.python_version!r} and this is Python {here}: code "
            "travels between equal versions only; leave python_version out, or call from that Python"
        )
    template = config.template
    if template is not None and (template.imageName or template.id):
        return template.imageName or None
    return api.CPU_IMAGE.format(python=here) if config.cpu else api.GPU_IMAGE


def _disk_gb(config: EndpointConfig) -> int | None:
    """Container disk: as the template says, else what is usual; never more than a CPU worker may have."""
    template = config.template
    asked = template.containerDiskInGb if template is not None else None
    is_open = asked is None or asked == _TEMPLATE_DISK_GB
    if is_open and template is not None and template.id:
        return None
    if not config.cpu:
        return asked or DISK_DEFAULT_GB
    smallest = min(config.cpu, key=lambda cpu: cpu.max_disk_gb)
    if asked is None or is_open:
        return smallest.max_disk_gb
    if asked > smallest.max_disk_gb:
        raise ConfigError(
            f"endpoint {config.name!r}: PodTemplate(containerDiskInGb={asked}) is more than the {smallest.max_disk_gb} "
            f"GB that a worker of type {smallest.value} may have; ask for less, or for a larger CPU type"
        )
    return asked


def _ports(kind: EndpointKind, config: EndpointConfig, env: Mapping[str, str]) -> list[str]:
    ports = list(config.template.port_list) if config.template is not None else []
    if kind is EndpointKind.LOAD_BALANCER:
        for name in (api.PORT_ENV, api.PORT_HEALTH_ENV):
            if not env[name].isascii() or not env[name].isdigit() or not 0 < int(env[name]) < 65536:
                raise ConfigError(f"endpoint {config.name!r}: its variable {name}={env[name]!r} is no port")
            ports.append(f"{int(env[name])}/http")
    return list(dict.fromkeys(ports))


def _scaling(kind: EndpointKind, config: EndpointConfig, queue_delay_s: float | None) -> _Body:
    workers: dict[str, int] = {"min": config.workers[0], "max": config.workers[1]}
    by_count = config.scaler_type is ServerlessScalerType.REQUEST_COUNT
    if by_count:
        scaling: _Body = {"type": "REQUEST_COUNT", "requestCount": int(config.scaler_value)}
    else:
        is_open = config.has_default_scaling and queue_delay_s is not None
        scaling = {"type": "QUEUE_DELAY", "queueDelay": queue_delay_s if is_open else config.scaler_value}
    if kind is EndpointKind.LOAD_BALANCER or not by_count:  # REST v2 refuses it for a queue with REQUEST_COUNT
        workers["idleTimeout"] = config.idle_timeout
    return {"scaling": scaling, "workers": workers}


def _data_centers(config: EndpointConfig, volumes: Sequence[VolumeInfo]) -> list[str]:
    if volumes:  # workers can be where their volumes are, and nowhere else
        return list(dict.fromkeys(volume.data_center for volume in volumes))
    return [str(center.value) for center in config.datacenter]


def _compute(config: EndpointConfig) -> _Body:
    if config.cpu:
        return {"cpu": cpu_flavors(config.cpu)}
    pools, excluded = gpu_pools(config.gpu)
    gpu: _Body = {
        "pools": list(pools),
        "count": config.gpu_count,
        "minCudaVersion": str(config.min_cuda_version.value),
    }
    if excluded:
        gpu["excludedTypes"] = list(excluded)
    return {"gpu": gpu}
