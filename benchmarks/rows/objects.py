# SPDX-License-Identifier: Apache-2.0
"""Large arrays: a grid search over one, a closure over one, one as argument and as result. Two warm workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from ..children import ChildFailed, command, expect, go_on, run_json, said_line, started
from ..contestants import DASK, FLASH, LOKY, RAY, Contestant
from ..environments import EnvironmentUnavailable
from ..figures import Bar, Figure
from ..hand_platform import hand_platform
from ..sizes import Sizes
from ..watching import MemoryWatch, StoredFiles

__all__ = ["measure"]

_MB: Final = 1e6
#: Bytes of a row of the search's array, of its label, and of its places in five folds.
_ROW_BYTES: Final = 8 * (250 + 1 + 5)
_ARRAY_ROW_BYTES: Final = 8 * 250

CLOSURE_CALLS: Final = 100
CLOSURE_MB: Final = 8

#: How names begin of what contestants have in shared memory.
_SHARED_NAMES: Final = {FLASH: "flash-plugins-", LOKY: "joblib_memmapping_folder_"}

#: What a program that could not be watched to its end raises.
_BROKEN: Final = (ChildFailed, EnvironmentUnavailable, psutil.Error, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Search:
    """One program, which did the search twice over the same data.

    Attributes:
        first_s: Seconds of the first search.
        second_s: Seconds of the second.
        score: Best score.
        ready_bytes: Resident memory of the caller with the data in it, before anything of it was sent.
        peak_bytes: The most during both searches.
        stored_bytes: What was written to shared memory and to the platform's folder during the first search.
        again_bytes: What was written there during the second.
    """

    first_s: float
    second_s: float
    score: str
    ready_bytes: int
    peak_bytes: int
    stored_bytes: int
    again_bytes: int


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield all figures of large objects."""
    yield from _searches(sizes)
    yield from _search_on_the_wire(sizes)
    yield from _closures(sizes)
    yield from _arrays(sizes)


def _searches(sizes: Sizes) -> Iterator[Figure]:
    array_bytes = sizes.large_samples * _ARRAY_ROW_BYTES
    title = f"grid search of {5 * sizes.large_candidates} fits, X of {array_bytes / _MB:g} MB"
    runs: dict[Contestant, list[Search]] = {who: [] for who in (FLASH, LOKY, DASK, RAY)}
    broken: dict[Contestant, str] = {}
    for _ in range(sizes.large_runs):
        for who in [who for who in runs if who not in broken]:
            try:
                runs[who].append(_search(who, sizes))
            except _BROKEN as error:
                broken[who] = str(error)
    for who, found in runs.items():
        if who in broken:
            yield Figure(title, who.name, "s", (), note=broken[who])
            continue
        yield Figure(title, who.name, "s", tuple(run.first_s for run in found))
        yield Figure(f"{title}: again", who.name, "s", tuple(run.second_s for run in found))
        bar = Bar((array_bytes + 150 * _MB) / _MB) if who is FLASH else None
        peaks = tuple(run.peak_bytes / _MB for run in found)
        yield Figure(f"{title}: caller's peak memory, all of it", who.name, "MB", peaks, bar)
        more = tuple((run.peak_bytes - run.ready_bytes) / _MB for run in found)
        yield Figure(f"{title}: caller's peak memory beyond its own with X", who.name, "MB", more)
        if who in (FLASH, LOKY):  # the memory that others share has no names
            unique = sizes.large_samples * _ROW_BYTES
            stored = tuple(run.stored_bytes / unique for run in found)
            bar = Bar(1.1) if who is FLASH else None
            yield Figure(f"{title}: stored, of unique content", who.name, "times", stored, bar)
            again = tuple(run.again_bytes / _MB for run in found)
            yield Figure(f"{title}: stored by a second fit", who.name, "MB", again, Bar(1) if who is FLASH else None)
    if not {FLASH, LOKY} & broken.keys():
        pairs = zip(runs[FLASH], runs[LOKY], strict=True)
        yield Figure(
            f"{title}: wall, of that of loky",
            FLASH.name,
            "times",
            tuple(ours.first_s / loky.first_s for ours, loky in pairs),
            Bar(1.2),
        )
        scores = {run.score for found in runs.values() for run in found}
        if len(scores) > 1:
            yield Figure(f"{title}: best score", FLASH.name, "", (), note=f"contestants differ: {sorted(scores)}")


def _search(who: Contestant, sizes: Sizes) -> Search:
    program = command(who.python(), "large_search.py", who.key, sizes.large_samples, sizes.large_candidates)
    with StoredFiles(_SHARED_NAMES.get(who, "")) as stored, started(program) as client:
        expect(client, "ready")
        stored.folder = Path(psutil.Process(client.pid).cwd())
        with MemoryWatch(client.pid) as memory:
            ready_bytes, before = memory.now(), stored.total()
            first = _answer(client)
            between = stored.total()
            second = _answer(client)
            after = stored.total()
    return Search(
        first["seconds"],
        second["seconds"],
        first["best_score"],
        ready_bytes,
        memory.most,
        between - before,
        after - between,
    )


def _search_on_the_wire(sizes: Sizes) -> Iterator[Figure]:
    """Yield what the second of two searches over the same data sends."""
    what = "grid search, X as above: sent by a second fit"
    program = command(FLASH.python(), "large_search.py", FLASH.key, sizes.large_samples, sizes.large_candidates)
    try:
        with hand_platform() as platform, platform.counted() as (counter, env), started(program, env=env) as client:
            expect(client, "ready")
            _answer(client)
            sent, _ = counter.wire_bytes()
            _answer(client)
            again, _ = counter.wire_bytes()
    except _BROKEN as error:
        yield Figure(what, FLASH.name, "MB", (), note=str(error))
    else:
        yield Figure(what, FLASH.name, "MB", ((again - sent) / _MB,), Bar(1))


def _closures(sizes: Sizes) -> Iterator[Figure]:
    title = f"{CLOSURE_CALLS} calls of a closure over {CLOSURE_MB} MB"
    for who in (RAY, DASK, LOKY):
        try:
            seconds = []
            for _ in range(sizes.large_runs):
                with started(command(who.python(), "closure.py", who.key, CLOSURE_CALLS, CLOSURE_MB)) as client:
                    expect(client, "ready")
                    seconds.append(float(_answer(client)))
            yield Figure(title, who.name, "s", tuple(seconds))
        except _BROKEN as error:
            yield Figure(title, who.name, "s", (), note=str(error))
    seconds, wire, stored_mb = [], [], []
    program = command(FLASH.python(), "closure.py", FLASH.key, CLOSURE_CALLS, CLOSURE_MB)
    try:
        for _ in range(sizes.large_runs):
            with StoredFiles(_SHARED_NAMES[FLASH]) as stored, hand_platform() as platform:
                stored.folder = platform.folder
                with platform.counted() as (counter, env), started(program, env=env) as client:
                    expect(client, "ready")
                    before, began = sum(counter.wire_bytes()), stored.total()
                    seconds.append(float(_answer(client)))
                    wire.append((sum(counter.wire_bytes()) - before) / _MB)
                    stored_mb.append((stored.total() - began) / _MB)
    except _BROKEN as error:
        yield Figure(title, FLASH.name, "s", (), note=str(error))
        return
    yield Figure(title, FLASH.name, "s", tuple(seconds), note="through a proxy that counts")
    yield Figure(f"{title}: on the wire, both ways", FLASH.name, "MB", tuple(wire), Bar(10))
    yield Figure(f"{title}: stored, all copies", FLASH.name, "MB", tuple(stored_mb))


def _arrays(sizes: Sizes) -> Iterator[Figure]:
    ways = {
        "argument_s": f"array of {sizes.megabytes} MB as argument",
        "result_s": f"array of {sizes.megabytes} MB as result",
    }
    for who in (FLASH, RAY, DASK, LOKY):
        bar = Bar(1, is_floor=True) if who is FLASH else None
        try:
            taken = run_json(who.python(), "arrays.py", who.key, sizes.repeats, sizes.megabytes)
        except _BROKEN as error:
            for what in ways.values():
                yield Figure(what, who.name, "GB/s", (), note=str(error))
            continue
        for way, what in ways.items():
            rates = tuple(sizes.megabytes / 1e3 / seconds for seconds in taken[way])
            yield Figure(what, who.name, "GB/s", rates, bar)


def _answer(client: Any) -> Any:  # Popen of text; JSON
    go_on(client)
    if not (said := said_line(client)):
        client.wait()
        raise ChildFailed("the program ended without an answer")
    return json.loads(said)
