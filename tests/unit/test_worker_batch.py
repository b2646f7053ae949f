# SPDX-License-Identifier: Apache-2.0
"""Batches in a real runner process: each call for itself, in order, whatever one of them does."""

from __future__ import annotations

import asyncio
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from flash_plugins.payload import Outcome
from tests.unit.runner_process import batch_of, outcome_of, run, runner_process, values_of


def answered(folder: Path, monkeypatch: pytest.MonkeyPatch, content: Any, *, concurrency: int = 1) -> Outcome:
    """Return what a runner makes of a job."""

    async def scenario() -> Outcome:
        async with runner_process(folder, monkeypatch, concurrency=concurrency) as runner:
            return outcome_of(await runner.call("job-1", content))

    outcome: Outcome = run(scenario())
    return outcome


def twice(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize("concurrency", [1, 2])
def test_the_calls_of_a_batch_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int) -> None:
    seen: list[int] = []

    def note(x: int) -> list[int]:
        seen.append(x)
        return list(seen)

    outcome = answered(tmp_path, monkeypatch, batch_of(note, [(5,), (3,), (4,)]), concurrency=concurrency)
    assert values_of(outcome) == {0: [5], 1: [5, 3], 2: [5, 3, 4]}
    assert [one.index for one in outcome.results] == [0, 1, 2]
    assert all(0 <= one.seconds < 60 for one in outcome.results)
    assert outcome.pid is not None
    assert not outcome.returned
    assert outcome.lost is None


def misbehave(way: str) -> Any:
    match way:
        case "value":
            raise ValueError("a value")
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "lambda":
            return (letter for letter in way)
        case "large":
            return bytes(9_000_000)
        case "group":
            raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])
        case "cancelled":
            raise asyncio.CancelledError
    return way


def test_what_one_call_raises_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = ["fine", "value", "exit", "interrupt", "lambda", "large", "group", "cancelled", "fine again"]
    found = values_of(answered(tmp_path, monkeypatch, batch_of(misbehave, [(way,) for way in ways])))
    assert [found[index].partition(": ")[0] for index in range(len(ways))] == [
        "fine",
        "ValueError",
        "SystemExit",
        "KeyboardInterrupt",
        "flash_plugins.errors.UnpicklableError",
        "flash_plugins.errors.PayloadTooLarge",
        "ExceptionGroup",
        "asyncio.exceptions.CancelledError",
        "fine again",
    ]


def test_wrong_arguments_fail_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = values_of(answered(tmp_path, monkeypatch, batch_of(twice, [(1,), (1, 2), (3,)])))
    assert found[0] == 2
    assert found[1].startswith("TypeError")
    assert found[2] == 6


def test_records_name_their_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def speak(x: int) -> None:
        if x % 2:
            print("call", x)
            warnings.warn(f"beware of {x}", stacklevel=1)

    outcome = answered(tmp_path, monkeypatch, batch_of(speak, [(x,) for x in range(4)]))
    texts = [(record["call"], record.get("text") or record.get("warning")) for record in outcome.records]
    assert texts == [(1, "call 1\n"), (1, "beware of 1"), (3, "call 3\n"), (3, "beware of 3")]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_coroutines_are_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int) -> None:
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    outcome = answered(tmp_path, monkeypatch, batch_of(later, [(1,), (2,)]), concurrency=concurrency)
    assert values_of(outcome) == {0: 2, 1: 3}


class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, x: int) -> int:
        self.value += x
        return self.value


def test_methods_share_their_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = batch_of(Counter, [(1,), (2,)], instance=(10,), method="add")
    assert values_of(answered(tmp_path, monkeypatch, content)) == {0: 11, 1: 13}


def test_code_that_is_missing_stops_the_batch_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = batch_of(twice, [(1,), (2,)])
    outcome = answered(tmp_path, monkeypatch, {**content, "blobs": {}})
    assert outcome.missing == (content["code"],)
    assert not outcome.results


def test_code_that_cannot_be_loaded_fails_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = answered(tmp_path, monkeypatch, {**batch_of(twice, [(1,), (2,)]), "python": "2.7"})
    assert outcome.failure is not None
    assert "Python 2.7" in outcome.failure["message"]
    assert not outcome.results
