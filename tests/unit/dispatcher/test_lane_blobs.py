# SPDX-License-Identifier: Apache-2.0
"""Code travels once per content, not per call, and to every worker that lacks it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from flash_plugins import Call, EnvelopeError
from flash_plugins.objects.digest import digest_of
from flash_plugins.payload import Outcome
from flash_plugins.platforms import api
from tests.unit.dispatcher.conftest import config_of
from tests.unit.dispatcher.fake import DEADLINE_S, Answer, FakeRunpod, Gate, Request

Submit = Callable[..., Call[Any]]

SMALL = b"small code"
LARGE = bytes(range(256)) * 400  # 100 kB


def carried(fake: FakeRunpod) -> list[set[str]]:
    return [request.blobs for request in fake.seen("runSync")]


@pytest.mark.parametrize("code", [SMALL, LARGE])
def test_code_travels_once_and_not_with_later_calls(fake: FakeRunpod, submit: Submit, code: bytes) -> None:
    assert [submit(n, code=code).result(DEADLINE_S) for n in range(3)] == [0, 1, 2]
    assert carried(fake) == [{digest_of(code)}, set(), set()]


@pytest.mark.parametrize("code", [SMALL, LARGE])
def test_a_worker_that_lacks_code_gets_it(fake: FakeRunpod, submit: Submit, code: bytes) -> None:
    submit(1, code=code).result(DEADLINE_S)
    fake.has.clear()  # another worker
    call = submit(2, code=code)
    assert call.result(DEADLINE_S) == 2
    assert call.job_id == "job-3"
    assert submit(3, code=code).result(DEADLINE_S) == 3
    assert carried(fake) == [{digest_of(code)}, set(), {digest_of(code)}, set()]


def test_small_code_rides_along_until_a_worker_is_known_to_have_it(fake: FakeRunpod, submit: Submit) -> None:
    gate = Gate(fake)
    fake.script("runSync", gate)
    first = submit(1)
    fake.wait_for("runSync")
    assert submit(2).result(DEADLINE_S) == 2
    gate.open()
    assert first.result(DEADLINE_S) == 1
    assert carried(fake) == [{digest_of(b"some code")}, {digest_of(b"some code")}]


def test_large_code_is_sent_once_while_many_calls_fly(fake: FakeRunpod, submit: Submit) -> None:
    made, answered = Gate(fake), Gate(fake)
    fake.script("create", made)
    fake.script("runSync", *[answered] * 30)
    calls = [submit(n, code=LARGE) for n in range(30)]
    fake.wait_for("create")
    made.open()
    first = fake.wait_for("runSync", 30)
    assert Counter(bool(request.blobs) for request in first) == {True: 1, False: 29}
    answered.open()
    assert [call.result(DEADLINE_S) for call in calls] == list(range(30))


def test_each_content_is_known_by_itself(fake: FakeRunpod, submit: Submit) -> None:
    for code in (b"one", b"two", b"one", b"two"):
        assert submit(code, code=code).result(DEADLINE_S) == code
    assert carried(fake) == [{digest_of(b"one")}, {digest_of(b"two")}, set(), set()]


def test_another_endpoint_has_other_workers(fake: FakeRunpod, submit: Submit) -> None:
    submit(1, config=config_of("one")).result(DEADLINE_S)
    submit(2, config=config_of("two")).result(DEADLINE_S)
    assert carried(fake) == [{digest_of(b"some code")}] * 2


def test_workers_that_never_keep_code_are_an_error_in_the_end(fake: FakeRunpod, submit: Submit) -> None:
    def forget(request: Request) -> Answer:
        missing = Outcome(missing=(digest_of(b"some code"),)).encode()
        return Answer(200, {"id": "job-1", "status": "COMPLETED", "output": missing})

    fake.script("runSync", *[forget] * 50)
    with pytest.raises(EnvelopeError, match="disk"):
        submit().result(DEADLINE_S)
    assert len(fake.seen("runSync")) < 20


def test_a_worker_that_asks_for_something_else_is_an_error(fake: FakeRunpod, submit: Submit) -> None:
    missing = Outcome(missing=("f" * 64,)).encode()
    fake.script("runSync", Answer(200, {"id": "job-1", "status": "COMPLETED", "output": missing}))
    with pytest.raises(EnvelopeError, match="ffff"):
        submit().result(DEADLINE_S)
    assert len(fake.seen("runSync")) == 1


def test_code_is_sent_again_after_the_endpoint_was_made_again(fake: FakeRunpod, submit: Submit) -> None:
    submit(1, code=LARGE).result(DEADLINE_S)
    fake.endpoints.clear()
    fake.has.clear()
    assert submit(2, code=LARGE).result(DEADLINE_S) == 2


def test_a_call_over_the_limit_is_not_sent(fake: FakeRunpod, submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "RUNSYNC_MAX_BYTES", 1_000)
    assert submit(b"x" * 100).result(DEADLINE_S) == b"x" * 100
    with pytest.raises(ValueError, match="MB"):
        submit(b"x" * 1_000).result(DEADLINE_S)
    assert len(fake.seen("runSync")) == 1
