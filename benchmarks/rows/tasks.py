# SPDX-License-Identifier: Apache-2.0
"""Many small tasks on two warm workers: how many a second, from how long a generator, and how they end on Ctrl-C."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from ..children import ChildFailed, command, expect, go_on, run_json, said_line, started
from ..contestants import DASK, FLASH, LOKY, RAY, Contestant
from ..environments import EnvironmentUnavailable
from ..figures import Bar, Figure
from ..hand_platform import hand_platform
from ..sizes import Sizes
from ..watching import MemoryWatch

__all__ = ["measure"]

#: Through what, its name in the report, its key for the program, environment.
WAYS: Final[tuple[tuple[str, str, str, Contestant], ...]] = (
    ("map", FLASH.name, "flash", FLASH),
    ("map", "Ray", "ray", RAY),
    ("map", "Dask", "dask", DASK),
    ("map", "loky", "loky", LOKY),
    ("joblib", FLASH.name, "joblib-flash", FLASH),
    ("joblib", "Ray", "joblib-ray", RAY),
    ("joblib", "Dask", "joblib-dask", DASK),
    ("joblib", "loky", "joblib-loky", LOKY),
    ("joblib", "threading", "joblib-threading", LOKY),
)

WORKERS: Final = 2
SHORT_S: Final = 0.005

#: Calls that are in flight when Ctrl-C is pressed, each of 50 ms.
INTERRUPTED_CALLS: Final = 1_000
#: Seconds that workers are busy before Ctrl-C, and that they are watched after it.
_BUSY_S: Final = 2.0
_WATCH_S: Final = 6.0

#: Seconds that the endless generator may take.
_MANY_LIMIT_S: Final = 1_800.0

_MB: Final = 1e6
_BROKEN: Final = (ChildFailed, EnvironmentUnavailable, psutil.Error, OSError, ValueError)


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield all figures of small tasks."""
    yield from _short(sizes)
    yield from _many(sizes)
    yield from _interrupted(sizes)


def _short(sizes: Sizes) -> Iterator[Figure]:
    for way, name, key, who in WAYS:
        what = f"{sizes.noops:,} no-op tasks, {way}"
        try:
            taken = run_json(who.python(), "short_tasks.py", key, sizes.repeats, sizes.noops, sizes.short)
        except (ChildFailed, EnvironmentUnavailable) as error:
            yield Figure(what, name, "tasks/s", (), note=str(error))
            continue
        is_ours = who is FLASH
        rates = tuple(sizes.noops / seconds for seconds in taken["noop"])
        yield Figure(what, name, "tasks/s", rates, Bar(10_000, is_floor=True) if is_ours else None)
        ideal_s = sizes.short * SHORT_S / WORKERS
        for kind, how in (("asleep", "asleep"), ("busy", "computing")):
            parts = tuple(ideal_s / seconds for seconds in taken[kind])
            bar = Bar(0.9, is_floor=True) if is_ours else None
            yield Figure(f"{sizes.short} tasks of 5 ms, {how}, {way}: efficiency", name, "", parts, bar)


def _many(sizes: Sizes) -> Iterator[Figure]:
    what = f"{sizes.many:,} tasks from a generator"
    spread = f"{what}: caller's memory, most minus least after the first tenth"
    try:
        program = command(FLASH.python(), "many_tasks.py", sizes.many)
        with started(program, timeout_s=_MANY_LIMIT_S) as client:
            expect(client, "warm")
            go_on(client)
            expect(client, "settled")
            with MemoryWatch(client.pid) as memory:
                seconds = float(said_line(client))
    except _BROKEN as error:
        yield Figure(what, FLASH.name, "tasks/s", (), note=str(error))
        return
    yield Figure(what, FLASH.name, "tasks/s", (sizes.many / seconds,))
    yield Figure(spread, FLASH.name, "MB", ((memory.most - memory.least) / _MB,), Bar(50))


def _interrupted(sizes: Sizes) -> Iterator[Figure]:
    what = f"Ctrl-C with {INTERRUPTED_CALLS:,} calls in flight: workers idle after"
    try:
        values = tuple(_seconds_to_idle() for _ in range(sizes.interrupts))
    except _BROKEN as error:
        yield Figure(what, FLASH.name, "s", (), note=str(error))
    else:
        yield Figure(what, FLASH.name, "s", values, Bar(2))


def _seconds_to_idle() -> float:
    """Return the seconds from Ctrl-C to the last sign of life of a call. The platform outlives the program."""
    with tempfile.TemporaryDirectory(prefix="bench-") as signs, hand_platform() as platform:
        program = command(FLASH.python(), "interrupted.py", INTERRUPTED_CALLS, signs)
        with started(program, env=platform.env) as client:
            expect(client, "submitted")
            _await_signs(Path(signs), WORKERS)
            time.sleep(_BUSY_S)
            pressed_at = time.time()  # files have the time of day
            client.send_signal(signal.SIGINT)
            expect(client, "interrupted")
        time.sleep(max(0.0, pressed_at + _WATCH_S - time.time()))
        return max(0.0, max(sign.stat().st_mtime for sign in Path(signs).iterdir()) - pressed_at)


def _await_signs(folder: Path, count: int) -> None:
    ends_at = time.monotonic() + 60.0
    while len(list(folder.iterdir())) < count:
        if time.monotonic() > ends_at:
            raise ChildFailed("interrupted.py: its workers did not begin within 60 s")
        time.sleep(0.01)
