# SPDX-License-Identifier: Apache-2.0
"""What an endpoint may be asked to be, and the error for everything else."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flash_plugins
from flash_plugins import (
    ConfigError,
    CpuInstanceType,
    CudaVersion,
    DataCenter,
    Endpoint,
    EndpointConfig,
    GpuGroup,
    GpuType,
    ServerlessScalerType,
    UnknownParameterError,
)


def config(**parameters: Any) -> EndpointConfig:
    return EndpointConfig.from_parameters("e", parameters)


def test_defaults() -> None:
    made = config()
    assert made == EndpointConfig(
        name="e",
        gpu=(GpuGroup.ANY,),
        cpu=(),
        workers=(0, 1),
        idle_timeout=60,
        env={},
        gpu_count=1,
        execution_timeout_ms=0,
        flashboot=True,
        scaler_type=ServerlessScalerType.QUEUE_DELAY,
        scaler_value=4,
        datacenter=(),
        min_cuda_version=CudaVersion.V12_8,
        max_concurrency=1,
    )


def test_none_means_not_set() -> None:
    parameters = flash_plugins.config.EndpointParameters.__annotations__
    assert config(**dict.fromkeys(parameters)) == config()


@pytest.mark.parametrize(
    ("parameters", "attribute", "value"),
    [
        ({"gpu": GpuType.NVIDIA_L4}, "gpu", (GpuType.NVIDIA_L4,)),
        ({"gpu": ["ADA_24", GpuGroup.AMPERE_16]}, "gpu", (GpuGroup.ADA_24, GpuGroup.AMPERE_16)),
        ({"cpu": "cpu5c-4-8"}, "cpu", (CpuInstanceType.CPU5C_4_8,)),
        (
            {"cpu": [CpuInstanceType.CPU3G_2_8, "cpu3c-2-4"]},
            "cpu",
            (CpuInstanceType.CPU3G_2_8, CpuInstanceType.CPU3C_2_4),
        ),
        ({"workers": None}, "workers", (0, 1)),
        ({"workers": 3}, "workers", (0, 3)),
        ({"workers": 0}, "workers", (0, 0)),
        ({"workers": (1, 1)}, "workers", (1, 1)),
        ({"workers": [0, 5]}, "workers", (0, 5)),
        ({"idle_timeout": 1}, "idle_timeout", 1),
        ({"idle_timeout": 3600}, "idle_timeout", 3600),
        ({"env": {"A": ""}}, "env", {"A": ""}),
        ({"gpu_count": 8}, "gpu_count", 8),
        ({"execution_timeout_ms": 0}, "execution_timeout_ms", 0),
        ({"execution_timeout_ms": 5_000}, "execution_timeout_ms", 5_000),
        ({"execution_timeout_ms": 604_800_000}, "execution_timeout_ms", 604_800_000),
        ({"flashboot": False}, "flashboot", False),
        ({"scaler_type": "REQUEST_COUNT"}, "scaler_type", ServerlessScalerType.REQUEST_COUNT),
        ({"scaler_value": 0.5}, "scaler_value", 0.5),
        ({"datacenter": DataCenter.EU_RO_1}, "datacenter", (DataCenter.EU_RO_1,)),
        ({"datacenter": ["eu_ro_1", "US-KS-2"]}, "datacenter", (DataCenter.EU_RO_1, DataCenter.US_KS_2)),
        ({"min_cuda_version": "12.4"}, "min_cuda_version", CudaVersion.V12_4),
        ({"max_concurrency": 64}, "max_concurrency", 64),
    ],
)
def test_a_parameter_is_taken(parameters: dict[str, Any], attribute: str, value: object) -> None:
    assert getattr(config(**parameters), attribute) == value


BAD: list[tuple[dict[str, Any], str]] = [
    ({"gpu": "ADA_24", "cpu": "cpu5c-4-8"}, "one of the two"),
    ({"gpu": []}, "gpu"),
    ({"gpu": 4090}, "gpu"),
    ({"gpu": "RTX 9999"}, "RTX 9999"),
    ({"cpu": "cpu9z-1-1"}, "cpu9z-1-1"),
    ({"cpu": []}, "cpu"),
    ({"workers": -1}, "-1"),
    ({"workers": (-1, 2)}, "-1"),
    ({"workers": (3, 1)}, "minimum 3 is above the maximum 1"),
    ({"workers": (1, 2, 3)}, "workers"),
    ({"workers": "2"}, "'2'"),
    ({"workers": 1.5}, "1.5"),
    ({"workers": True}, "True"),
    ({"workers": (False, True)}, "False"),
    ({"idle_timeout": 0}, "1 to 3600 s"),
    ({"idle_timeout": 3601}, "1 to 3600 s"),
    ({"idle_timeout": 2.5}, "2.5"),
    ({"idle_timeout": "60"}, "'60'"),
    ({"env": [("A", "1")]}, "mapping"),
    ({"env": {"A": 1}}, "'A'"),
    ({"env": {1: "A"}}, "1"),
    ({"env": {"": "x"}}, "non-empty"),
    ({"env": {"A=B": "x"}}, "A=B"),
    ({"env": {"A": "x\0y"}}, "'A'"),
    ({"env": {"A": "x" * 131_072}}, "'A' has 131075 bytes"),
    ({"env": {"my.setting": "x"}}, "drops 'my.setting'"),
    ({"env": {"ÜBER": "x"}}, "drops 'ÜBER'"),
    ({"gpu_count": 0}, "gpu_count"),
    ({"gpu_count": "1"}, "gpu_count"),
    ({"execution_timeout_ms": 1}, "5000 to 604800000 ms"),
    ({"execution_timeout_ms": 4_999}, "no limit"),
    ({"execution_timeout_ms": 604_800_001}, "604800001"),
    ({"execution_timeout_ms": -1}, "-1"),
    ({"execution_timeout_ms": False}, "False"),
    ({"execution_timeout_ms": 5_000.5}, "5000.5"),
    ({"flashboot": 1}, "True or False"),
    ({"scaler_type": "FASTEST"}, "QUEUE_DELAY, REQUEST_COUNT"),
    ({"scaler_type": ["QUEUE_DELAY"]}, "QUEUE_DELAY"),
    ({"scaler_value": 0.4}, "at least 0.5"),
    ({"scaler_value": float("nan")}, "at least 0.5"),
    ({"scaler_value": float("inf")}, "at least 0.5"),
    ({"scaler_value": True}, "True"),
    ({"scaler_value": "4"}, "'4'"),
    ({"scaler_type": "REQUEST_COUNT", "scaler_value": 0}, "requests per worker"),
    ({"scaler_type": "REQUEST_COUNT", "scaler_value": 1.5}, "1.5"),
    ({"datacenter": "MARS-1"}, "MARS-1"),
    ({"datacenter": 7}, "7"),
    ({"datacenter": [7]}, "7"),
    ({"min_cuda_version": "99.9"}, "12.8"),
    ({"min_cuda_version": 12.8}, "12.8"),
    ({"max_concurrency": 0}, "max_concurrency"),
    ({"max_concurrency": -4}, "-4"),
    ({"max_concurrency": "2"}, "'2'"),
]


@pytest.mark.parametrize(("parameters", "words"), BAD, ids=[str(parameters) for parameters, _ in BAD])
def test_a_bad_value_is_an_error_that_says_what_is_allowed(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint(name="e", **parameters)
    assert isinstance(caught.value, ValueError)
    assert not isinstance(caught.value, TypeError)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["", " a", "-a", "a/b", "a\n", "ä", "x" * 129, 7, b"a", ["a"]])
def test_a_bad_name_is_an_error(name: Any) -> None:
    with pytest.raises(ConfigError, match="name"):
        Endpoint(name=name)


@pytest.mark.parametrize("name", ["a", "0", "my endpoint_1.2-x", "x" * 128])
def test_a_good_name_is_kept(name: str) -> None:
    assert Endpoint(name=name).name == name


@pytest.mark.parametrize(
    ("parameter", "suggested"),
    [("gpus", "gpu"), ("worker", "workers"), ("idle_time_out", "idle_timeout"), ("max_concurency", "max_concurrency")],
)
def test_an_unknown_parameter_is_an_error_with_a_suggestion(parameter: str, suggested: str) -> None:
    with pytest.raises(UnknownParameterError, match=f"{parameter!r}; did you mean {suggested!r}") as caught:
        Endpoint(**{parameter: 1})  # type: ignore[arg-type]
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ConfigError)


def test_an_unknown_parameter_like_no_other_lists_all() -> None:
    with pytest.raises(TypeError, match=r"known are: id, gpu, cpu, workers.*max_concurrency"):
        Endpoint(zzz=1)  # type: ignore[call-arg]


def test_an_image_may_have_variables_of_any_name() -> None:
    endpoint = Endpoint(name="e", image="acme/llm:1", env={"my.setting": "x"})
    assert endpoint.config.env == {"my.setting": "x"}


def test_values_of_env_are_shown_nowhere() -> None:
    endpoint = Endpoint(name="e", env={"TOKEN": "hunter2"})
    assert "hunter2" not in repr(endpoint.config)
    assert "hunter2" not in repr(endpoint)
    with pytest.raises(ConfigError) as caught:
        Endpoint(name="e", env={"TOKEN": b"hunter2"})  # type: ignore[dict-item]
    assert "hunter2" not in str(caught.value)


def test_env_is_copied() -> None:
    env = {"A": "1"}
    made = config(env=env)
    env["A"] = "2"
    assert made.env == {"A": "1"}


def test_equal_configs_have_equal_fingerprints_and_env_does_not_count() -> None:
    assert config(workers=2).fingerprint == config(workers=(0, 2), env={"A": "1"}).fingerprint
    assert config(workers=2).fingerprint != config(workers=3).fingerprint
    assert len({config(**parameters).fingerprint for parameters in ({}, {"gpu": "ADA_24"}, {"cpu": "cpu5c-4-8"})}) == 3


def test_fingerprints_are_the_same_in_every_process() -> None:
    code = "from flash_plugins import Endpoint; print(Endpoint(name='e', gpu='ADA_24', workers=2).config.fingerprint)"
    printed = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    }
    assert printed == {config(gpu="ADA_24", workers=2).fingerprint}


def test_with_name_checks_the_name() -> None:
    assert EndpointConfig().with_name("a").name == "a"
    with pytest.raises(ConfigError):
        EndpointConfig().with_name("/")


def test_an_endpoint_takes_the_name_of_what_it_decorates() -> None:
    endpoint = Endpoint(cpu="cpu5c-4-8")
    assert endpoint.name is None

    @endpoint
    def price(x: int) -> int:
        return x

    assert endpoint.name == "price"
    assert price.local(3) == 3


def test_lambdas_have_a_name_too() -> None:
    endpoint = Endpoint()
    endpoint(lambda: 1)
    assert endpoint.name == "lambda"


@pytest.mark.parametrize("target", [7, None, "text"])
def test_only_functions_and_classes_are_decorated(target: Any) -> None:
    with pytest.raises(ConfigError, match="decorates functions and classes"):
        Endpoint(name="e")(target)


def test_nothing_is_decorated_twice() -> None:
    endpoint = Endpoint(name="e")
    with pytest.raises(ConfigError, match="already"):
        endpoint(endpoint(lambda: 1))


def test_no_workers_are_refused_at_the_call_before_anything_is_started() -> None:
    code = """
import sys, threading
from flash_plugins import ConfigError, Endpoint
endpoint = Endpoint(name="none", cpu="cpu5c-4-8", workers=0)
@endpoint
def f(): return 1
@endpoint
class C:
    def m(self): return 1
for attempt in (f, C().m, endpoint.start, lambda: list(f.map([()]))):
    try:
        attempt()
    except ConfigError as error:
        assert "workers=(0, 0)" in str(error) and "workers=1" in str(error), error
    else:
        raise AssertionError(attempt)
assert [t.name for t in threading.enumerate()] == ["MainThread"], threading.enumerate()
assert "httpx" not in sys.modules
assert list(f.map([])) == []
"""
    code = code.replace("lambda: list(f.map([()]))", "lambda: f.map([1])")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_load_balanced_endpoint_scales_by_the_calls_that_a_worker_runs() -> None:
    made = config(transport="load_balanced", max_concurrency=3)
    assert (made.transport, made.kind.value) == ("load_balanced", "LOAD_BALANCER")
    assert (made.scaler_type, made.scaler_value) == (ServerlessScalerType.REQUEST_COUNT, 3)
    assert config(transport="load_balanced", scaler_value=2).scaler_value == 2
    assert config(transport="queue") == config()
    assert Endpoint(name="e", transport="load_balanced").is_load_balanced
    assert not Endpoint(name="e").is_load_balanced


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"transport": "lb"}, "'lb'.*'queue', 'load_balanced'"),
        ({"transport": "load_balanced", "scaler_type": "QUEUE_DELAY"}, "REQUEST_COUNT only"),
        ({"transport": "load_balanced", "id": "abc"}, "id='abc'.*leave transport out"),
        ({"transport": "queue", "image": "some/image"}, "image='some/image'.*leave transport out"),
    ],
)
def test_a_transport_that_cannot_be_is_refused(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**parameters)


def test_routes_have_no_transport() -> None:
    with pytest.raises(ConfigError, match="transport='load_balanced' and the route GET '/x'"):
        Endpoint(name="e", transport="load_balanced").get("/x")


def test_an_endpoint_without_a_name_cannot_start() -> None:
    with pytest.raises(ConfigError, match="no name"):
        Endpoint().start()


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.floats() | st.lists(st.integers())))
def test_whatever_is_given_it_works_or_is_a_config_error(parameters: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        EndpointConfig.from_parameters(None, parameters)


@given(st.sampled_from(sorted(flash_plugins.config.EndpointParameters.__annotations__)), st.from_type(object))
def test_whatever_a_parameter_is_given_it_works_or_is_a_config_error(parameter: str, value: object) -> None:
    with contextlib.suppress(ConfigError):
        assert config(**{parameter: value}).fingerprint
