# SPDX-License-Identifier: Apache-2.0
"""Why calls wait, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from flash_plugins import Call, WaitTimeout
from flash_plugins.dispatcher.delay import delay_reason
from tests.unit.dispatcher.fake import Answer, FakeRunpod

Submit = Callable[..., Call[Any]]

THROTTLED = {"jobs": {"inQueue": 3}, "workers": {"throttled": 2}}


@pytest.mark.parametrize(
    ("jobs", "workers", "words"),
    [
        ({}, {"running": 1}, None),
        ({"inQueue": 3}, {"idle": 1, "running": 1}, None),
        ({"inQueue": 3}, {"running": 2}, "3 of its jobs wait and 2 workers are busy: allow more with workers=…"),
        ({"inQueue": 3}, {"ready": 1}, "3 of its jobs wait and 1 worker is busy"),
        ({"inQueue": 3}, {"throttled": 2}, "2 workers are waiting for capacity and none runs"),
        ({"inQueue": 3}, {"throttled": 1, "initializing": 1}, "1 worker is waiting for capacity"),
        ({"inQueue": 3}, {"unhealthy": 1}, "1 worker is unhealthy: see `flash-plugins logs model`"),
        ({"inQueue": 3}, {"initializing": 1}, "1 worker is starting"),
        ({"inQueue": 3}, {"idle": 0, "running": None}, "it has no worker"),
        ({}, {}, "it has no worker"),
    ],
)
def test_the_counts_of_a_platform_in_words(jobs: Mapping[str, int], workers: Mapping[str, int], words: str) -> None:
    reason = delay_reason("model", {"jobs": jobs, "workers": workers})
    assert (reason or "").startswith(words or "")
    assert (reason is None) == (words is None)


def test_a_patient_wait_ends_with_the_reason(fake: FakeRunpod, submit: Submit) -> None:
    fake.is_slow = True
    fake.script("health", Answer(content=THROTTLED))
    with pytest.raises(WaitTimeout, match="2 workers are waiting for capacity"):
        submit(1).result(1.2)


def test_an_impatient_one_costs_no_request(fake: FakeRunpod, submit: Submit) -> None:
    fake.is_slow = True
    call = submit(1)
    fake.wait_for("runSync")
    with pytest.raises(WaitTimeout):
        call.result(0.05)
    assert not fake.seen("health")


def test_a_platform_that_cannot_say_leaves_the_reason_out(fake: FakeRunpod, submit: Submit) -> None:
    fake.is_slow = True
    fake.script("health", Answer(404, {"error": "nothing here"}))
    with pytest.raises(WaitTimeout, match=r"had no outcome after 1.2 s \(sent to the platform\)"):
        submit(1).result(1.2)
