# SPDX-License-Identifier: Apache-2.0
"""What each construct of Runpod's page "Create endpoints" for Flash asks of REST v2.

That the constructs run: `tests/integration/test_seed_document.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from flash_plugins import CpuInstanceType, DataCenter, Endpoint, GpuGroup, GpuType, NetworkVolume
from flash_plugins.dispatcher.session import _worker_env
from flash_plugins.hardware import gpu_pools
from flash_plugins.platforms import api
from flash_plugins.platforms.api import EndpointKind
from flash_plugins.platforms.body import Wanted
from flash_plugins.platforms.packages import installation_env
from tests.contract.test_rest_body import PYTHON, body_of, problems

Json = dict[str, Any]


@dataclass(frozen=True)
class Construct:
    """One construct of the page."""

    what: str
    parameters: Json
    #: Fields of the body, each as it must be.
    asks: Json = field(default_factory=dict)
    #: Variables that must be among those of the workers.
    env: Json = field(default_factory=dict)
    has_routes: bool = False


def pools_of(*gpus: GpuType | GpuGroup) -> Json:
    """The selection of these types and no other: that it is right, `tests/unit/test_hardware.py` says."""
    pools, excluded = gpu_pools(gpus)
    return {"pools": list(pools), **({"excludedTypes": list(excluded)} if excluded else {})}


GPU: Json = {"count": 1, "minCudaVersion": "12.8"}
ANY = {**GPU, "pools": [group.value for group in GpuGroup.all()]}
RTX_4090 = {**GPU, **pools_of(GpuType.NVIDIA_GEFORCE_RTX_4090)}
A100 = {**GPU, **pools_of(GpuType.NVIDIA_A100_80GB_PCIe)}

CONSTRUCTS = [
    Construct(
        "a function on one type of GPU, with a dependency",
        {"name": "my-inference", "gpu": GpuType.NVIDIA_GEFORCE_RTX_4090, "dependencies": ["torch"]},
        {"type": "QUEUE", "gpu": RTX_4090, "workers": {"min": 0, "max": 1, "idleTimeout": 60}, "image": api.GPU_IMAGE},
        {api.DEPENDENCIES_ENV: ["torch"]},
    ),
    Construct(
        "a queue with up to five workers and two dependencies",
        {
            "name": "image-processor",
            "gpu": GpuType.NVIDIA_GEFORCE_RTX_4090,
            "workers": (0, 5),
            "dependencies": ["torch", "pillow"],
        },
        {
            "type": "QUEUE",
            "gpu": RTX_4090,
            "workers": {"min": 0, "max": 5, "idleTimeout": 60},
            "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
        },
        {api.DEPENDENCIES_ENV: ["torch", "pillow"]},
    ),
    Construct(
        "routes that share one to five workers",
        {
            "name": "inference-api",
            "gpu": GpuType.NVIDIA_GEFORCE_RTX_4090,
            "workers": (1, 5),
            "dependencies": ["torch"],
        },
        {
            "type": "LOAD_BALANCER",
            "gpu": RTX_4090,
            "workers": {"min": 1, "max": 5, "idleTimeout": 60},
            "scaling": {"type": "REQUEST_COUNT", "requestCount": 4},
            "ports": ["80/http"],
        },
        {api.DEPENDENCIES_ENV: ["torch"], "PORT": "80", "PORT_HEALTH": "80"},
        has_routes=True,
    ),
    Construct(
        "an image",
        {"name": "vllm-server", "image": "vllm/vllm-openai:latest", "gpu": GpuType.NVIDIA_A100_80GB_PCIe},
        {"type": "LOAD_BALANCER", "image": "vllm/vllm-openai:latest", "args": "", "gpu": A100},
        has_routes=True,
    ),
    Construct("one type of GPU", {"name": "ml-inference", "gpu": GpuType.NVIDIA_A100_80GB_PCIe}, {"gpu": A100}),
    Construct("another one", {"name": "rtx-worker", "gpu": GpuType.NVIDIA_GEFORCE_RTX_4090}, {"gpu": RTX_4090}),
    Construct(
        "one of two types of GPU",
        {"name": "flexible", "gpu": [GpuType.NVIDIA_GEFORCE_RTX_4090, GpuType.NVIDIA_RTX_A5000]},
        {"gpu": {**GPU, **pools_of(GpuType.NVIDIA_GEFORCE_RTX_4090, GpuType.NVIDIA_RTX_A5000)}},
    ),
    Construct("no hardware at all is any GPU", {"name": "default"}, {"gpu": ANY, "image": api.GPU_IMAGE}),
    *(
        Construct(
            f"a CPU type as a {kind}",
            {"name": "data-processor", "cpu": cpu},
            {"cpu": [{"id": "cpu5c", "vcpuCount": 4}], "image": f"python:{PYTHON}-slim"},
        )
        for kind, cpu in (("text", "cpu5c-4-8"), ("member", CpuInstanceType.CPU5C_4_8))
    ),
    Construct(
        "a maximum of workers",
        {"name": "elastic", "gpu": GpuGroup.ANY, "workers": 5},
        {"gpu": ANY, "workers": {"min": 0, "max": 5, "idleTimeout": 60}},
    ),
    Construct(
        "workers that are always there",
        {"name": "always-on", "gpu": GpuGroup.ANY, "workers": (2, 10)},
        {"workers": {"min": 2, "max": 10, "idleTimeout": 60}},
    ),
    Construct(
        "workers that nobody asked for",
        {"name": "default", "gpu": GpuGroup.ANY},
        {"workers": {"min": 0, "max": 1, "idleTimeout": 60}},
    ),
    Construct(
        "pinned dependencies",
        {
            "name": "text-gen",
            "gpu": GpuType.NVIDIA_A100_80GB_PCIe,
            "dependencies": ["transformers==4.36.0", "torch>=2.0.0", "numpy<2.0"],
        },
        {"gpu": A100},
        {api.DEPENDENCIES_ENV: ["transformers==4.36.0", "torch>=2.0.0", "numpy<2.0"]},
    ),
    Construct(
        "system packages",
        {
            "name": "video-processor",
            "gpu": GpuGroup.ANY,
            "dependencies": ["opencv-python"],
            "system_dependencies": ["libgl1-mesa-glx", "libglib2.0-0"],
        },
        {},
        {
            api.DEPENDENCIES_ENV: ["opencv-python"],
            api.SYSTEM_DEPENDENCIES_ENV: ["libgl1-mesa-glx", "libglib2.0-0"],
        },
    ),
    Construct(
        "variables",
        {
            "name": "api-worker",
            "gpu": GpuGroup.ANY,
            "env": {"HF_TOKEN": "a token", "MODEL_ID": "gpt2"},
        },
        {},
        {"HF_TOKEN": "a token", "MODEL_ID": "gpt2"},
    ),
    Construct(
        "a volume, which says where the workers are",
        {
            "name": "model-server",
            "gpu": GpuGroup.ANY,
            "datacenter": DataCenter.US_GA_2,
            "volume": NetworkVolume(name="model-cache", size=100, datacenter=DataCenter.US_GA_2),
        },
        {"networkVolumes": ["vol-model-cache"], "dataCenterIds": ["US-GA-2"]},
    ),
    Construct(
        "a volume in each of two places",
        {
            "name": "global-server",
            "gpu": GpuGroup.ANY,
            "datacenter": [DataCenter.US_GA_2, DataCenter.EU_RO_1],
            "volume": [
                NetworkVolume(name="models-us", size=100, datacenter=DataCenter.US_GA_2),
                NetworkVolume(name="models-eu", size=100, datacenter=DataCenter.EU_RO_1),
            ],
        },
        {"networkVolumes": ["vol-models-us", "vol-models-eu"], "dataCenterIds": ["US-GA-2", "EU-RO-1"]},
    ),
]


def sent_for(construct: Construct) -> Json:
    """The body that creates the endpoint of a construct."""
    config = Endpoint(**construct.parameters).config
    kind = EndpointKind.LOAD_BALANCER if construct.has_routes else EndpointKind.QUEUE
    ours = {} if config.image else {**_worker_env(str(config.name), streams=False), **installation_env(config)}
    return body_of(Wanted(config, ours, kind))


@pytest.mark.parametrize("construct", CONSTRUCTS, ids=lambda construct: construct.what)
def test_a_construct_asks_for_what_it_says(construct: Construct) -> None:
    body = sent_for(construct)
    assert problems("CreateEndpointRequest", body) == []
    assert {name: body.get(name) for name in construct.asks} == construct.asks
    assert body["name"] == construct.parameters["name"]
    assert body["flashboot"] == "FLASHBOOT"
    assert body["timeout"] == api.NO_EXECUTION_LIMIT_MS
    assert ("gpu" in body) != ("cpu" in body)
    env = {name: _opened(body["env"].get(name)) for name in construct.env}
    assert env == construct.env


def _opened(value: str | None) -> Any:
    """A list that travels as JSON in a variable, or the text."""
    return json.loads(value) if value is not None and value.startswith("[") else value


@pytest.mark.parametrize(
    ("gpus", "kept"),
    [
        ((GpuType.NVIDIA_GEFORCE_RTX_4090,), {"NVIDIA GeForce RTX 4090"}),
        ((GpuType.NVIDIA_A100_80GB_PCIe,), {"NVIDIA A100 80GB PCIe"}),
        (
            (GpuType.NVIDIA_GEFORCE_RTX_4090, GpuType.NVIDIA_RTX_A5000),
            {"NVIDIA GeForce RTX 4090", "NVIDIA RTX A5000"},
        ),
    ],
    ids=str,
)
def test_pools_without_their_other_types_are_the_types_that_were_asked_for(
    gpus: tuple[GpuType, ...], kept: set[str]
) -> None:
    selection = pools_of(*gpus)
    offered = {gpu.value for pool in selection["pools"] for gpu in GpuGroup(pool).types}
    assert offered - set(selection.get("excludedTypes", ())) == kept


def test_an_environment_is_no_part_of_what_an_endpoint_is() -> None:
    make: Callable[..., Any] = Endpoint
    old, new = (make("e", env={"KEY": key}).config for key in ("old", "new"))
    assert old.fingerprint == new.fingerprint
    assert make("e", workers=3).config.fingerprint != old.fingerprint
