# SPDX-License-Identifier: Apache-2.0
"""The concurrency that a worker declares to the official SDK."""

from __future__ import annotations

from flash_plugins.worker.queue import Declaration


def test_a_capping_platform_is_told_several_times_the_number() -> None:
    declaration = Declaration(2, is_capped=True)
    assert declaration() == 12
    declaration.note(100.0)
    assert declaration() == 12


def test_elsewhere_it_begins_with_the_true_number_and_declares_more_while_calls_are_short() -> None:
    declaration = Declaration(1, is_capped=False)
    assert declaration(1) == 1
    declaration.note(0.01)
    assert declaration(1) == 8
    for _ in range(20):
        declaration.note(10.0)
    assert declaration(8) == 1


def test_between_short_and_long_it_stays_as_it_is() -> None:
    declaration = Declaration(1, is_capped=False)
    declaration.note(0.01)
    assert declaration() == 8
    for _ in range(50):
        declaration.note(1.0)
    assert declaration() == 8
