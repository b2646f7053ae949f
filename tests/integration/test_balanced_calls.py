# SPDX-License-Identifier: Apache-2.0
"""Calls of functions and classes with `transport="load_balanced"`, on the local platform with real workers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import flash_plugins
from flash_plugins import Endpoint
from flash_plugins.dispatcher import courier
from tests.integration.local_support import wait_for
from tests.support import require

require("uvicorn")

#: Generous: the box may be busy.
DEADLINE_S = 60.0

fast = Endpoint(name="fast", cpu="cpu5c-4-8", workers=(0, 2), transport="load_balanced", idle_timeout=120)
alone = Endpoint(name="fast-alone", cpu="cpu5c-4-8", workers=1, transport="load_balanced", idle_timeout=120)
elsewhere = Endpoint(name="fast-elsewhere", cpu="cpu5c-4-8", workers=1)


WITHOUT_A_STORE = """
import os
import flash_plugins
endpoint = flash_plugins.Endpoint(name="small", cpu="cpu5c-4-8", transport="load_balanced")
@endpoint
def echo(content):
    return content
@endpoint
def make(n):
    return bytes(n)
if __name__ == "__main__":
    content = os.urandom(29_000_000)
    assert echo(content).result(60) == content
    try:
        echo(bytes(31_000_000))
    except flash_plugins.PayloadTooLarge as error:
        assert "arguments: 31.0 MB" in str(error), error
        assert error.limit_bytes < 30_000_000 < error.size_bytes
    try:
        make(31_000_000).result(60)
    except flash_plugins.PayloadTooLarge as error:
        assert "result of make()" in str(error), error
        print("fine")
"""


class PricedError(Exception):
    def __init__(self, item: str, *, price: float) -> None:
        super().__init__(f"{item} costs {price}")
        self.price = price


@fast
def add(a: int, b: int = 1) -> int:
    return a + b


@fast
async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    return a + b


@fast
def fail() -> None:
    raise PricedError("apple", price=1.5)


@fast
def talk() -> int:
    print("printed on the worker")
    logging.getLogger("talk").warning("logged %s", "there")
    return os.getpid()


@fast
def echo(content: Any) -> Any:
    return content


@fast
def make_bytes(n: int) -> bytes:
    return bytes(n)


@fast
def meet(folder: str, name: str, others: int) -> int:
    """Return once so many have come here; each has a worker for itself."""
    Path(folder, name).touch()
    while len(os.listdir(folder)) < others:
        time.sleep(0.01)
    return len(os.listdir(folder))


@fast
def count(n: int) -> Iterator[int]:
    for number in range(n):
        print(f"yielding {number}")
        yield number


@fast
async def count_later(n: int) -> AsyncIterator[int]:
    for number in range(n):
        await asyncio.sleep(0)
        yield number


@fast
def fail_after(n: int) -> Iterator[int]:
    yield from range(n)
    raise PricedError("pear", price=2.5)


@alone
def stay(marker: str, seconds: float = DEADLINE_S) -> str:
    """Leave a marker while it runs, and return how it ended."""
    Path(marker).touch()
    try:
        time.sleep(seconds)
    finally:
        Path(marker).unlink()
    return "over"


@alone
def yield_for_ever(marker: str) -> Iterator[int]:
    Path(marker).touch()
    try:
        while True:
            yield 1
            time.sleep(0.01)
    finally:
        Path(marker).unlink()


@alone
def die_once(marker: str) -> str:
    path = Path(marker)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"


@alone
def end_the_worker() -> None:
    os.kill(os.getppid(), signal.SIGKILL)


@elsewhere
def triple(x: int) -> int:
    return 3 * x


@alone
def nested(x: int) -> list[int]:
    return [in_place(x).result(DEADLINE_S), triple(x).result(DEADLINE_S)]


@alone
def in_place(x: int) -> int:
    return x + os.getpid() - os.getpid()


@fast
class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, by: int = 1) -> int:
        self.value += by
        return self.value

    def values(self, n: int) -> Iterator[int]:
        for _ in range(n):
            self.value += 1
            yield self.value


@pytest.fixture(scope="module", autouse=True)
def left() -> Iterator[None]:
    yield
    flash_plugins.close()


def test_a_call_goes_from_no_worker_to_its_value() -> None:
    call = add(2, b=3)
    assert call.result(DEADLINE_S) == 5
    assert call.worker_id
    assert call.worker_pid not in (None, os.getpid())
    assert call.execution_s is not None


def test_coroutines_and_map() -> None:
    async def main() -> list[int]:
        return [*await asyncio.gather(add(1, 1), add_later(2, 2))]

    assert asyncio.run(main()) == [2, 4]
    assert list(add.map(range(50), range(50))) == [2 * n for n in range(50)]


def test_exceptions_and_output_are_as_on_a_queue(capsys: pytest.CaptureFixture[str], caplog: Any) -> None:
    with pytest.raises(PricedError) as caught:
        fail().result(DEADLINE_S)
    assert caught.value.price == 1.5
    assert "in fail" in str(caught.value.__cause__)
    assert talk().result(DEADLINE_S) != os.getpid()
    assert "printed on the worker" in capsys.readouterr().out
    assert [r.getMessage() for r in caplog.records if r.name == "talk"] == ["logged there"]


def test_generators_stream() -> None:
    assert list(count(300)) == list(range(300))
    assert count_later(5).result(DEADLINE_S) == [0, 1, 2, 3, 4]
    failing = iter(fail_after(2))
    assert [next(failing), next(failing)] == [0, 1]
    with pytest.raises(PricedError):
        next(failing)
    counter: Any = Counter(100)
    assert list(counter.values(3)) == [101, 102, 103]


def test_large_arguments_and_results_travel() -> None:
    for size in (20_000_000, 40_000_000):  # the latter by the store alone
        content = os.urandom(size)
        assert echo(content).result(DEADLINE_S) == content


def test_without_a_store_requests_take_thirty_megabytes_each_way(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(WITHOUT_A_STORE)
    environ = {**os.environ, "FLASH_PLUGINS_OBJECTS_MIN_BYTES": "1000000000"}
    done = subprocess.run([sys.executable, str(program)], env=environ, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_calls_get_workers_of_their_own_while_others_run(tmp_path: Path) -> None:
    calls = [meet(str(tmp_path), name, 2) for name in ("a", "b")]
    assert [call.result(DEADLINE_S) for call in calls] == [2, 2]
    assert len({call.worker_id for call in calls}) == 2


def test_calls_stay_with_the_worker_that_was_asked_for() -> None:
    counter: Any = Counter(0)
    first = counter.add()
    first.result(DEADLINE_S)
    on_it = counter.add.with_options(worker=first.worker_id)
    calls = [on_it() for _ in range(20)]
    assert sorted(call.result(DEADLINE_S) for call in calls) == list(range(2, 22))
    assert {call.worker_id for call in calls} == {first.worker_id}


def test_a_worker_that_is_gone_is_an_error() -> None:
    with pytest.raises(flash_plugins.WorkerLost, match="nowhere"):
        add.with_options(worker="nowhere")(1).result(DEADLINE_S)


def test_a_long_call_is_accepted_and_then_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "ASK_HOLD_S", 0.3)
    call = stay(str(tmp_path / "runs"), 2.5)
    assert call.result(DEADLINE_S) == "over"
    assert call.job_id is not None


def test_calls_behind_a_long_one_wait_and_run_in_the_end(tmp_path: Path) -> None:
    calls = [stay(str(tmp_path / f"runs-{n}"), 1.2) for n in range(3)]
    assert [call.result(DEADLINE_S) for call in calls] == ["over"] * 3


@pytest.mark.parametrize("after_s", [0.0, 1.5], ids=["before it is accepted", "after"])
def test_cancelling_reaches_running_code(tmp_path: Path, after_s: float) -> None:
    marker = tmp_path / "runs"
    call = stay(str(marker))
    wait_for(marker.exists)
    time.sleep(after_s)
    assert call.cancel()
    wait_for(lambda: not marker.exists(), timeout_s=20)
    assert in_place(4).result(DEADLINE_S) == 4


def test_dropping_a_generator_stops_it(tmp_path: Path) -> None:
    marker = tmp_path / "runs"
    values = iter(yield_for_ever(str(marker)))
    assert next(values) == 1
    values.close()  # type: ignore[attr-defined]  # a generator
    wait_for(lambda: not marker.exists(), timeout_s=20)


def test_a_time_limit_of_a_call_is_kept(tmp_path: Path) -> None:
    marker = tmp_path / "runs"
    with pytest.raises(flash_plugins.JobTimeout) as caught:
        stay.with_options(run_timeout=0.5)(str(marker)).result(DEADLINE_S)
    assert caught.value.limit == "run_timeout"
    wait_for(lambda: not marker.exists(), timeout_s=20)


def test_time_limits_on_waiting_and_on_all_of_it_are_kept(tmp_path: Path) -> None:
    running, marker = stay(str(tmp_path / "first")), tmp_path / "second"
    wait_for((tmp_path / "first").exists)
    with pytest.raises(flash_plugins.JobTimeout) as caught:
        stay.with_options(queue_timeout=2.0)(str(marker)).result(DEADLINE_S)
    assert caught.value.limit == "queue_timeout"
    assert not marker.exists()
    running.cancel()
    with pytest.raises(flash_plugins.JobTimeout) as caught:
        stay.with_options(timeout=2.0)(str(marker)).result(DEADLINE_S)
    assert caught.value.limit == "timeout"
    wait_for(lambda: not marker.exists(), timeout_s=20)


def test_a_call_that_failed_is_tried_again_if_its_options_say_so(tmp_path: Path) -> None:
    tried = die_once.with_options(retries=1, backoff=0.1)(str(tmp_path / "marker"))
    assert tried.result(DEADLINE_S) == "second"


def test_a_process_that_dies_loses_its_call_unless_that_may_run_twice(tmp_path: Path) -> None:
    with pytest.raises(flash_plugins.WorkerLost, match="SIGKILL"):
        die_once(str(tmp_path / "one")).result(DEADLINE_S)
    again = die_once.with_options(idempotent=True)
    assert again(str(tmp_path / "two")).result(DEADLINE_S) == "second"


def test_a_worker_that_dies_loses_its_call_and_another_takes_the_next() -> None:
    with pytest.raises(flash_plugins.WorkerLost):
        end_the_worker().result(DEADLINE_S)
    assert in_place(1).result(DEADLINE_S) == 1


def test_a_worker_calls_its_own_endpoint_in_place_and_others_through_the_platform() -> None:
    assert nested(5).result(DEADLINE_S) == [5, 15]


def test_an_endpoint_of_the_other_kind_is_not_replaced() -> None:
    queue = Endpoint(name="fast", cpu="cpu5c-4-8", workers=(0, 2), idle_timeout=120)
    with pytest.raises(flash_plugins.ConfigError, match="LOAD_BALANCER"):
        queue(add.undecorated)(1).result(DEADLINE_S)


def test_it_can_be_deployed_planned_and_called_afterwards() -> None:
    deployed = fast.provision().result(DEADLINE_S)
    assert deployed.base_url is not None
    assert add(5, 5).result(DEADLINE_S) == 10


def test_calls_of_many_threads_at_once() -> None:
    found: list[int] = []

    def use(n: int) -> None:
        found.append(add(n, n).result(DEADLINE_S))

    threads = [threading.Thread(target=use, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [2 * n for n in range(20)]
