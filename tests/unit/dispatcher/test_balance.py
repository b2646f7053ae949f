# SPDX-License-Identifier: Apache-2.0
"""How long tasks of very different lengths take on Runpod, by a model in virtual time: see `runpod_model`."""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Sequence

import pytest

from tests.unit.dispatcher.runpod_model import Run, run

TASKS = 200
WORKERS = 10
SEEDS = range(12)


def lengths(median_s: float, seed: int) -> list[float]:
    chance = random.Random(seed)
    return [chance.lognormvariate(math.log(median_s), 1.0) for _ in range(TASKS)]


def greedy_s(lengths: Sequence[float]) -> float:
    """Return the seconds of greedy list scheduling, which costs nothing."""
    free_at = [0.0] * WORKERS
    for seconds in lengths:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def runs(median_s: float, *, is_ours: bool) -> list[tuple[float, Run]]:
    """Return the time over that of greedy list scheduling, and the run, for several sets of lengths."""
    found = []
    for seed in SEEDS:
        some = lengths(median_s, seed)
        done = run(some, WORKERS, is_ours=is_ours, seed=seed)
        found.append((done.seconds / greedy_s(some), done))
    return found


@pytest.mark.parametrize("median_s", [0.3, 1.0, 3.0])
def test_no_worker_hoards_and_none_idles_for_long(median_s: float) -> None:
    found = [ratio for ratio, _ in runs(median_s, is_ours=True)]
    assert statistics.mean(found) <= 1.2
    assert max(found) <= 1.35


@pytest.mark.parametrize("median_s", [0.3, 1.0, 3.0])
def test_it_is_as_good_as_the_official_default_at_least(median_s: float) -> None:
    ours = statistics.mean(ratio for ratio, _ in runs(median_s, is_ours=True))
    theirs = statistics.mean(ratio for ratio, _ in runs(median_s, is_ours=False))
    assert ours <= theirs


def test_the_model_has_the_official_loop_do_one_short_job_a_second() -> None:
    done = run([0.01] * 50, 1, is_ours=False)
    assert 45 <= done.seconds <= 60


def test_work_that_is_handed_back_does_not_go_round_for_ever() -> None:
    for median_s in (0.3, 1.0, 3.0):
        for _, done in runs(median_s, is_ours=True):
            # 10 workers take at most 4 jobs a second beyond those they keep: the SDK pauses after that.
            assert done.returned <= 4 * WORKERS * done.seconds


def test_short_tasks_travel_in_few_jobs() -> None:
    done = run([0.0001] * 10_000, WORKERS, is_ours=True)
    assert done.jobs <= 400
    assert done.seconds <= 4
