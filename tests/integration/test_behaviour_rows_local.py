# SPDX-License-Identifier: Apache-2.0
"""What `runpod_flash.Endpoint` does and ours shares, row by row of the table in docs/endpoint.md, with real workers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from flash_plugins import Endpoint
from tests.support import ROOT, RUN_MARK

#: Generous: the box may be busy.
DEADLINE_S = 60.0

queue = Endpoint(name="rows", cpu="cpu5c-4-8")


@queue
def plain(a: int, b: int = 1) -> int:
    return a + b


@queue
async def later(a: int) -> int:
    await asyncio.sleep(0)
    return a + 1


@queue
def fail(text: str) -> None:
    raise LookupError(text)


@queue
class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, n: int) -> tuple[int, int]:
        self.value += n
        return self.value, os.getpid()

    async def add_later(self, n: int) -> tuple[int, int]:
        return self.add(n)


def test_row_14_a_decorated_function_is_awaited_also_where_it_is_no_coroutine() -> None:
    async def main() -> list[int]:
        return [await plain(1), await plain(1, b=5), await later(1)]

    assert asyncio.run(main()) == [2, 6, 2]


def test_row_14_asyncio_run_takes_the_call_itself() -> None:
    assert asyncio.run(plain(2)) == 3


def test_row_17_calls_go_to_workers_and_on_a_worker_of_its_own_it_is_the_plain_function() -> None:
    @queue
    def twice(a: int) -> tuple[int, int]:
        return plain(a).result(), os.getpid()

    result, pid = twice(3).result(DEADLINE_S)
    assert result == 4
    assert pid != os.getpid()


def test_row_18_without_an_account_a_call_runs_on_the_local_platform(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FLASH_", "RUNPOD_"))}
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**environment, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), RUN_MARK: os.environ[RUN_MARK]},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (done.stdout, done.returncode) == ("42\n", 0), done.stderr
    assert "platform local (no Runpod API key is configured)" in done.stderr


#: Nothing is set, and there is no account.
PROGRAM = """
import asyncio
from flash_plugins import Endpoint

@Endpoint(name="rows-alone", cpu="cpu5c-4-8")
async def answer() -> int:
    return 42

print(asyncio.run(answer()))
"""


def test_row_19_lambdas_closures_and_the_modules_beside_them_travel() -> None:
    step = 3
    from_a_lambda = queue(lambda x: x + step)

    @queue
    def nested(x: int) -> int:
        return int(from_a_lambda.local(x)) * len(DEADLINES)

    assert asyncio.run(from_a_lambda(1)) == 4
    assert asyncio.run(nested(1)) == 8


DEADLINES = (DEADLINE_S, DEADLINE_S)


def test_row_21_a_remote_exception_is_raised_here_with_the_remote_traceback() -> None:
    with pytest.raises(LookupError, match="nothing there") as caught:
        fail("nothing there").result(DEADLINE_S)
    shown = "".join(traceback.format_exception(caught.value))
    assert "raise LookupError(text)" in shown
    assert "test_behaviour_rows_local.py" in shown


def test_row_22_a_class_is_one_instance_for_equal_constructor_arguments() -> None:
    async def main() -> list[tuple[int, int]]:
        counter: Any = Counter(10)
        same: Any = Counter(10)
        other: Any = Counter(100)
        return [await counter.add(1), await same.add_later(1), await other.add(1), await counter.add(1)]

    results = asyncio.run(main())
    assert [value for value, _ in results] == [11, 12, 101, 13]
    assert len({pid for _, pid in results}) == 1


def test_row_22_private_names_are_attribute_errors() -> None:
    counter: Any = Counter(0)
    with pytest.raises(AttributeError, match="private"):
        counter._add  # noqa: B018 - looking is the test
