# SPDX-License-Identifier: Apache-2.0
"""A load-balanced worker that runs calls, as a process of its own: what its answers say, whatever happens to it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from flash_plugins import code
from flash_plugins.binary import unpack
from flash_plugins.exchange import CALLS_PATH, KEY_HEADER, CallAnswer, CallState, proof_of, request_body
from flash_plugins.objects.digest import digest_of
from flash_plugins.payload import CallEnvelope, Outcome, decode_outcome
from flash_plugins.platforms import api
from tests.support import require
from tests.unit.worker_process import DEADLINE_S, Answer, Worker, worker

require("uvicorn")


def envelope_of(function: Any, *args: Any, **kwargs: Any) -> CallEnvelope:
    pickled = code.dumps(function, what="the function").data
    arguments = code.dumps((args, kwargs), what="the arguments").data
    return CallEnvelope(
        code=digest_of(pickled),
        args=arguments,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        blobs={digest_of(pickled): pickled},
    )


class Caller:
    """Speaks to one worker."""

    def __init__(self, worker: Worker, **headers: str) -> None:
        self.worker = worker
        self.headers = headers

    def post(self, call_id: str, function: Any, *args: Any, **options: Any) -> CallAnswer:
        envelope = envelope_of(function, *args)
        blobs = options.pop("blobs", envelope.needs)
        options = {"streams": False, "hold_s": DEADLINE_S, **options}
        return self.answer(self.send("POST", CALLS_PATH, request_body(call_id, envelope, blobs, **options)))

    def get(self, call_id: str, *, after: int = 0, hold: float = DEADLINE_S) -> CallAnswer:
        return self.answer(self.send("GET", f"{CALLS_PATH}/{call_id}?after={after}&hold={hold}"))

    def delete(self, call_id: str) -> CallAnswer:
        return self.answer(self.send("DELETE", f"{CALLS_PATH}/{call_id}"))

    def send(self, method: str, path: str, body: bytes | None = None) -> Answer:
        return self.worker.request(method, path, body, headers=self.headers, timeout_s=2 * DEADLINE_S)

    def answer(self, answer: Answer) -> CallAnswer:
        assert answer.status == 200, answer
        return CallAnswer.parse(answer.body)


def calls_worker(folder: Path, **variables: str) -> AbstractContextManager[Worker]:
    variables[api.HANDLER_ENV] = api.HANDLER_CALLS
    return worker(None, folder, is_ready=True, command=("-m", "flash_plugins.worker"), **variables)


def outcome_of(answer: CallAnswer) -> Outcome:
    assert answer.state is CallState.DONE, answer
    return decode_outcome(unpack(answer.outcome or b""))


def value_of(answer: CallAnswer) -> Any:
    outcome = outcome_of(answer)
    assert outcome.failure is None, outcome.failure
    return code.loads(outcome.result or b"")


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("worker")
    with calls_worker(folder, RUNPOD_POD_ID="w1") as running:
        yield running


@pytest.fixture
def caller(shared: Worker) -> Caller:
    return Caller(shared)


def add(a: int, b: int) -> int:
    print("adding")
    return a + b


def test_a_call_is_answered_with_its_outcome(caller: Caller) -> None:
    answer = caller.post("one", add, 2, 3)
    assert (answer.worker, value_of(answer)) == ("w1", 5)
    outcome = outcome_of(answer)
    assert (outcome.worker, outcome.records) == ("w1", [{"stream": "stdout", "text": "adding\n"}])
    assert outcome.pid != caller.worker.process.pid


def test_blobs_that_it_lacks_are_named(caller: Caller) -> None:
    def lacking() -> int:
        return 7

    missing = outcome_of(caller.post("lacks", lacking, blobs=())).missing
    assert missing == envelope_of(lacking).needs
    assert value_of(caller.post("lacks-2", lacking)) == 7
    assert value_of(caller.post("lacks-3", lacking, blobs=())) == 7


def test_an_exception_is_an_outcome(caller: Caller) -> None:
    def fail() -> None:
        raise ValueError("no")

    failure = outcome_of(caller.post("fails", fail)).failure
    assert failure is not None
    assert failure["message"] == "no"


def test_twenty_megabytes_travel_both_ways(caller: Caller) -> None:
    def echo(content: bytes) -> bytes:
        return content

    content = os.urandom(20_000_000)
    assert value_of(caller.post("large", echo, content)) == content


def test_a_result_that_no_answer_can_carry_is_an_error_of_the_call(caller: Caller) -> None:
    def much() -> bytes:
        return bytes(30_000_000)

    failure = outcome_of(caller.post("much", much)).failure
    assert failure is not None
    assert "PayloadTooLarge" in failure["type"]


def test_a_call_that_is_sent_again_is_not_run_again(caller: Caller, tmp_path: Path) -> None:
    def note(path: str) -> int:
        with open(path, "a") as file:
            file.write("x")
        time.sleep(0.3)
        return os.path.getsize(path)

    path = str(tmp_path / "runs")
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: value_of(caller.post("same", note, path)), range(3)))
    assert answers == [1, 1, 1]
    assert value_of(caller.post("same", note, path)) == 1
    assert value_of(caller.get("same")) == 1


def test_a_long_call_is_accepted_and_then_fetched(caller: Caller, tmp_path: Path) -> None:
    def wait_for(path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.01)
        return "over"

    path = tmp_path / "go"
    assert caller.post("long", wait_for, str(path), hold_s=0.2).state is CallState.ACCEPTED
    assert caller.get("long", hold=0.1).state is CallState.ACCEPTED
    threading.Timer(0.2, path.touch).start()
    assert value_of(caller.get("long")) == "over"
    assert value_of(caller.get("long")) == "over"  # the first answer may have been lost


def test_a_call_that_waits_behind_another_is_given_back(caller: Caller, tmp_path: Path) -> None:
    def wait_for(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.01)

    path = tmp_path / "go"
    assert caller.post("first", wait_for, str(path), hold_s=0.2).state is CallState.ACCEPTED
    assert caller.post("second", add, 1, 1, hold_s=0.2).state is CallState.BUSY
    assert caller.get("second").state is CallState.UNKNOWN
    path.touch()
    assert value_of(caller.post("second", add, 1, 1)) == 2


def touch_and_sleep(path: str, seconds: float) -> None:
    open(path, "w").close()
    try:
        time.sleep(seconds)
    finally:
        os.unlink(path)


def test_a_call_that_is_deleted_stops(caller: Caller, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    assert caller.post("stop", touch_and_sleep, str(path), 60.0, hold_s=0.5).state is CallState.ACCEPTED
    wait_for_file(path)
    assert caller.delete("stop").state is CallState.CANCELLED
    assert value_of(caller.post("next", os.path.exists, str(path))) is False


def test_a_call_whose_caller_goes_away_before_the_answer_stops(caller: Caller, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    body = request_body("left", envelope_of(touch_and_sleep, str(path), 60.0), (), streams=False, hold_s=60)
    value_of(caller.post("left-0", touch_and_sleep, str(path), 0.0))  # so that it has the code
    with socket.create_connection(("127.0.0.1", caller.worker.port)) as connection:
        head = f"POST {CALLS_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_for_file(path)
    assert value_of(caller.post("after", os.path.exists, str(path))) is False
    assert value_of(caller.post("left", add, 1, 2)) == 3  # sent again, it begins anew


def test_a_time_limit_stops_a_call(caller: Caller, tmp_path: Path) -> None:
    answer = caller.post("limited", touch_and_sleep, str(tmp_path / "runs"), 60.0, limit_s=0.3)
    assert answer.state is CallState.TIMED_OUT
    assert value_of(caller.post("free", add, 1, 1)) == 2


def test_a_process_that_dies_takes_its_call_and_not_the_worker(caller: Caller) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    answer = caller.post("dies", die)
    assert answer.state is CallState.LOST
    assert "SIGKILL" in str(answer.reason)
    assert value_of(caller.post("lives", add, 2, 2)) == 4


def test_yielded_values_are_fetched_from_any_place_on(caller: Caller) -> None:
    def count(n: int) -> Iterator[int]:
        for number in range(n):
            time.sleep(0.01)
            yield number

    answer = caller.post("stream", count, 300, streams=True)
    values: list[object] = []
    while True:
        assert answer.first <= len(values)
        outcomes = [decode_outcome(unpack(chunk)) for chunk in answer.chunks][len(values) - answer.first :]
        places = [outcome.index for outcome in outcomes]
        assert places == [*range(len(values), len(values) + len(outcomes))]
        values += [code.loads(outcome.chunk or b"") for outcome in outcomes]
        if answer.state is not CallState.ACCEPTED:
            break
        caller.get("stream", after=len(values))  # as if this answer had been lost
        answer = caller.get("stream", after=len(values))
    end = outcome_of(answer)
    assert (values, end.ended, end.count) == (list(range(300)), True, 300)


def test_a_generator_goes_no_further_ahead_than_it_is_fetched(caller: Caller, tmp_path: Path) -> None:
    def ahead(path: str) -> Iterator[bytes]:
        for number in range(100):
            with open(path, "w") as file:
                file.write(str(number))
            yield bytes(1_000_000)

    path = tmp_path / "number"
    caller.post("ahead", ahead, str(path), streams=True)
    last = ""
    while path.read_text() != last:
        last = path.read_text()
        time.sleep(0.5)
    assert 8 <= int(last) < 60
    assert caller.delete("ahead").state is not CallState.DONE


def test_whoever_does_not_know_the_key_is_refused(tmp_path: Path) -> None:
    with calls_worker(tmp_path, FLASH_PLUGINS_PLATFORM_KEY="s3cret") as running:
        body = request_body("x", envelope_of(add, 1, 1), (), streams=False, hold_s=1)
        for headers in ({}, {KEY_HEADER: "wrong"}, {KEY_HEADER: "s3cret"}):
            assert running.request("POST", CALLS_PATH, body, headers=headers).status == 403
        assert value_of(Caller(running, **{KEY_HEADER: proof_of("s3cret")}).post("x", add, 1, 1)) == 2
        assert running.get("/elsewhere").status == 404
        assert running.stop() == 0


def test_several_calls_run_at_once_and_further_ones_wait(tmp_path: Path) -> None:
    def meet(folder: str, name: str, others: int) -> int:
        open(os.path.join(folder, name), "w").close()
        while len(os.listdir(folder)) < others:
            time.sleep(0.01)
        return len(os.listdir(folder))

    (tmp_path / "met").mkdir()
    with calls_worker(tmp_path, FLASH_PLUGINS_CALLS_AT_ONCE="2") as running, ThreadPoolExecutor() as pool:
        caller = Caller(running)
        both = [pool.submit(caller.post, name, meet, str(tmp_path / "met"), name, 2) for name in ("a", "b")]
        assert [value_of(one.result()) for one in both] == [2, 2]


def test_what_is_no_call_is_refused(caller: Caller) -> None:
    assert caller.send("POST", CALLS_PATH, b"{}").status == 400
    assert caller.send("PUT", f"{CALLS_PATH}/x", b"").status == 405
    assert caller.get("never-sent").state is CallState.UNKNOWN
    assert caller.delete("never-sent").state is CallState.UNKNOWN
