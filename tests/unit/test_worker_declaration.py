# SPDX-License-Identifier: Apache-2.0
"""What the worker declares to the SDK, with the SDK's own arithmetic in mind."""

from __future__ import annotations

from flash_plugins.worker.handback import HandBack
from flash_plugins.worker.queue import Declaration


def test_where_the_platform_caps_the_surplus_is_always_declared() -> None:
    declaration = Declaration(2, is_capped=True)
    assert declaration() == 12
    declaration.note(100.0)
    assert declaration() == 12


def test_without_a_cap_it_begins_with_the_true_number_and_declares_more_while_jobs_are_short() -> None:
    declaration = Declaration(1, is_capped=False)
    assert declaration() == 1
    declaration.note(1.0)
    assert declaration() == 6
    for _ in range(10):
        declaration.note(10.0)
    assert declaration() == 1
    for _ in range(10):
        declaration.note(0.1)
    assert declaration() == 6


def test_what_may_wait_in_a_worker_does_not_fill_it_for_the_sdk() -> None:
    for concurrency in range(1, 20):
        declaration = Declaration(concurrency, is_capped=False)
        declaration.note(0.1)
        just_taken = 1
        assert declaration() > concurrency + (HandBack.without_cap(concurrency).waiting_max or 0) + 2 * just_taken


def test_one_long_job_among_short_ones_changes_little() -> None:
    declaration = Declaration(1, is_capped=False)
    for seconds in (0.2, 0.2, 0.2, 5.0):
        declaration.note(seconds)
    assert declaration() == 6


def test_while_a_job_holds_all_others_up_no_more_is_asked_for() -> None:
    is_held_up = False
    declaration = Declaration(1, is_capped=False, is_held_up=lambda: is_held_up)
    declaration.note(0.1)
    is_held_up = True
    assert declaration() == 1
    is_held_up = False
    assert declaration() == 6


def test_jobs_that_cannot_be_given_back_are_long_earlier() -> None:
    declaration = Declaration(1, is_capped=False)
    declaration.note(1.0, can_be_returned=False)
    assert declaration() == 1
    for _ in range(10):
        declaration.note(0.1, can_be_returned=False)
    assert declaration() == 6
