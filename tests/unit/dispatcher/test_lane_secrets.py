# SPDX-License-Identifier: Apache-2.0
"""The key appears in no message, no representation and no log line, whatever goes wrong."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from flash_plugins import Call
from flash_plugins.dispatcher import Session, queue_lane
from flash_plugins.platforms.runpod import RunpodClient
from tests.unit.dispatcher.fake import DEADLINE_S, KEY, RESET, Answer, FakePlatform, FakeRunpod, problem

Submit = Callable[..., Call[Any]]

TROUBLE = {
    "a wrong key": ("list", problem(401, "no such key")),
    "a forbidden endpoint": ("create", problem(403, "not yours")),
    "a refused body": ("create", problem(422, "invalid", errors=["$.name: too long"])),
    "a lost connection": ("runSync", RESET),
    "a broken server": ("runSync", Answer(500, b"Traceback (most recent call last)")),
    "an answer of another kind": ("runSync", Answer(200, b"hello")),
    "a failed job": ("runSync", Answer(200, {"id": "job-1", "status": "FAILED", "error": "boom"})),
    "an answer that repeats the request": ("list", problem(401, f"key {KEY} is unknown, 'Bearer {KEY}' was sent")),
    "a page that repeats the request": ("runSync", Answer(500, f"<pre>Authorization: Bearer {KEY}</pre>".encode())),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_no_error_shows_the_key(
    fake: FakeRunpod, submit: Submit, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    operation, answer = TROUBLE[name]
    fake.script(operation, answer)
    with caplog.at_level(logging.DEBUG):
        call = submit()
        error = call.exception(DEADLINE_S)
    assert error is not None
    assert fake.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    printed = capfd.readouterr()
    texts = [*traceback.format_exception(error), repr(error), repr(call), caplog.text, printed.out, printed.err]
    assert not [text for text in texts if KEY in text]


def test_no_error_of_an_unreachable_platform_shows_the_key(
    fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_lane, "_TRANSPORT_PAUSE_S", 0.01)
    fake.deafen()
    error = submit().exception(DEADLINE_S)
    assert error is not None
    assert KEY not in "".join(traceback.format_exception(error))
    fake.listen()


def test_no_representation_shows_the_key(submit: Submit, session: Session, platform: FakePlatform) -> None:
    submit().result(DEADLINE_S)
    client = session.client
    assert isinstance(client, RunpodClient)
    for thing in (platform.connection, client, session, *session._lanes.values()):
        assert KEY not in repr(thing)
        assert KEY not in str(thing)
