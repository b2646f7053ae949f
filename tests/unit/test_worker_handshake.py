# SPDX-License-Identifier: Apache-2.0
"""Versions that a call states, compared with what the worker has: named once, and where they broke the call."""

from __future__ import annotations

import importlib.metadata
import logging

import pytest

from flash_plugins.payload import CallEnvelope
from flash_plugins.worker.handshake import Handshake

PLUGGY = importlib.metadata.version("pluggy")
OTHER = {"pluggy": "pluggy==0.1"}
SAME = {"pluggy": f"pluggy=={PLUGGY}"}


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_equal_versions_are_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    handshake = Handshake()
    handshake.warn(SAME)
    handshake.warn({})
    handshake.warn({"no_such_module": "no-such==1"})  # it may never be imported
    assert lines(caplog) == []


def test_a_difference_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    handshake = Handshake()
    for _ in range(3):
        handshake.warn(OTHER)
    handshake.warn({**OTHER, "attr": "attrs==0.2"})
    first, second = lines(caplog)
    assert first == (
        f"the worker has pluggy {PLUGGY}, this process 0.1: pin dependencies=['pluggy==0.1'] to have the same"
    )
    assert "attrs" in second
    assert "pluggy" not in second


def test_what_pickles_of_functions_always_refer_to_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    Handshake().warn({"cloudpickle": "cloudpickle==0.1"})
    assert lines(caplog) == []


@pytest.mark.parametrize("chosen", ["pluggy==1", "Pluggy >= 1", "pluggy[x]<9", "pluggy @ https://example.com/p.whl"])
def test_a_version_that_the_user_chose_is_no_surprise(chosen: str, caplog: pytest.LogCaptureFixture) -> None:
    handshake = Handshake(["attrs", chosen])
    handshake.warn(OTHER)
    assert lines(caplog) == []
    error = AttributeError("Can't get attribute 'NewClass'")
    handshake.explain(error, OTHER, is_loading=True)
    assert "this process 0.1" in error.__notes__[0]


@pytest.mark.parametrize("listed", ["pluggy", "pluggy[x]", "pluggy; python_version > '3'", "other==1"])
def test_a_package_that_is_listed_without_a_version_may_surprise(listed: str, caplog: pytest.LogCaptureFixture) -> None:
    Handshake([listed]).warn(OTHER)
    assert len(lines(caplog)) == 1


def test_an_error_while_loading_names_versions_and_what_to_pin() -> None:
    error = AttributeError("Can't get attribute 'NewClass'")
    Handshake().explain(error, OTHER, is_loading=True)
    (note,) = error.__notes__
    assert f"the worker has pluggy {PLUGGY}, this process 0.1" in note
    assert "dependencies=['pluggy==0.1']" in note


def test_an_error_while_loading_says_nothing_of_equal_versions() -> None:
    error = AttributeError("Can't get attribute 'NewClass'")
    Handshake().explain(error, SAME, is_loading=True)
    assert not hasattr(error, "__notes__")


def test_an_error_of_the_call_itself_stays_as_it_is() -> None:
    error = AttributeError("of the user")
    Handshake().explain(error, OTHER, is_loading=False)
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("is_loading", [True, False])
def test_a_missing_module_is_named_with_the_distribution_it_comes_from(is_loading: bool) -> None:
    error = ModuleNotFoundError("No module named 'no_such.part'", name="no_such.part")
    Handshake().explain(error, {"no_such": "its-distribution==1.5.1"}, is_loading=is_loading)
    (note,) = error.__notes__
    assert "dependencies=['its-distribution==1.5.1']" in note


def test_a_missing_module_that_the_call_did_not_state() -> None:
    error = ModuleNotFoundError("No module named 'numpy.linalg'", name="numpy.linalg")
    Handshake().explain(error, {}, is_loading=False)
    assert "dependencies=['numpy']" in error.__notes__[0]


def test_an_exception_that_refuses_notes_is_left_alone() -> None:
    class Stubborn(ModuleNotFoundError):
        def add_note(self, _note: str) -> None:
            raise RuntimeError("no notes")

    Handshake().explain(Stubborn("x", name="x"), {}, is_loading=False)


def test_envelopes_carry_what_they_state() -> None:
    import json

    sent = CallEnvelope(code="c", args=b"", python="3.11", packages=SAME)
    assert CallEnvelope.decode(json.loads(sent.encode([], {}))["input"]).packages == SAME
    old = json.loads(sent.encode([], {}))["input"]
    del old["packages"]
    assert CallEnvelope.decode(old).packages == {}
