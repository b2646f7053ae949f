# SPDX-License-Identifier: Apache-2.0
"""When a log had which length."""

from __future__ import annotations

from pathlib import Path

import pytest

from flash_plugins.platforms.local import logbook
from flash_plugins.platforms.local.logbook import LogBook


@pytest.fixture
def book(tmp_path: Path) -> LogBook:
    return LogBook(lambda worker_id: tmp_path / worker_id)


def grow(book: LogBook, wall_s: float, length: int) -> None:
    book.path_of("w").write_bytes(b"x" * length)
    book.note({"w"}, wall_s)


def test_positions_and_times_are_those_that_were_noted(book: LogBook) -> None:
    book.note({"w"}, 9.0)  # no file yet
    for wall_s, length in ((10.0, 5), (11.0, 5), (12.0, 8)):
        grow(book, wall_s, length)
    assert [book.position_at("w", moment) for moment in (9.5, 10.0, 11.9, 12.0, 99.0)] == [0, 5, 5, 8, 8]
    assert [book.time_of("w", position) for position in (1, 5, 6, 8, 9)] == [10.0, 10.0, 12.0, 12.0, None]


def test_a_log_that_was_cut_begins_anew(book: LogBook) -> None:
    for wall_s, length in ((10.0, 500), (11.0, 20)):
        grow(book, wall_s, length)
    assert book.position_at("w", 10.5) == 0
    assert book.time_of("w", 20) == 11.0


def test_a_worker_that_ended_is_forgotten(book: LogBook) -> None:
    grow(book, 10.0, 5)
    book.note(set(), 11.0)
    assert book.time_of("w", 5) is None
    assert book.position_at("w", 99.0) == 0


def test_a_long_log_has_coarser_times(book: LogBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logbook, "_MARKS_MAX", 10)
    for step in range(1, 101):
        grow(book, float(step), step)
    assert len(book._marks["w"]) <= 10
    assert book.position_at("w", 100.0) == 100
    assert abs((book.time_of("w", 50) or 0) - 50) < 40
