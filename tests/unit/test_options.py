# SPDX-License-Identifier: Apache-2.0
"""Options of a call: what is taken, what is refused, and what stays the same whatever they are."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flash_plugins import CallOptions, ConfigError, Endpoint, RemoteInstance, UnknownParameterError
from flash_plugins.options import NO_OPTIONS
from flash_plugins.payload import JOB

endpoint = Endpoint(name="options", cpu="cpu5c-4-8")


@endpoint
def double(x: int) -> int:
    return 2 * x


@endpoint
def count(n: int) -> Iterator[int]:
    yield from range(n)


@endpoint
class Model:
    def predict(self, x: int) -> int:
        return x


class Plain:
    @endpoint
    def twice(self, x: int) -> int:
        return 2 * x


@pytest.mark.parametrize("made", [double, count, Model().predict, Plain().twice])
def test_options_are_added_to_those_before_and_leave_the_original_alone(made: Any) -> None:
    def options(of: Any) -> CallOptions:
        found: CallOptions = of._options if hasattr(of, "_options") else of._function._options
        return found

    with_both = made.with_options(retries=3).with_options(timeout=60)
    assert type(with_both) is type(made)
    assert callable(with_both.map)
    assert options(with_both) == CallOptions(retries=3, timeout=60)
    assert options(made) is NO_OPTIONS


def test_options_of_an_instance_are_those_of_its_methods() -> None:
    model: Any = Model()  # for a type checker a decorated class is still the class
    instance = model.with_options(retries=2)
    assert isinstance(instance, RemoteInstance)
    assert instance.predict._options == CallOptions(retries=2)
    assert instance.predict.with_options(backoff=0)._options == CallOptions(retries=2, backoff=0)
    assert model.predict._options is NO_OPTIONS


def test_options_are_no_part_of_the_code_that_travels() -> None:
    hasty = double.with_options(retries=3, run_timeout=5)
    plain, optioned = (one._shipped.envelope(((1,), {}), carriage=JOB) for one in (double, hasty))
    assert plain == optioned
    assert double._shipped is hasty._shipped
    assert "_options" not in double.__reduce_ex__(4)[2]


def test_a_function_that_travels_takes_its_options_along() -> None:
    hasty = pickle.loads(pickle.dumps(CallOptions(retries=3, retry_on=(OSError,))))
    assert hasty == CallOptions(retries=3, retry_on=(OSError,))


def test_an_unknown_option_is_refused_with_the_closest_one() -> None:
    with pytest.raises(UnknownParameterError, match=r"'retires'; did you mean 'retries'\?"):
        double.with_options(retires=3)  # type: ignore[call-arg]
    with pytest.raises(UnknownParameterError, match="known are: retries, retry_on"):
        double.with_options(zzz=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "wrong",
    [
        {"retries": -1},
        {"retries": True},
        {"retries": 1.5},
        {"retries": 1_001},
        {"retry_on": "ValueError"},
        {"retry_on": (ValueError, int)},
        {"retry_on": (KeyboardInterrupt,)},
        {"backoff": -0.1},
        {"backoff": float("nan")},
        {"backoff": None},
        {"queue_timeout": 0},
        {"run_timeout": True},
        {"run_timeout": float("inf")},
        {"timeout": "60"},
        {"timeout": 604_801},
        {"idempotent": 1},
        {"worker": ""},
        {"worker": 7},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_used_is_quoted(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigError) as caught:
        double.with_options(**wrong)
    assert f"with_options({name}={value!r})" in str(caught.value)


def test_one_class_stands_for_itself_and_a_function_is_kept() -> None:
    assert CallOptions(retry_on=OSError).retry_on == (OSError,)
    assert CallOptions(retry_on=[OSError, ValueError]).retry_on == (OSError, ValueError)  # type: ignore[arg-type]
    assert CallOptions(retry_on=()).retry_on == ()
    says: Callable[[BaseException], bool] = lambda error: True  # noqa: E731 - as a user writes it
    assert CallOptions(retry_on=says).retry_on is says


def test_a_queue_has_no_worker_to_choose() -> None:
    with pytest.raises(ConfigError, match="load-balanced"):
        double.with_options(worker="w1")(1)
