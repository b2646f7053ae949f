# SPDX-License-Identifier: Apache-2.0
"""How many calls a job gets, from what is known about them."""

from __future__ import annotations

import pytest

from flash_plugins.dispatcher.batching import LONG_S, MAX_CALLS, TARGET_S, Estimate, Overhead, jobs_at_once


def known(call_s: float, *, calls: int = 1_000, result_bytes: int = 10) -> Estimate:
    estimate = Estimate()
    estimate.record(calls=calls, busy_s=call_s * calls, result_bytes=result_bytes * calls)
    return estimate


def test_calls_of_which_nothing_is_known_travel_alone() -> None:
    assert Estimate().size(waiting=1_000, slots=2, overhead_s=1.0) == 1
    assert Estimate().expected_s(5) is None


@pytest.mark.parametrize("call_s", [LONG_S, 1.0, 3_600.0])
def test_long_calls_travel_alone(call_s: float) -> None:
    assert known(call_s).size(waiting=1_000, slots=1, overhead_s=10.0) == 1


@pytest.mark.parametrize("call_s", [0.001, 0.01, 0.1, 0.4])
def test_a_job_aims_at_a_time_of_the_worker(call_s: float) -> None:
    size = known(call_s).size(waiting=1_000_000, slots=2, overhead_s=0.1)
    assert size * call_s <= TARGET_S * 1.001
    assert (size + 1) * call_s > TARGET_S * 0.999


def test_no_job_has_more_calls_than_save_requests() -> None:
    assert known(1e-6).size(waiting=1_000_000, slots=2, overhead_s=0.1) == MAX_CALLS


def test_each_worker_gets_a_share_of_what_waits() -> None:
    estimate, sizes, waiting = known(0.005), [], 200
    while waiting:
        sizes.append(estimate.size(waiting=waiting, slots=2, overhead_s=0.003))
        waiting -= sizes[-1]
    assert sizes[0] == 66
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] * 0.005 <= 0.015  # nobody is left alone with much
    assert len(sizes) < 30


def test_jobs_do_not_shrink_below_what_their_way_costs() -> None:
    assert known(0.001).size(waiting=100, slots=10, overhead_s=0.08) == 100
    assert known(0.001).size(waiting=1_000, slots=10, overhead_s=0.08) == 320
    assert known(0.001).size(waiting=1_000, slots=10, overhead_s=0.16, is_capped=False) == 320


def test_no_worker_stays_idle_while_another_gets_several_calls() -> None:
    short = known(1e-5)  # whatever earlier calls took: these may take longer
    assert short.size(waiting=4, slots=4, overhead_s=0.1, idle=4) == 1
    assert short.size(waiting=5, slots=4, overhead_s=0.1, idle=4) == 2
    assert short.size(waiting=5, slots=4, overhead_s=0.1, idle=1) == 5
    assert short.size(waiting=5, slots=4, overhead_s=0.1, idle=-2) == 5


def test_few_calls_tell_little_about_many() -> None:
    estimate, sizes = known(1e-5, calls=1), []
    for _ in range(4):
        sizes.append(estimate.size(waiting=100_000, slots=2, overhead_s=0.0))
        estimate.record(calls=sizes[-1], busy_s=1e-5 * sizes[-1], result_bytes=sizes[-1])
    assert sizes == [16, 256, 2_000, 2_000]


def test_results_that_are_large_make_jobs_small() -> None:
    assert known(1e-5, result_bytes=100_000).size(waiting=100_000, slots=2, overhead_s=0.0) == 30


def test_slower_calls_count_at_once_and_faster_ones_by_halves() -> None:
    estimate = known(0.1)
    estimate.record(calls=1, busy_s=0.4, result_bytes=1)
    assert estimate.call_s == 0.4
    estimate.record(calls=10, busy_s=1.0, result_bytes=1)
    assert estimate.call_s == 0.25
    assert estimate.expected_s(4) == 1.0


def test_a_call_that_has_not_ended_counts_for_as_long_as_it_runs() -> None:
    estimate = known(0.001)
    estimate.note_running(2.0)
    assert estimate.call_s == 2.0
    estimate.note_running(1.0)
    assert estimate.call_s == 2.0


def test_the_cost_of_a_job_is_the_least_that_was_seen_lately() -> None:
    overhead = Overhead()
    for seconds in (0.5, 0.003, 5.0, 0.2):
        overhead.record(seconds)
    assert 0.003 < overhead.seconds < 0.004  # the others had waited for a worker
    for _ in range(100):
        overhead.record(0.16)
    assert overhead.seconds == pytest.approx(0.16, rel=0.05)


def test_one_job_waits_behind_each_that_runs() -> None:
    assert jobs_at_once(2, workers=2, requests_per_worker=None) == 4
    assert jobs_at_once(16, workers=2, requests_per_worker=None) == 32
    assert jobs_at_once(10, is_capped=False, workers=10, requests_per_worker=None) == 30


def test_enough_jobs_are_sent_to_start_all_workers() -> None:
    assert jobs_at_once(10, workers=10, requests_per_worker=4) == 40
    assert jobs_at_once(10, workers=10, requests_per_worker=2.5) == 25
    assert jobs_at_once(10, workers=10, requests_per_worker=1) == 20
