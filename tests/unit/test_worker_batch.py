# SPDX-License-Identifier: Apache-2.0
"""Batches in a real runner process: each call for itself, in order, whatever one of them does."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from flash_plugins.batches import CallResult
from flash_plugins.code import dumps, loads
from flash_plugins.payload import Outcome
from flash_plugins.platforms import api
from flash_plugins.worker import supervisor
from flash_plugins.worker.handback import HandBack
from flash_plugins.worker.journal import Journal, path_of
from tests.unit.runner_process import batch_of, outcome_of, run, runner_process, single, values_of


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


def counting(folder: Path, index: int) -> None:
    """Note that a call began; more than once is more than one line."""
    with open(folder / f"call-{index}", "a") as file:
        file.write("began\n")


def counts(folder: Path) -> dict[int, int]:
    """Return how often each call began."""
    return {int(path.name.removeprefix("call-")): len(path.read_text().splitlines()) for path in folder.glob("call-*")}


async def appears(path: Path) -> None:
    """Wait for a file that a call makes."""
    deadline = time.monotonic() + 60
    while not await asyncio.to_thread(path.exists):
        assert time.monotonic() < deadline, path


def die_at(folder: Path, at: int, way: str, index: int) -> int:
    counting(folder, index)
    if index == at:
        match way:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "segfault":
                ctypes.string_at(0)
    return index


@pytest.mark.parametrize(
    ("way", "words"),
    [("kill", "SIGKILL (killed from outside"), ("exit", "exit code 3"), ("segfault", "SIGSEGV")],
)
def test_a_runner_that_dies_leaves_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, words: str
) -> None:
    content = batch_of(die_at, [(tmp_path, 2, way, index) for index in range(5)])

    async def scenario() -> None:
        async with runner_process(tmp_path, monkeypatch) as runner:
            outcome = outcome_of(await asyncio.create_task(runner.call("job-1", content)))
            assert values_of(outcome) == {0: 0, 1: 1}
            assert outcome.lost is not None
            assert outcome.lost[0] == 2
            assert words in outcome.lost[1]
            assert not outcome.returned
            assert counts(tmp_path) == {0: 1, 1: 1, 2: 1}
            again = outcome_of(await asyncio.create_task(runner.call("job-2", batch_of(twice, [(1,)]))))
            assert values_of(again) == {0: 2}
            assert again.pid is not None

    run(scenario())
    assert not list((tmp_path / "cache" / "journal").iterdir())


def test_batches_that_run_beside_one_that_dies_are_known_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_for_others(folder: Path, index: int) -> int:
        counting(folder, index)
        deadline = time.monotonic() + 30
        while len(list(folder.glob("call-*"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        if index == 100:
            os._exit(9)
        time.sleep(60 if index else 0)
        return index

    first = batch_of(wait_for_others, [(tmp_path, 0), (tmp_path, 1), (tmp_path, 2)])
    second = batch_of(wait_for_others, [(tmp_path, 100)])

    async def scenario() -> tuple[Outcome, Outcome]:
        async with runner_process(tmp_path, monkeypatch, concurrency=2) as runner:
            answers = await asyncio.gather(runner.call("one", first), runner.call("two", second))
            return outcome_of(answers[0]), outcome_of(answers[1])

    # The third file is that of call 1, which the first batch only reaches once the second has begun.
    (tmp_path / "call-7").touch()
    one, two = run(scenario())
    assert values_of(two) == {}
    assert two.lost is not None
    assert two.lost[0] == 0
    assert set(values_of(one)) <= {0}
    assert one.lost is not None
    assert one.lost[0] == len(one.results)


def test_a_job_that_a_lost_worker_began_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Journal(path_of(tmp_path / "cache", "job-1"), 3)
    kept.add(CallResult(0, 0.5, dumps("kept", what="it").data), [{"stream": "stdout", "text": "hello", "call": 0}])
    kept.close()
    outcome = answered(tmp_path, monkeypatch, batch_of(twice, [(1,), (2,), (3,)]))
    assert values_of(outcome) == {0: "kept"}
    assert outcome.lost == (1, "the worker that ran it was lost")
    assert [record["text"] for record in outcome.records] == ["hello"]
    assert not list((tmp_path / "cache" / "journal").iterdir())


def test_a_job_that_a_lost_worker_finished_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Journal(path_of(tmp_path / "cache", "job-1"), 1)
    kept.add(CallResult(0, 0.5, dumps("kept", what="it").data), [])
    kept.close()
    outcome = answered(tmp_path, monkeypatch, batch_of(twice, [(1,)]))
    assert values_of(outcome) == {0: "kept"}
    assert outcome.lost is None


def test_without_a_journal_results_come_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "journal").write_text("in the way")
    assert values_of(answered(tmp_path, monkeypatch, batch_of(twice, [(1,), (2,)]))) == {0: 2, 1: 4}


def test_a_journal_stays_until_the_outcome_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with runner_process(tmp_path, monkeypatch) as runner:

            async def as_the_sdk_does() -> bool:
                await runner.call("job/1", batch_of(twice, [(1,)]))
                return path_of(tmp_path / "cache", "job/1").exists()

            assert await asyncio.create_task(as_the_sdk_does())
            await asyncio.sleep(0)
            assert not path_of(tmp_path / "cache", "job/1").exists()

    run(scenario())


def slow_at(folder: Path, at: int, index: int) -> int:
    counting(folder, index)
    if index == at:
        deadline = time.monotonic() + 30
        while not (folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    return index


@pytest.mark.parametrize("concurrency", [1, 2])
def test_what_waits_behind_a_long_call_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    content = batch_of(slow_at, [(tmp_path, 1, index) for index in range(5)])
    chunks: list[Outcome] = []

    async def post(job_id: str, chunk: dict[str, Any]) -> None:
        assert job_id == "job-1"
        chunks.append(outcome_of(chunk))
        if chunks[-1].returned:
            (tmp_path / "go").touch()

    async def scenario() -> Outcome:
        hand_back = HandBack(after_s=0.3)
        async with runner_process(tmp_path, monkeypatch, concurrency=concurrency, hand_back=hand_back) as runner:
            runner.post = post
            return outcome_of(await runner.call("job-1", content))

    outcome = run(scenario())
    assert values_of(outcome) == {0: 0, 1: 1}
    assert outcome.returned == (2, 3, 4)
    assert counts(tmp_path) == {0: 1, 1: 1}
    assert chunks[-1].returned == (2, 3, 4)
    early = [one.index for chunk in chunks for one in chunk.results]
    assert early == [0]


def test_a_batch_of_calls_that_take_longer_than_expected_gives_the_rest_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nap(index: int) -> int:
        time.sleep(0.5)
        return index

    async def scenario() -> Outcome:
        hand_back = HandBack(after_s=60, batch_s=0.6)
        async with runner_process(tmp_path, monkeypatch, hand_back=hand_back) as runner:
            return outcome_of(await runner.call("job-1", batch_of(nap, [(index,) for index in range(40)])))

    outcome = run(scenario())
    ran = set(values_of(outcome))
    assert ran == set(range(len(ran)))
    assert len(ran) >= 2
    assert set(outcome.returned) == set(range(40)) - ran
    assert outcome.returned


def test_results_are_sent_while_a_call_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = batch_of(slow_at, [(tmp_path, 3, index) for index in range(5)])
    chunks: list[Outcome] = []

    async def post(_job_id: str, chunk: dict[str, Any]) -> None:
        chunks.append(outcome_of(chunk))
        (tmp_path / "go").touch()
        raise OSError("this one got lost")  # nobody minds: the outcome has everything again

    async def scenario() -> Outcome:
        async with runner_process(tmp_path, monkeypatch) as runner:
            runner.post = post
            return outcome_of(await runner.call("job-1", content))

    outcome = run(scenario())
    assert [one.index for one in chunks[0].results] == [0, 1, 2]
    assert values_of(outcome) == {index: index for index in range(5)}
    assert not outcome.returned


def test_too_many_bytes_end_a_job_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def large(index: int) -> bytes:
        return bytes(1_500_000)

    outcome = answered(tmp_path, monkeypatch, batch_of(large, [(index,) for index in range(6)]))
    assert [one.index for one in outcome.results] == [0, 1, 2]
    assert outcome.returned == (3, 4, 5)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_job_that_is_cancelled_stops_its_call_and_begins_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    async def slow(folder: Path, index: int) -> None:
        counting(folder, index)
        await asyncio.sleep(60 if index == 1 else 0)

    def slow_inline(folder: Path, index: int) -> None:
        counting(folder, index)
        time.sleep(60 if index == 1 else 0)

    function = slow if concurrency > 1 else slow_inline
    content = batch_of(function, [(tmp_path, index) for index in range(4)])

    async def scenario() -> None:
        async with runner_process(tmp_path, monkeypatch, concurrency=concurrency) as runner:
            task = asyncio.create_task(runner.call("job-1", content))
            await appears(tmp_path / "call-1")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            pid = runner._process.pid
            again = outcome_of(await asyncio.create_task(runner.call("job-2", batch_of(twice, [(4,)]))))
            assert values_of(again) == {0: 8}
            assert runner._process.pid == pid  # it stopped; it did not have to be killed
            assert again.pid == pid
            if concurrency == 1:  # with several slots it began beside what was being cancelled
                await asyncio.sleep(0)
                assert not list((tmp_path / "cache" / "journal").iterdir())

    run(scenario())
    assert counts(tmp_path) == {0: 1, 1: 1}


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_call_over_its_limit_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concurrency: int) -> None:
    async def slow(folder: Path, index: int) -> int:
        counting(folder, index)
        await asyncio.sleep(60 if index == 1 else 0)
        return index

    def slow_inline(folder: Path, index: int) -> int:
        counting(folder, index)
        time.sleep(60 if index == 1 else 0)
        return index

    function = slow if concurrency > 1 else slow_inline
    content = {**batch_of(function, [(tmp_path, index) for index in range(4)]), "limit_s": 0.5}
    found = values_of(answered(tmp_path, monkeypatch, content, concurrency=concurrency))
    assert found.pop(1).startswith("flash_plugins.errors.JobTimeout: the call ran longer than its limit of 0.5 s")
    assert found == {0: 0, 2: 2, 3: 3}
    assert counts(tmp_path) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_a_call_that_does_not_stop_at_its_limit_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stubborn(index: int) -> int:
        while index == 1:
            try:
                time.sleep(60)
            except BaseException:  # noqa: BLE001 - the point of this function
                print("no")
        return index

    monkeypatch.setattr(supervisor, "CANCEL_GRACE_S", 0.3)
    content = {**batch_of(stubborn, [(index,) for index in range(4)]), "limit_s": 0.3}
    outcome = answered(tmp_path, monkeypatch, content)
    found = values_of(outcome)
    assert found.pop(1).startswith("flash_plugins.errors.JobTimeout")
    assert found == {0: 0}
    assert outcome.lost is None
    assert not outcome.returned  # 2 and 3 were not begun: the caller sends them again


def test_a_single_call_over_its_limit_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {**single(time.sleep, 60), "limit_s": 0.3}

    async def scenario() -> Any:
        async with runner_process(tmp_path, monkeypatch) as runner:
            return await runner.call("job-1", content), await runner.call("job-2", single(twice, 2))

    timed_out, other = run(scenario())
    assert timed_out["error"].startswith(f"{api.RUN_LIMIT_PREFIX}the call ran longer than its limit of 0.3 s")
    assert loads(outcome_of(other).result or b"") == 4


def test_jobs_that_wait_behind_a_long_call_go_back_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long_one = batch_of(slow_at, [(tmp_path, 0, 0)])

    async def scenario() -> None:
        hand_back = HandBack(after_s=0.5, waiting_max=2)
        async with runner_process(tmp_path, monkeypatch, hand_back=hand_back) as runner:
            running = asyncio.create_task(runner.call("job-1", long_one))
            await appears(tmp_path / "call-0")
            batch, alone = await asyncio.gather(
                runner.call("job-2", batch_of(slow_at, [(tmp_path, 99, 5), (tmp_path, 99, 6)])),
                runner.call("job-3", single(slow_at, tmp_path, 99, 7)),
            )
            assert outcome_of(batch).returned == (0, 1)
            assert outcome_of(alone).returned == (0,)
            (tmp_path / "go").touch()
            assert values_of(outcome_of(await running)) == {0: 0}
            last = await runner.call("job-4", single(slow_at, tmp_path, 99, 8))
            assert loads(outcome_of(last).result or b"") == 8

    run(scenario())
    assert counts(tmp_path) == {0: 1, 8: 1}


def test_what_came_ahead_goes_back_when_what_runs_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with runner_process(tmp_path, monkeypatch, hand_back=HandBack(wait_s=0.3)) as runner:
            running = asyncio.create_task(runner.call("job-1", single(slow_at, tmp_path, 0, 0)))
            await appears(tmp_path / "call-0")
            ahead = await runner.call("job-2", single(slow_at, tmp_path, 99, 5))
            assert outcome_of(ahead).returned == (0,)
            ahead_of_cancelled = asyncio.create_task(runner.call("job-3", single(slow_at, tmp_path, 99, 7)))
            await asyncio.sleep(0)
            running.cancel()
            assert loads(outcome_of(await ahead_of_cancelled).result or b"") == 7

    run(scenario())
    assert counts(tmp_path) == {0: 1, 7: 1}


def test_a_worker_that_ends_sends_what_was_finished_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def die(_folder: Path) -> None:
        os.kill(os.getpid(), 9)

    async def call_and_send(runner: supervisor.RunnerProcess) -> None:
        await runner.call("job-1", single(slow_at, tmp_path, 99, 0))
        await asyncio.sleep(0.2)
        sent.append("job-1")

    async def scenario() -> None:
        async with runner_process(tmp_path, monkeypatch) as runner:

            def end_worker(self: supervisor.RunnerProcess, reason: str, code: int) -> None:
                sent.append("end")

            monkeypatch.setattr(supervisor.RunnerProcess, "_end_worker", end_worker)
            first = asyncio.create_task(call_and_send(runner))
            await asyncio.sleep(0)
            await runner.call("job-2", single(die, tmp_path))
            await first

    run(scenario())
    assert sent == ["job-1", "end"]


def test_a_child_that_a_call_forks_does_not_go_on_with_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork(folder: Path, index: int) -> int:
        counting(folder, index)
        if index == 0 and os.fork() != 0:
            os.wait()
        return index

    content = batch_of(fork, [(tmp_path, index) for index in range(3)])
    assert values_of(answered(tmp_path, monkeypatch, content)) == {0: 0, 1: 1, 2: 2}
    assert counts(tmp_path) == {0: 1, 1: 1, 2: 1}


def test_a_stubborn_call_over_its_limit_is_answered_before_its_worker_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "CANCEL_GRACE_S", 0.3)
    monkeypatch.setattr(supervisor, "_SENDING_S", 0.3)

    async def scenario() -> Any:
        async with runner_process(tmp_path, monkeypatch, concurrency=2) as runner:
            other = asyncio.create_task(runner.call("other", single(time.sleep, 60)))
            answer = await runner.call("job-1", {**single(time.sleep, 60), "limit_s": 0.3})
            with contextlib.suppress(asyncio.CancelledError):
                other.cancel()
                await other
            return answer

    assert run(scenario())["error"].startswith(api.RUN_LIMIT_PREFIX)


def test_without_a_journal_a_job_can_still_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "journal").write_text("in the way")
    content = batch_of(slow_at, [(tmp_path, 0, index) for index in range(3)])

    async def scenario() -> None:
        async with runner_process(tmp_path, monkeypatch) as runner:
            task = asyncio.create_task(runner.call("job-1", content))
            await appears(tmp_path / "call-0")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            pid = runner._process.pid
            again = outcome_of(await asyncio.create_task(runner.call("job-2", single(twice, 4))))
            assert again.pid == pid

    run(scenario())
    assert counts(tmp_path) == {0: 1}
