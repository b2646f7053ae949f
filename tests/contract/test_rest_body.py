# SPDX-License-Identifier: Apache-2.0
"""What we send to REST v2, against Runpod's own description of it.

The description is not ours to ship: its path comes from the variable RUNPOD_OPENAPI, else it is looked for beside
the checkout. Without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from flash_plugins import (
    ConfigError,
    CpuInstanceType,
    CudaVersion,
    DataCenter,
    EndpointConfig,
    GpuGroup,
    GpuType,
    NetworkVolume,
    PodTemplate,
)
from flash_plugins.config import EndpointParameters
from flash_plugins.dispatcher.session import _worker_env
from flash_plugins.platforms import api
from flash_plugins.platforms.api import EndpointKind
from flash_plugins.platforms.body import Wanted, endpoint_body, managed_names, notes_of
from flash_plugins.platforms.changes import difference_of
from flash_plugins.platforms.models import EndpointInfo, VolumeInfo
from tests.support import ROOT

#: The Python of the caller whose endpoints these are.
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@cache
def description() -> dict[str, Any]:
    path = os.environ.get("RUNPOD_OPENAPI") or ROOT.parent / "shared" / "reference" / "runpod-openapi-v2.json"
    if not os.path.exists(path):
        pytest.skip(f"no description of REST v2 at {path}; set RUNPOD_OPENAPI")
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """Check against one schema of the description."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": description()["components"]}
    return jsonschema.Draft202012Validator(schema)


def problems(name: str, body: Mapping[str, Any]) -> list[str]:
    travelled = json.loads(json.dumps(body, allow_nan=False))
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(travelled)]


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\- ]{0,127}", fullmatch=True)
words = st.from_regex(r"[a-z][a-z0-9\-]{0,20}", fullmatch=True)
variables = st.dictionaries(
    st.from_regex(r"[A-Z_]{1,20}", fullmatch=True), st.text(st.characters(exclude_characters="\0"))
)
gpus = st.sampled_from([*GpuGroup, *GpuType])
images = st.sampled_from(["vllm/vllm-openai:latest", "ghcr.io/me/mine@sha256:abc", "python:3.12"])
#: What a process of ours adds to the environment.
OURS = {api.DEPENDENCIES_ENV: '["numpy"]', api.SYSTEM_DEPENDENCIES_ENV: '["ffmpeg"]', api.ACCELERATE_ENV: "0"}


@st.composite
def volumes(draw: st.DrawFn) -> list[NetworkVolume]:
    """Volumes by name or by id, one for each data center."""
    places = draw(st.lists(st.sampled_from(DataCenter), min_size=1, max_size=3, unique=True))
    made = []
    for place in places:
        known_by = {"name": draw(words)} if draw(st.booleans()) else {"id": draw(words)}
        made.append(NetworkVolume(size=draw(st.integers(10, 4096)), datacenter=place, **known_by))
    return made


@st.composite
def templates(draw: st.DrawFn, *, has_image: bool, disk_limit_gb: int) -> PodTemplate:
    """Any template that an endpoint may have; start commands only with an image."""
    port = st.integers(1, 65535).map(str)
    ports = draw(st.lists(st.builds("{}/{}".format, port, st.sampled_from(["http", "tcp"])), max_size=3))
    return PodTemplate(
        id=draw(st.none() | words),
        name=draw(st.just("") | words),
        imageName=draw(st.just("") | images),
        containerDiskInGb=draw(st.none() | st.just(64) | st.integers(1, disk_limit_gb)),
        containerRegistryAuthId=draw(st.just("") | words),
        dockerArgs=draw(st.sampled_from(["", "--model mine --port 80"])) if has_image else "",
        env=draw(variables),
        ports=ports if draw(st.booleans()) else ",".join(ports),
    )


@st.composite
def configs(draw: st.DrawFn, *, family: str | None = None) -> EndpointConfig:
    """Any endpoint of a name that we allow, by all parameters."""
    parameters: dict[str, Any] = {}
    disk_limit_gb = 2_000
    if (family or draw(st.sampled_from(["gpu", "cpu", "neither"]))) == "cpu":
        parameters["cpu"] = draw(st.lists(st.sampled_from(CpuInstanceType), min_size=1, max_size=5))
        disk_limit_gb = min(cpu.max_disk_gb for cpu in parameters["cpu"])
    else:
        parameters["gpu"] = draw(st.none() | gpus | st.lists(gpus, min_size=1, max_size=5))
    low = draw(st.integers(0, 5))
    by_count = draw(st.booleans())
    image = draw(st.none() | images)
    volume = draw(st.none() | volumes())
    centers = draw(st.lists(st.sampled_from(DataCenter), max_size=4))
    parameters |= {
        "workers": (low, low + draw(st.integers(0, 50))),
        "idle_timeout": draw(st.integers(1, 3600)),
        "dependencies": draw(st.sampled_from([None, "auto", ["numpy==2.1.0", "pillow[extra]"]])),
        "system_dependencies": draw(st.sampled_from([None, ["ffmpeg"]])),
        "accelerate_downloads": draw(st.booleans()),
        "volume": volume,
        "env": draw(variables),
        "gpu_count": draw(st.integers(1, 8)),
        "execution_timeout_ms": draw(st.just(0) | st.integers(5_000, 604_800_000)),
        "flashboot": draw(st.booleans()),
        "image": image,
        "scaler_type": "REQUEST_COUNT" if by_count else "QUEUE_DELAY",
        "scaler_value": draw(st.integers(1, 100) if by_count else st.integers(1, 60) | st.floats(0.5, 600)),
        "datacenter": [*centers, *(place for one in volume or () if (place := one.place))] if centers else [],
        "template": draw(st.none() | templates(has_image=image is not None, disk_limit_gb=disk_limit_gb)),
        "min_cuda_version": draw(st.sampled_from(CudaVersion)),
        "python_version": draw(st.sampled_from([None, PYTHON])),
        "max_concurrency": draw(st.integers(1, 100)),
        "transport": None if image is not None else draw(st.sampled_from(["queue", "load_balanced"])),
    }
    if parameters["transport"] == "load_balanced" and not by_count:
        del parameters["scaler_type"], parameters["scaler_value"]
    # A new one needs a line here; an endpoint of an id is not provisioned.
    left_out = {"gpu", "cpu", "id", "scaler_type", "scaler_value"}
    assert set(parameters) | left_out == set(EndpointParameters.__annotations__)
    if "scaler_type" in parameters and not by_count and draw(st.booleans()):
        del parameters["scaler_type"], parameters["scaler_value"]
    return EndpointConfig.from_parameters(draw(names), parameters)


kinds = st.sampled_from(EndpointKind)
cargos = st.none() | st.just({f"{api.CARGO_ENV_PREFIX}0": "abc", f"{api.CARGO_ENV_PREFIX}1": "def"})


def wanted_of(
    config: EndpointConfig,
    *,
    kind: EndpointKind = EndpointKind.QUEUE,
    streams: bool = False,
    cargo: Mapping[str, str] | None = None,
) -> Wanted:
    """The endpoint; one that could not have routes is a queue, unless its calls go through a load balancer."""
    if config.kind is EndpointKind.LOAD_BALANCER:
        kind = config.kind
    elif kind is EndpointKind.LOAD_BALANCER:
        try:
            config.for_routes()
        except ConfigError:
            kind = EndpointKind.QUEUE
    ours = OURS if config.dependencies else {}
    return Wanted(config, {**_worker_env(str(config.name), streams=streams), **ours}, kind, cargo)


def body_of(wanted: Wanted, *, command: str = api.WORKER_COMMAND) -> dict[str, Any]:
    found = [
        VolumeInfo(one.id or f"vol-{one.name}", one.name or "its name", one.size, str(one.place), "STANDARD")
        for one in wanted.config.volume
    ]
    return endpoint_body(wanted, command, volumes=found)


@pytest.fixture(autouse=True)
def is_described() -> None:
    description()


many = settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow], deadline=None)
few = settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
some = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
commands = st.sampled_from([api.WORKER_COMMAND, "python -m my.worker"])


@many
@given(configs(), kinds, st.booleans(), commands, cargos)
def test_every_endpoint_is_created_with_a_valid_body(
    config: EndpointConfig, kind: EndpointKind, streams: bool, command: str, cargo: dict[str, str] | None
) -> None:
    body = body_of(wanted_of(config, kind=kind, streams=streams, cargo=cargo), command=command)
    assert problems("CreateEndpointRequest", body) == []


@some
@given(configs(), kinds)
def test_rules_that_the_schema_leaves_to_words_are_kept(config: EndpointConfig, kind: EndpointKind) -> None:
    wanted = wanted_of(config, kind=kind)
    body = body_of(wanted)
    is_balanced = wanted.kind is EndpointKind.LOAD_BALANCER
    assert ("gpu" in body) != ("cpu" in body)
    is_by_count = body["scaling"]["type"] == "REQUEST_COUNT"
    assert is_by_count or not is_balanced
    assert ("idleTimeout" in body["workers"]) == (is_balanced or not is_by_count)
    if "gpu" in body:
        pools = {GpuGroup(pool) for pool in body["gpu"]["pools"]}
        excluded = {GpuType(gpu) for gpu in body["gpu"].get("excludedTypes", [])}
        assert all(gpu.pool in pools for gpu in excluded)
        assert all(set(pool.types) - excluded for pool in pools), "nothing is left of a pool"
        assert "allowedCudaVersions" not in body["gpu"]
    else:
        assert all(flavor["vcpuCount"] & (flavor["vcpuCount"] - 1) == 0 for flavor in body["cpu"])
        assert body.get("disk", 0) <= min(cpu.max_disk_gb for cpu in config.cpu)
    assert config.env.items() <= body["env"].items() or set(config.env) & set(wanted.env)
    assert len(body["networkVolumes"]) == len(config.volume)
    for volume in config.volume:
        assert str(volume.place) in body["dataCenterIds"]
    if is_balanced:
        assert f"{body['env'][api.PORT_ENV]}/http" in body["ports"]
        assert f"{body['env'][api.PORT_HEALTH_ENV]}/http" in body["ports"]
    elif config.image is None:
        assert body["env"][api.MAX_CONCURRENCY_ENV] == str(config.max_concurrency)
    if config.image is not None:
        assert body["image"] == config.image
        assert body.get("args", "") == (config.template.dockerArgs if config.template else "")
    else:
        assert body["args"] == api.WORKER_COMMAND
        assert ("image" in body) or "templateId" in body


def as_listed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The endpoint as REST v2 lists it after a POST of `body`, going by the description of its answers."""
    urls = ("run", "runSync", "status", "stream", "cancel", "retry", "purgeQueue", "health")
    base = {"base": "https://abc123.api.runpod.ai", "health": "https://abc123.api.runpod.ai/ping"}
    listed: dict[str, Any] = {
        # Of the template, if there is one.
        "image": "some/image:tag",
        "disk": 20,
        "args": "",
        "ports": [],
        "registry": None,
        **json.loads(json.dumps({name: value for name, value in body.items() if name != "templateId"})),
        "id": "abc123",
        "createdAt": "2026-01-01T00:00:00Z",
        "requestUrls": base
        if body["type"] == "LOAD_BALANCER"
        else {name: f"https://api.runpod.ai/v2/abc123/{name}" for name in urls},
    }
    if "gpu" in listed:
        listed["gpu"] = {"allowedCudaVersions": [], "minCudaVersion": None, **listed["gpu"]}
    for flavor in listed.get("cpu", ()):
        flavor["memory"] = 8
    return listed


def meddled(listed: Mapping[str, Any]) -> dict[str, Any]:
    """The same endpoint as a platform may show it: more variables, other orders, other numbers."""
    env = {"RUNPOD_ENDPOINT_ID": "abc123", **listed["env"], "PUBLIC_KEY": "ssh-ed25519 …"}
    shown = {**listed, "env": env, "timeout": float(listed["timeout"]), "aFieldOfTomorrow": [1]}
    for name in ("ports", "dataCenterIds", "networkVolumes", "cpu"):
        if name in shown:
            shown[name] = list(reversed(shown[name]))
    if "gpu" in shown:
        gpu = {**shown["gpu"], "pools": list(reversed(shown["gpu"]["pools"]))}
        gpu["excludedTypes"] = [f" {one} " for one in reversed(gpu.get("excludedTypes", []))]
        shown["gpu"] = gpu
    if shown["flashboot"] == "FLASHBOOT":
        shown["flashboot"] = "PRIORITY_FLASHBOOT"
    return shown


def patched(listed: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The endpoint after a PATCH, going by the description."""
    changed = {**listed, **{name: value for name, value in patch.items() if name != "templateId"}}
    if "gpu" in patch:
        kept = dict(listed["gpu"])
        if "pools" in patch["gpu"]:
            kept.pop("excludedTypes", None)
        changed["gpu"] = {**kept, **patch["gpu"]}
    return as_listed({**changed, "type": listed["type"]})


@some
@given(configs(), kinds, cargos)
def test_an_endpoint_that_is_listed_as_it_was_made_is_not_patched(
    config: EndpointConfig, kind: EndpointKind, cargo: dict[str, str] | None
) -> None:
    body = body_of(wanted_of(config, kind=kind, cargo=cargo))
    listed = as_listed(body)
    assert problems("Endpoint", listed) == []
    assert difference_of(listed, body).patch == {}
    assert difference_of(meddled(listed), body).patch == {}
    assert EndpointInfo.parse(listed).name == config.name


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Wanted, Wanted]:
    family, kind = draw(st.sampled_from(["gpu", "cpu"])), draw(kinds)
    old, new = draw(configs(family=family)), draw(configs(family=family))
    return (
        wanted_of(old, kind=kind, cargo=draw(cargos)),
        wanted_of(new.with_name(str(old.name)), kind=kind, cargo=draw(cargos)),
    )


@some
@given(pairs())
def test_every_change_is_a_valid_patch_after_which_nothing_is_left_to_change(pair: tuple[Wanted, Wanted]) -> None:
    old, new = pair
    assume(old.kind is new.kind)
    listed, body = meddled(as_listed(body_of(old))), body_of(new)
    difference = difference_of(listed, body, keeps_cargo=new.cargo is None)
    assert problems("UpdateEndpointRequest", difference.patch) == []
    assert not {"name", "type"} & set(difference.patch)
    assert bool(difference.patch) == bool(difference.changes)
    after = patched(listed, difference.patch)
    assert difference_of(after, body, keeps_cargo=new.cargo is None).patch == {}
    if "templateId" not in difference.patch:
        assert after["env"]["PUBLIC_KEY"] == "ssh-ed25519 …", "not ours to remove"
    ours, _ = managed_names(after["env"])
    cargo = {name for name in after["env"] if name.startswith(api.CARGO_ENV_PREFIX)}
    assert cargo == set(old.cargo or {} if new.cargo is None else new.cargo)
    if "env" in difference.patch:
        assert ours == set(body["env"]) - set(new.cargo or {}) - {api.MANAGED_ENV}
        assert set(after["env"]) - ours - cargo <= {"RUNPOD_ENDPOINT_ID", "PUBLIC_KEY", api.MANAGED_ENV}


@few
@given(pairs())
def test_what_a_change_says_holds_no_value_of_the_environment(pair: tuple[Wanted, Wanted]) -> None:
    old, new = ({"SECRET": secret} for secret in ("s3cret", "t0psecret"))
    listed = as_listed({**body_of(pair[0]), "env": old})
    text = str(difference_of(listed, {**body_of(pair[1]), "env": new}))
    assert "SECRET" in text
    assert "s3cret" not in text
    assert "t0psecret" not in text


def test_what_a_change_says_holds_no_start_command() -> None:
    old, new = ({"args": f"serve --token {token}"} for token in ("s3cret", "t0psecret"))
    difference = difference_of(old, {**new, "env": {}})
    assert difference.patch == new
    assert str(difference) == "args replaces its workers"


def test_a_start_command_that_stays_is_not_sent_with_another_change() -> None:
    difference = difference_of({"args": "serve", "env": {"A": "1"}}, {"args": "serve", "env": {"A": "2"}})
    assert difference.patch == {"env": {"A": "2"}}
    assert difference_of({"args": None, "env": {}}, {"args": "", "env": {}}).patch == {}


@pytest.mark.parametrize(
    ("parameters", "kind", "words"),
    [
        ({"template": PodTemplate(dockerArgs="python x.py")}, "QUEUE", "dockerArgs"),
        ({"python_version": "3.14" if PYTHON != "3.14" else "3.13"}, "QUEUE", f"python_version.*{PYTHON}"),
        ({"cpu": "cpu3c-2-4", "template": PodTemplate(containerDiskInGb=21)}, "QUEUE", "20 GB.*cpu3c-2-4"),
        ({"scaler_type": "QUEUE_DELAY"}, "LOAD_BALANCER", "REQUEST_COUNT"),
        ({"env": {"PORT": "http"}}, "LOAD_BALANCER", "PORT"),
        ({"env": {"PORT_HEALTH": "70000"}}, "LOAD_BALANCER", "PORT_HEALTH"),
    ],
)
def test_what_cannot_go_together_is_refused_by_us_first(parameters: dict[str, Any], kind: str, words: str) -> None:
    config = EndpointConfig.from_parameters("e", parameters)
    with pytest.raises(ConfigError, match=words):
        endpoint_body(Wanted(config, {api.PYTHON_ENV: PYTHON}, EndpointKind(kind)), api.WORKER_COMMAND)


def test_a_wrong_body_is_noticed() -> None:
    body = body_of(wanted_of(EndpointConfig.from_parameters("e", {})))
    assert problems("CreateEndpointRequest", {**body, "bogus": 1})
    assert problems("CreateEndpointRequest", {**body, "gpu": {"count": 1}})
    assert problems("UpdateEndpointRequest", {"workers": {"min": -1}})


def test_the_default_endpoint_in_full() -> None:
    body = body_of(wanted_of(EndpointConfig.from_parameters("e", {})))
    env = body.pop("env")
    assert body == {
        "name": "e",
        "type": "QUEUE",
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
        "image": "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404",
        "args": api.WORKER_COMMAND,
        "disk": 30,
        "ports": [],
        "registry": None,
        "workers": {"min": 0, "max": 1, "idleTimeout": 60},
        "timeout": 86_400_000,
        "flashboot": "FLASHBOOT",
        "dataCenterIds": [],
        "networkVolumes": [],
        "gpu": {"pools": [group.value for group in GpuGroup.all()], "count": 1, "minCudaVersion": "12.8"},
    }
    ours = {api.PYTHON_ENV, api.ENDPOINT_NAME_ENV, api.MAX_CONCURRENCY_ENV}
    assert ours <= set(env)
    assert managed_names(env) == (frozenset(env) - {api.MANAGED_ENV}, None)


def test_a_load_balanced_endpoint_in_full() -> None:
    config = EndpointConfig.from_parameters("api", {"cpu": "cpu5c-2-4", "workers": (1, 5), "env": {"A": "1"}})
    body = endpoint_body(Wanted(config, {api.PYTHON_ENV: "3.12"}, EndpointKind.LOAD_BALANCER), "start")
    assert problems("CreateEndpointRequest", body) == []
    assert body["type"] == "LOAD_BALANCER"
    assert body["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 4}
    assert body["workers"] == {"min": 1, "max": 5, "idleTimeout": 60}
    assert (body["ports"], body["disk"], body["image"]) == (["80/http"], 30, "python:3.12-slim")
    assert body["args"] == "start"
    assert {"PORT": "80", "PORT_HEALTH": "80", "A": "1"}.items() <= body["env"].items()
    assert api.MAX_CONCURRENCY_ENV not in body["env"]


def test_a_load_balanced_endpoint_of_functions_in_full() -> None:
    parameters = {"cpu": "cpu5c-2-4", "workers": 5, "transport": "load_balanced", "max_concurrency": 8}
    config = EndpointConfig.from_parameters("calls", parameters)
    wanted = Wanted(config, {api.PYTHON_ENV: "3.12"}, config.kind)
    body = endpoint_body(wanted, "start")
    assert problems("CreateEndpointRequest", body) == []
    assert body["type"] == "LOAD_BALANCER"
    assert body["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 8}
    assert body["workers"] == {"min": 0, "max": 5, "idleTimeout": 60}
    assert body["ports"] == ["80/http"]
    assert {"PORT": "80", api.CALLS_AT_ONCE_ENV: "8"}.items() <= body["env"].items()
    assert api.MAX_CONCURRENCY_ENV not in body["env"]
    assert notes_of(wanted) == []


def test_an_image_endpoint_in_full() -> None:
    template = PodTemplate(
        dockerArgs="--port 8000", containerDiskInGb=200, containerRegistryAuthId="r1", env={"A": "1"}
    )
    config = EndpointConfig.from_parameters(
        "vllm", {"image": "vllm/vllm-openai:latest", "template": template, "env": {"A": "2", "PORT": "8000"}}
    )
    body = endpoint_body(Wanted(config, {}, EndpointKind.LOAD_BALANCER), "unused")
    assert problems("CreateEndpointRequest", body) == []
    assert (body["image"], body["args"], body["disk"]) == ("vllm/vllm-openai:latest", "--port 8000", 200)
    assert (body["registry"], body["ports"]) == ("r1", ["8000/http"])
    assert {"A": "2", "PORT": "8000", "PORT_HEALTH": "8000"}.items() <= body["env"].items()


def test_a_template_of_an_id_decides_what_the_user_left_open() -> None:
    config = EndpointConfig.from_parameters("e", {"template": PodTemplate(id="tpl1", env={"A": "1"})})
    body = endpoint_body(Wanted(config, {api.PYTHON_ENV: PYTHON}), "start")
    assert problems("CreateEndpointRequest", body) == []
    assert body["templateId"] == "tpl1"
    assert not {"image", "disk", "ports", "registry"} & set(body)
    assert body["args"] == "start"
    listed = as_listed({**body, "env": {**body["env"], "OF_THE_TEMPLATE": "1"}})
    assert difference_of(listed, body).patch == {}
    other = EndpointConfig.from_parameters("e", {"template": PodTemplate(id="tpl2")})
    difference = difference_of(listed, endpoint_body(Wanted(other, {api.PYTHON_ENV: PYTHON}), "start"))
    assert difference.patch["templateId"] == "tpl2"
    assert str(difference) == "template tpl1 → tpl2 replaces its workers"


def test_what_is_no_longer_wanted_is_taken_back() -> None:
    config = EndpointConfig.from_parameters("e", {})
    body = body_of(wanted_of(config))
    listed = {**as_listed(body), "registry": "r1", "ports": ["22/tcp"], "networkVolumes": ["v1"], "args": "mine"}
    patch = difference_of(listed, body).patch
    assert patch == {"registry": None, "ports": [], "networkVolumes": [], "args": api.WORKER_COMMAND}
    assert problems("UpdateEndpointRequest", patch) == []
    del listed["gpu"]["count"]
    assert "gpu" not in difference_of(listed, body).patch


def test_paths_and_limits_are_those_of_the_description() -> None:
    paths = description()["paths"]
    assert api.SERVERLESS_PATH in paths
    assert {"get", "post"} <= set(paths[api.SERVERLESS_PATH])
    assert {"get", "patch", "delete"} <= set(paths[f"{api.SERVERLESS_PATH}/{{id}}"])
    assert {path.split("/")[2] for path in paths} <= set(api.RESERVED_ENDPOINT_IDS)
    workers = description()["components"]["schemas"]["EndpointWorkers"]["properties"]["idleTimeout"]
    assert (workers["minimum"], workers["maximum"]) == (api.IDLE_TIMEOUT_MIN_S, api.IDLE_TIMEOUT_MAX_S)
    delay = description()["components"]["schemas"]["QueueDelayScaling"]["properties"]["queueDelay"]
    assert delay["minimum"] == api.QUEUE_DELAY_MIN_S
    types = description()["components"]["schemas"]["EndpointType"]["enum"]
    assert set(types) == set(EndpointKind)
