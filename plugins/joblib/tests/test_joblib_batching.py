# SPDX-License-Identifier: Apache-2.0
"""Batch sizes follow the worker's compute time."""

from __future__ import annotations

from flash_joblib.batching import MAX_GROWTH, MAX_RESULT_BYTES, TARGET_S, BatchSizer


def sizer_after(*batches: tuple[int, float], result_bytes: int = 0) -> BatchSizer:
    """A sizer that saw batches of (tasks, busy seconds)."""
    sizer = BatchSizer()
    for tasks, busy_s in batches:
        sizer.record(tasks=tasks, busy_s=busy_s, result_bytes=result_bytes * tasks)
    return sizer


def test_the_first_batches_have_one_task() -> None:
    assert BatchSizer().next_size() == 1


def test_tasks_that_do_nothing_grow_by_the_largest_factor() -> None:
    sizer = sizer_after((1, 1e-6))
    sizes = []
    for _ in range(5):
        sizes.append(sizer.next_size())
        sizer.record(tasks=sizes[-1], busy_s=1e-6 * sizes[-1], result_bytes=0)
    assert sizes == [MAX_GROWTH**power for power in range(1, 6)]


def test_a_batch_aims_at_the_target_time() -> None:
    sizer = sizer_after((1, 0.005), (8, 0.04), (64, 0.32))
    assert sizer.next_size() == int(TARGET_S / 0.005)


def test_batches_grow_from_the_size_of_an_earlier_call_of_the_function_if_its_tasks_take_as_long() -> None:
    def function_of_this_test() -> None: ...

    sizes = []
    for task_s in (0.005, 0.006, 0.05, 0.005):
        sizer = BatchSizer()
        sizer.note_function(function_of_this_test)
        sizer.record(tasks=1, busy_s=task_s, result_bytes=0)
        sizes.append(sizer.next_size())
        sizer.record(tasks=100, busy_s=100 * task_s, result_bytes=0)
    assert sizes == [MAX_GROWTH, int(TARGET_S / 0.006), MAX_GROWTH, MAX_GROWTH]


def test_long_tasks_stay_alone() -> None:
    assert sizer_after((1, 3.0)).next_size() == 1


def test_slower_tasks_shrink_the_batch_at_once_and_faster_ones_grow_it_slowly() -> None:
    sizer = sizer_after((100, 0.1), (100, 10.0))
    assert sizer.next_size() == int(TARGET_S / 0.1)
    sizer.record(tasks=7, busy_s=0.007, result_bytes=0)
    assert sizer.next_size() == int(TARGET_S / ((0.1 + 0.001) / 2))


def test_batches_shrink_towards_the_end_but_not_below_what_a_round_trip_is_worth() -> None:
    sizer = sizer_after((1000, 1.0))
    assert sizer.next_size(remaining=1000, n_jobs=2) == 250
    assert sizer.next_size(remaining=100, n_jobs=2) == 100  # 0.1 s of work


def test_large_results_keep_the_batch_small() -> None:
    sizer = sizer_after((1, 1e-6), (8, 1e-6), (64, 1e-6), result_bytes=MAX_RESULT_BYTES // 4)
    assert sizer.next_size() == 4


def test_what_did_not_fit_is_not_suggested_again() -> None:
    sizer = sizer_after((1000, 0.001))
    sizer.limit(20)
    sizer.limit(40)
    assert sizer.next_size() == 20
