# SPDX-License-Identifier: Apache-2.0
"""What a call is before it is sent: the function and the arguments, pickled, or refused with a reason."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flash_plugins import Endpoint, UnpicklableError
from flash_plugins.payload import JOB, CallEnvelope
from flash_plugins.remote import RemoteFunction

endpoint = Endpoint(name="envelopes", cpu="cpu5c-4-8")

setting: Any = 1


def helper() -> Any:
    return setting


@endpoint
def use_helper() -> Any:
    return helper()


def function_of(remote: RemoteFunction[..., Any]) -> str:
    return envelope_of(remote).code


def envelope_of(remote: RemoteFunction[..., Any]) -> CallEnvelope:
    return remote._shipped.envelope(((), {}), carriage=JOB)


def test_what_is_unchanged_is_the_same_code_and_what_changed_another(monkeypatch: pytest.MonkeyPatch) -> None:
    first = function_of(use_helper)
    assert function_of(use_helper) == first
    monkeypatch.setitem(globals(), "setting", [1])
    second = function_of(use_helper)
    assert function_of(use_helper) == second != first
    setting.append(2)
    third = function_of(use_helper)
    assert third not in (first, second)
    monkeypatch.setitem(globals(), "helper", lambda: setting)
    assert function_of(use_helper) not in (first, second, third)
    monkeypatch.undo()
    assert function_of(use_helper) == first


def test_an_envelope_carries_the_code_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (1, 2, 2):
        monkeypatch.setitem(globals(), "setting", value)
        envelope = envelope_of(use_helper)
        assert list(envelope.blobs) == [envelope.code]


class Thing:
    def method(self, first: Any, *rest: Any, option: Any = None) -> None: ...

    @staticmethod
    def static(first: Any) -> None: ...

    @classmethod
    def of_class(cls, first: Any) -> None: ...


def positional(first: Any, /, second: Any = None, *rest: Any, **options: Any) -> None: ...


@pytest.mark.parametrize(
    ("target", "method", "args", "kwargs", "name"),
    [
        (positional, None, ("?",), {}, "argument 'first' of positional()"),
        (positional, None, (1, "?"), {}, "argument 'second' of positional()"),
        (positional, None, (1, 2, 3, "?"), {}, "argument 4 of positional()"),
        (positional, None, (1,), {"other": "?"}, "argument 'other' of positional()"),
        (Thing, "method", ("?",), {}, "argument 'first' of Thing.method()"),
        (Thing, "method", (1, "?"), {}, "argument 2 of Thing.method()"),
        (Thing, "method", (1,), {"option": "?"}, "argument 'option' of Thing.method()"),
        (Thing, "static", ("?",), {}, "argument 'first' of Thing.static()"),
        (Thing, "of_class", ("?",), {}, "argument 'first' of Thing.of_class()"),
        (divmod, None, (1, "?"), {}, "argument 'y' of divmod()"),
    ],
)
def test_the_argument_that_cannot_be_pickled_is_named(
    target: Any, method: str | None, args: tuple[Any, ...], kwargs: dict[str, Any], name: str
) -> None:
    lock = {"deep": threading.Lock()}
    args = tuple(lock if value == "?" else value for value in args)
    kwargs = {key: lock if value == "?" else value for key, value in kwargs.items()}
    remote: Any = endpoint(target)
    with pytest.raises(UnpicklableError, match=rf"^{re.escape(name)} cannot be pickled: \['deep'\] is a _thread.lock"):
        remote._shipped.envelope((args, kwargs), carriage=JOB, method=method)


class Lazy:
    """A descriptor that does something when the class is looked at."""

    def __get__(self, instance: object, owner: type) -> Any:
        raise RuntimeError("looked at")


class Streaming:
    lazy = Lazy()

    @staticmethod
    def yields() -> Iterator[int]:
        yield 1


def test_decorating_a_class_runs_nothing_of_it_and_finds_its_generators() -> None:
    remote: Any = Endpoint(name="lazy", cpu="cpu5c-4-8")(Streaming)
    assert remote._streams
    with pytest.raises(AttributeError, match="it has: yields"):
        _ = remote().missing
