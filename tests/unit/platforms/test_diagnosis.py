# SPDX-License-Identifier: Apache-2.0
"""Why an endpoint takes no work, from what the platform shows of its workers over several looks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from flash_plugins import Connection
from flash_plugins.platforms import diagnosis as diagnosis_module
from flash_plugins.platforms.diagnosis import Cause, Diagnosis, Watcher, diagnose
from flash_plugins.platforms.http import HttpClient
from flash_plugins.platforms.rest import RestClient
from tests.unit.dispatcher.fake import DEADLINE_S, KEY, Answer, FakeRunpod, problem, workers_answer

TRACEBACK = ["Traceback (most recent call last):", '  File "/worker.py", line 1', "ImportError: libcuda.so.1"]


@pytest.fixture
def fake() -> Iterator[FakeRunpod]:
    server = FakeRunpod()
    server.endpoints["e1"] = {"id": "e1", "name": "x", "workers": {"min": 0, "max": 3}}
    yield server
    server.close()


def log(*lines: str, source: str = "container") -> Answer:
    events = "".join(f'id: {n}\ndata: {{"source":"{source}","line":{_json(line)},"ts":"t"}}\n\n'
                     for n, line in enumerate(lines))  # fmt: skip
    return Answer(200, events.encode(), {"Content-Type": "text/event-stream"})


def _json(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def looks(
    fake: FakeRunpod, *shown: Sequence[tuple[str, str]], lines: Sequence[str] = TRACEBACK, source: str = "container"
) -> Any:
    """Look at the workers once for each listing of (id, status); return every diagnosis."""
    fake.script("workers", *(workers_answer(listing) for listing in shown))
    for _ in shown:
        fake.script("logs", log(*lines, source=source), problem(404, "gone"))

    async def run() -> list[Diagnosis | None]:
        http = HttpClient(Connection(api_base=fake.base, key=KEY))
        try:
            watcher = Watcher(RestClient(http), "e1", "x")
            async with asyncio.timeout(DEADLINE_S):
                return [await watcher.look() for _ in shown]
        finally:
            await http.aclose()

    return asyncio.run(run())


@pytest.mark.parametrize("status", ["RUNNING", "IDLE"])
def test_a_worker_that_takes_work_is_no_reason(fake: FakeRunpod, status: str) -> None:
    assert looks(fake, [("w1", "THROTTLED"), ("w2", status)]) == [None]


def test_no_capacity_says_what_to_allow(fake: FakeRunpod) -> None:
    (found,) = looks(fake, [("w1", "THROTTLED"), ("w2", "THROTTLED")])
    assert found.cause is Cause.NO_CAPACITY
    assert found.text.startswith("2 workers wait for capacity")
    assert "gpu=[…]" in found.text
    assert not found.is_fatal


def test_a_start_that_takes_long_shows_the_last_line_of_the_log(fake: FakeRunpod) -> None:
    (found,) = looks(fake, [("w1", "INITIALIZING")], lines=["Collecting torch", "Downloading torch (800 MB)"])
    assert found.cause is Cause.STARTING
    assert "Downloading torch (800 MB)" in found.text
    assert not found.is_fatal


def test_workers_that_end_again_and_again_are_hopeless_and_their_traceback_is_told(fake: FakeRunpod) -> None:
    found = looks(fake, [("w1", "INITIALIZING")], [("w2", "INITIALIZING")], [("w3", "INITIALIZING")], [])
    assert [one.is_fatal for one in found] == [False, False, False, True]
    assert found[-1].cause is Cause.ENDING
    assert "w1, w2, w3" in found[-1].text
    assert found[-1].text.endswith("\n".join(TRACEBACK))


def test_workers_that_were_moved_before_anything_ran_are_not_hopeless(fake: FakeRunpod) -> None:
    listings = [[("w1", "INITIALIZING")], [("w2", "INITIALIZING")], [("w3", "INITIALIZING")], []]
    assert not any(one.is_fatal for one in looks(fake, *listings, lines=[]))


def test_lines_of_the_platform_itself_do_not_tell_that_anything_ran(fake: FakeRunpod) -> None:
    listings = [[("w1", "INITIALIZING")], [("w2", "INITIALIZING")], [("w3", "INITIALIZING")], []]
    found = looks(fake, *listings, lines=["pulling image", "no space left on the machine"], source="system")
    assert not any(one.is_fatal for one in found)
    assert found[-1].text.endswith("no space left on the machine")


@pytest.mark.parametrize("status", ["THROTTLED", "STALE", "IDLE"])
def test_workers_that_are_taken_away_for_other_reasons_do_not_count(fake: FakeRunpod, status: str) -> None:
    found = looks(fake, *([(f"w{n}", status)] for n in range(5)), [])
    assert not any(one.is_fatal for one in found if one is not None)
    assert found[-1].cause is Cause.NO_WORKER


def test_a_worker_that_took_work_ends_the_count(fake: FakeRunpod) -> None:
    bad = [[("w1", "INITIALIZING")], [("w2", "INITIALIZING")], [("w3", "IDLE")], [("w4", "INITIALIZING")], []]
    assert not any(one.is_fatal for one in looks(fake, *bad) if one is not None)


def test_an_unhealthy_worker_is_named_and_hopeless_if_it_stays_so(fake: FakeRunpod) -> None:
    found = looks(fake, *[[("w1", "UNHEALTHY")]] * diagnosis_module.ILL_LOOKS)
    assert [one.cause for one in found] == [Cause.UNHEALTHY] * diagnosis_module.ILL_LOOKS
    assert [one.is_fatal for one in found][-2:] == [False, True]
    assert found[0].text.startswith("1 worker is unhealthy (w1)")
    assert "ImportError: libcuda.so.1" in found[0].text


def test_workers_that_may_not_start_are_said(fake: FakeRunpod) -> None:
    fake.endpoints["e1"]["workers"]["max"] = 0
    (found,) = looks(fake, [])
    assert "workers.max is 0" in found.text


def test_no_worker_at_all_says_what_may_be_the_reason(fake: FakeRunpod) -> None:
    (found,) = looks(fake, [])
    assert "account's limit" in found.text
    fake.script("workers", workers_answer([]))

    async def once() -> str | None:
        http = HttpClient(Connection(api_base=fake.base, key=KEY))
        try:
            return await diagnose(RestClient(http), "e1")
        finally:
            await http.aclose()

    assert asyncio.run(once()) == found.text
