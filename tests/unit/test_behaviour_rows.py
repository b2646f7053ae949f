# SPDX-License-Identifier: Apache-2.0
"""What `runpod_flash.Endpoint` does and ours shares, row by row of the table of docs/endpoint.md. Needs no platform.

The other rows: `tests/integration/test_behaviour_rows_local.py`, `tests/unit/client/test_client_rows.py`,
`tests/integration/test_nested_calls.py`, and the tests of the HTTP worker.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import flash_plugins
from flash_plugins import (
    ConfigError,
    CpuInstanceType,
    CudaVersion,
    DataCenter,
    Endpoint,
    GpuGroup,
    GpuType,
    NetworkVolume,
    PodTemplate,
    RemoteClass,
    RemoteFunction,
    ServerlessScalerType,
)

Json = dict[str, Any]

#: Not `Endpoint` itself: what users get wrong, type checkers would refuse here.
make: Callable[..., Any] = Endpoint


# -- 1 to 12: the constructor -------------------------------------------------------------------------------


def test_row_01_only_the_name_is_positional_and_an_unknown_keyword_is_a_type_error() -> None:
    assert make("by-position").name == "by-position"
    with pytest.raises(TypeError):
        make("name", "gpu")
    with pytest.raises(TypeError, match="did you mean 'workers'"):
        make(name="typo", worker=3)


@pytest.mark.parametrize(
    "parameters",
    [
        {"name": "a", "gpu": GpuType.NVIDIA_L4, "cpu": "cpu5c-4-8"},
        {"id": "abc", "image": "acme/model"},
        {"image": "acme/model"},
        {"name": "a", "max_concurrency": 0},
        {"name": "a", "max_concurrency": -1},
    ],
    ids=str,
)
def test_row_02_what_cannot_go_together_is_a_value_error(parameters: Json) -> None:
    with pytest.raises(ValueError, match=r"Endpoint\("):
        make(**parameters)


def test_row_03_gpu_takes_types_groups_lists_and_here_texts_too() -> None:
    for gpu in (
        GpuType.NVIDIA_L4,
        GpuGroup.ADA_24,
        [GpuType.NVIDIA_L4, GpuGroup.ADA_24],
        "4090",
        ["NVIDIA L4", "ADA_24"],
    ):
        assert make("a", gpu=gpu).config.gpu
    wrong: list[Any] = [4090, {"NVIDIA_L4"}, [None], "no such gpu"]
    for value in wrong:
        with pytest.raises(ValueError, match="gpu"):
            make("a", gpu=value)


def test_row_04_cpu_takes_members_their_texts_and_both_in_a_list() -> None:
    both = make("a", cpu=[CpuInstanceType.CPU5C_4_8, "cpu3g-2-8"])
    assert both.config.cpu == (CpuInstanceType.CPU5C_4_8, CpuInstanceType.CPU3G_2_8)
    assert both.is_cpu
    with pytest.raises(ValueError, match="cpu9z-1-1"):
        make("a", cpu="cpu9z-1-1")


def test_row_05_any_gpu_is_the_default_but_a_client_by_id_has_none() -> None:
    assert make("a").config.gpu == (GpuGroup.ANY,)
    assert make(id="abc").config.gpu == ()
    assert not make(id="abc").is_cpu


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        (None, (0, 1)),
        (5, (0, 5)),
        ((2, 10), (2, 10)),
        ([1, 3], (1, 3)),
        ((0, 0), (0, 0)),
        ((3, 3), (3, 3)),
        (0, (0, 0)),
    ],
    ids=str,
)
def test_row_06_workers_are_a_maximum_or_both_bounds(workers: Any, expected: tuple[int, int]) -> None:
    endpoint = make("a", workers=workers)
    assert (endpoint.workers_min, endpoint.workers_max) == expected


@pytest.mark.parametrize("workers", ["3", 2.5, (1,), (1, 2, 3), -1, (-1, 2), (1, -2), (3, 2), {"min": 1}], ids=str)
def test_row_06_other_workers_are_a_value_error(workers: Any) -> None:
    with pytest.raises(ValueError, match="workers"):
        make("a", workers=workers)


def test_row_07_volume_is_one_or_a_list_that_is_not_empty() -> None:
    us, eu = NetworkVolume(name="us", datacenter=DataCenter.US_GA_2), NetworkVolume(name="eu")
    assert make("a", volume=us).volume == [us]
    assert make("a", volume=[us, eu]).volume == [us, eu]
    assert make("a").volume is None
    with pytest.raises(ValueError, match="empty"):
        make("a", volume=[])
    with pytest.raises(ValueError, match="entry 1"):
        make("a", volume=[us, "eu"])


def test_row_08_datacenter_is_a_member_a_text_or_a_list_and_all_of_them_for_gpus() -> None:
    assert make("a", datacenter=DataCenter.US_GA_2).config.datacenter == (DataCenter.US_GA_2,)
    assert make("a", datacenter="eu_ro_1").config.datacenter == (DataCenter.EU_RO_1,)
    assert len(make("a", datacenter=[DataCenter.US_GA_2, "EU-RO-1"]).config.datacenter) == 2
    assert make("a").datacenter == DataCenter.all()
    assert make("a", cpu="cpu5c-4-8").datacenter is None
    assert make(id="abc").datacenter is None
    with pytest.raises(ValueError, match="ATLANTIS"):
        make("a", datacenter="ATLANTIS-1")


def test_row_09_routes_scale_by_requests_unless_told_otherwise() -> None:
    api = make("a")
    before = api.scaler_type
    api.get("/x")(lambda: None)
    assert (before, api.scaler_type) == (ServerlessScalerType.QUEUE_DELAY, ServerlessScalerType.REQUEST_COUNT)
    explicit = make("a", scaler_type=ServerlessScalerType.QUEUE_DELAY)
    explicit.get("/x")(lambda: None)
    assert explicit.scaler_type is ServerlessScalerType.QUEUE_DELAY


ALL: Json = {
    "idle_timeout": 30,
    "dependencies": ["numpy"],
    "system_dependencies": ["libgl1"],
    "volume": NetworkVolume(name="v"),
    "datacenter": DataCenter.EU_RO_1,
    "env": {"A": "1"},
    "gpu_count": 2,
    "execution_timeout_ms": 60_000,
    "flashboot": False,
    "scaler_value": 7,
    "template": PodTemplate(containerDiskInGb=100),
    "min_cuda_version": CudaVersion.V12_8,
    "max_concurrency": 3,
}
DEFAULTS: Json = {
    "idle_timeout": 60,
    "dependencies": None,
    "system_dependencies": None,
    "volume": None,
    "env": None,
    "gpu_count": 1,
    "execution_timeout_ms": 0,
    "flashboot": True,
    "image": None,
    "scaler_value": 4,
    "template": None,
    "min_cuda_version": CudaVersion.V12_8,
    "max_concurrency": 1,
    "id": None,
}


@pytest.mark.parametrize("name", sorted(ALL))
def test_row_10_a_parameter_is_an_attribute_as_it_was_given(name: str) -> None:
    expected = [ALL[name]] if name == "volume" else ALL[name]
    assert getattr(make("a", gpu="4090", **ALL), name) == expected


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_row_10_defaults_are_those_of_runpod_flash(name: str) -> None:
    assert getattr(make("a"), name) == DEFAULTS[name]


def test_row_11_clients_and_load_balanced_endpoints_say_so() -> None:
    assert [make("a").is_client, make(id="b").is_client, make("c", image="acme/model").is_client] == [False, True, True]
    api = make("a")
    assert not api.is_load_balanced
    api.post("/x")(lambda: None)
    assert api.is_load_balanced
    assert not api.is_client


# -- 13 to 16: decorating -----------------------------------------------------------------------------------


def test_row_13_functions_coroutines_and_classes_are_decorated_and_give_the_missing_name() -> None:
    def plain() -> None: ...

    async def later() -> None: ...

    class Thing: ...

    decorated = [make(cpu="cpu5c-4-8")(target) for target in (plain, later, Thing)]
    assert [type(one) for one in decorated] == [RemoteFunction, RemoteFunction, RemoteClass]
    assert [one.endpoint.name for one in decorated] == ["plain", "later", "Thing"]
    assert make("named", cpu="cpu5c-4-8")(lambda: None).endpoint.name == "named"


@pytest.mark.parametrize(("client", "mode"), [({"id": "abc"}, "id"), ({"name": "a", "image": "acme/model"}, "image")])
def test_row_15_a_client_decorates_nothing_and_says_which_it_is(client: Json, mode: str) -> None:
    with pytest.raises(ValueError, match=f"{mode}="):
        make(**client)(lambda: None)


def test_row_15_an_endpoint_with_routes_decorates_nothing() -> None:
    api = make("a")
    api.get("/x")(lambda: None)
    with pytest.raises(ValueError, match="routes"):
        api(lambda: None)


# -- 24 to 26: routes ---------------------------------------------------------------------------------------


def test_row_24_a_route_needs_a_name() -> None:
    with pytest.raises(ValueError, match="name"):
        make(cpu="cpu5c-4-8").get("/x")


@pytest.mark.parametrize("path", ["", "x", "x/y", "/ping", "/execute"])
def test_row_24_a_path_begins_with_a_slash_and_two_are_taken(path: str) -> None:
    with pytest.raises(ValueError, match=r"begins with '/'|reserved"):
        make("a").post(path)


def test_row_24_a_method_and_a_path_belong_together_once() -> None:
    api = make("a")
    api.get("/x")(lambda: 1)
    api.post("/x")(lambda: 2)
    with pytest.raises(ValueError, match="duplicate"):
        api.get("/x")(lambda: 3)
    assert len(api.routes) == 2


def test_row_24_a_queue_has_no_routes() -> None:
    queue = make("a")
    queue(lambda: None)
    with pytest.raises(ValueError, match="queue"):
        queue.get("/x")


@pytest.mark.parametrize("verb", ["get", "post", "put", "delete", "patch"])
def test_row_25_a_declaration_takes_no_data(verb: str) -> None:
    for given in ({"data": {"a": 1}}, {"timeout": 3}):
        with pytest.raises(TypeError, match="route"):
            getattr(make("a"), verb)("/x", **given)
    getattr(make("a"), verb)("/x")
    getattr(make(id="abc"), verb)("/x", data={"a": 1}).close()


def test_row_26_a_route_function_is_returned_as_it_is() -> None:
    api = make("a")

    async def greet(name: str) -> str:
        return f"hello {name}"

    assert api.post("/greet")(greet) is greet
    assert asyncio.run(greet("you")) == "hello you"


# -- 5. of the table: other names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Endpoint", "EndpointJob", "GpuGroup", "GpuType", "CpuInstanceType", "DataCenter", "NetworkVolume",
        "PodTemplate", "CudaVersion", "ServerlessScalerType", "ServerlessType", "CPU_DATACENTERS",
    ],
)  # fmt: skip
def test_names_that_a_program_may_import(name: str) -> None:
    assert name in flash_plugins.__all__
    assert getattr(flash_plugins, name) is not None


def test_errors_of_parameters_are_one_class_which_is_a_value_error_and_pickles() -> None:
    with pytest.raises(ConfigError) as caught:
        make("a", workers=-1)
    assert isinstance(caught.value, ValueError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
