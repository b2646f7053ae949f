# SPDX-License-Identifier: Apache-2.0
"""What becomes of large objects when calls fail, stores are full, and processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import flash_plugins
from flash_plugins import Endpoint, PayloadTooLarge, UnpicklableError, process
from flash_plugins.objects.holds import HELD_PREFIX

#: Generous: the box may be busy.
DEADLINE_S = 60.0

endpoint = Endpoint(name="objects-endings", cpu="cpu5c-4-8", workers=(0, 1))


@endpoint
def total(x: Any, other: Any = None) -> float:
    return float(x.sum())


@endpoint
def zeros(size: int) -> Any:
    return np.zeros(size)


@endpoint
def sleep(x: Any, seconds: float) -> float:
    time.sleep(seconds)
    return float(x.sum())


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    yield
    flash_plugins.close()


def eventually(is_so: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < ends_at, what
        time.sleep(0.02)


def store() -> Path:
    url = process.session().objects_url(endpoint.config)
    assert url is not None
    return Path(urlsplit(url).path)


def unheld() -> set[str]:
    return {entry.name for entry in os.scandir(store() / "objects") if entry.stat().st_nlink == 1}


def test_what_could_not_be_sent_is_let_go() -> None:
    total(np.zeros(20_000)).result(DEADLINE_S)
    before = unheld()
    with pytest.raises(UnpicklableError, match="argument 'other'"):
        total(np.ones(50_000), threading.Lock())
    assert len(unheld() - before) == 1


def test_what_a_cancelled_call_was_sent_is_let_go() -> None:
    total(np.zeros(20_000)).result(DEADLINE_S)
    before = unheld()
    call = sleep(np.ones(50_000), 60)
    eventually(call.running, "the call did not begin")
    assert call.cancel()
    eventually(lambda: len(unheld() - before) == 1, "the array is still held")


def test_what_a_call_would_have_been_sent_with_is_let_go() -> None:
    total(np.zeros(20_000)).result(DEADLINE_S)
    before = unheld()
    running = sleep(np.zeros(20_000), 60)
    eventually(running.running, "the call did not begin")
    waiting = [total(np.full(50_000, float(number))) for number in range(10)]
    for call in waiting:
        call.cancel()
    eventually(lambda: len(unheld() - before) == 10, "arrays of calls that were never sent are still held")
    running.cancel()


def test_more_than_fits_goes_through_a_full_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_PLUGINS_OBJECTS_MAX_BYTES", "20000000")
    arrays = (np.full(250_000, float(number)) for number in range(60))
    assert list(total.map(arrays)) == [number * 250_000 for number in range(60)]
    assert all((result == 0).all() for result in zeros.map(range(250_000, 250_030)))
    stored = sum(entry.stat().st_size for entry in os.scandir(store() / "objects"))
    assert stored <= 60_000_000  # of 180 MB: what was in flight together may have been more than fits


def test_without_a_store_objects_travel_with_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_PLUGINS_OBJECTS", "off")
    x = np.arange(500_000.0)

    @endpoint
    def element(number: int) -> float:
        return float(x[number])

    assert [call.result(DEADLINE_S) for call in [element(number) for number in range(20)]] == list(range(20))
    assert zeros(100_000).result(DEADLINE_S).shape == (100_000,)
    assert process.session().objects_url(endpoint.config) is None
    with pytest.raises(PayloadTooLarge, match=r"large objects: .*docs/objects.md"):
        total(np.zeros(5_000_000))
    with pytest.raises(PayloadTooLarge, match=r"the result of zeros\(\).*docs/objects.md"):
        zeros(5_000_000).result(DEADLINE_S)


def test_a_platform_that_is_killed_takes_its_folder_along() -> None:
    x = np.arange(100_000.0)
    assert total(x).result(DEADLINE_S) == x.sum()
    folder, running = store(), process.session().platform()._running  # type: ignore[attr-defined]
    os.kill(running.pid, signal.SIGKILL)
    eventually(lambda: not folder.exists(), "the folder of a killed platform is still there")

    def is_sent_again() -> bool:
        try:
            return bool(total(x).result(DEADLINE_S) == x.sum())
        except flash_plugins.PlatformError:  # the one that was lost
            return False

    eventually(is_sent_again, "no call succeeds on the next platform")
    assert store() != folder


PROGRAM = """
import sys, time
import numpy as np
from flash_plugins import Endpoint, process, put
endpoint = Endpoint(name="objects-killed", workers=(0, 1))

@endpoint
def total(x):
    return float(x.sum())

if __name__ == "__main__":
    ref = put(np.ones(100_000))
    assert total(ref).result(60) == 100_000
    space = process.session().objects.space()
    print(space.cache.root, space.cache._holds.path, flush=True)
    time.sleep(600)
"""


def test_a_caller_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        folder, held = map(Path, program.stdout.readline().split())
        assert folder.is_dir()
        assert held.name.startswith(HELD_PREFIX.format(os.getuid()))
        program.kill()
    eventually(lambda: not folder.exists() and not held.exists(), "a killed program leaves objects behind")
