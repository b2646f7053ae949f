# SPDX-License-Identifier: Apache-2.0
"""The words of a progress display."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flash_plugins.builtin.progress.tally import Snapshot
from flash_plugins.builtin.progress.text import html_of, line_of

SNAPSHOT = Snapshot(
    labels=("fit",), unit="tasks", done=12, total=150, running=4, failed=1, cancelled=2, workers=3, rate=3.14,
    left_s=44.2, seconds=75.0,
)  # fmt: skip


def test_a_line_says_all_there_is_to_say() -> None:
    assert line_of(SNAPSHOT) == (
        "fit: 12/150 tasks done · 4 running · 134 queued · 1 failed · 2 cancelled · 3 workers · 3.1/s · 1 min 15 s"
        " · 45 s left"
    )


def test_what_is_not_known_is_not_said() -> None:
    assert line_of(Snapshot(labels=("fit",), done=3, total=3, workers=1)) == "fit: 3/3 calls done · 1 worker · 0 s"
    opened = Snapshot(labels=("fit",), done=3, total=7, is_open=True, left_s=9.0)
    assert line_of(opened) == "fit: 3/7+ calls done · 0 s · 9 s left"


def test_workers_that_start_are_named_by_their_endpoint_where_others_work() -> None:
    cold = Snapshot(labels=("fit",), total=2, starting=("a", "b"))
    assert "done · starting workers · " in line_of(cold)
    assert " starting workers of a, b · " in line_of(replace(cold, workers=1))


@pytest.mark.parametrize(
    ("rate", "said"),
    [(12345.6, "12,346/s"), (99.94, "99.9/s"), (1.0, "1.0/s"), (0.5, "30.0/min"), (0.005, "18.0/h"), (0.0001, "0.4/h")],
)
def test_a_rate_has_a_unit_that_suits_it(rate: float, said: str) -> None:
    assert f" · {said} · " in line_of(replace(SNAPSHOT, rate=rate))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.7, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min")],
)
def test_a_time_has_units_that_suit_it(seconds: float, said: str) -> None:
    assert f" · {said} · " in line_of(replace(SNAPSHOT, seconds=seconds))


def test_a_line_fits() -> None:
    whole = line_of(SNAPSHOT)
    for columns in range(130):
        line = line_of(SNAPSHOT, columns=columns)
        assert len(line) <= columns
        assert columns < 24 or line.startswith("fit: 12/150 tasks done")
        assert columns < 40 or "1 failed" in line
        assert columns < 55 or "45 s left" in line
        assert columns < len(whole) or line == whole


def test_letters_that_take_two_columns_count_twice() -> None:
    snapshot = replace(SNAPSHOT, labels=("学習" * 30,))
    assert line_of(snapshot, columns=60).startswith("学習学習学習学習学習学習学習…: 12/150")


def test_a_long_name_leaves_room_for_the_counts() -> None:
    assert "12/150 tasks done" in line_of(replace(SNAPSHOT, labels=("n" * 500,)), columns=80)


def test_who_knows_only_ascii_gets_ascii() -> None:
    line = line_of(replace(SNAPSHOT, labels=("größe", "…")), is_ascii=True)
    assert line.startswith("gr??e, ...: 12/150 tasks done, 4 running, ")
    assert line_of(replace(SNAPSHOT, labels=("n" * 99,)), columns=50, is_ascii=True).isascii()


def test_a_notebook_gets_a_bar_and_the_same_words() -> None:
    shown = html_of(replace(SNAPSHOT, labels=("<lambda>",)))
    assert '<progress value="12" max="150"' in shown
    assert "&lt;lambda&gt;: 12/150 tasks done" in shown
    assert "<progress" not in html_of(replace(SNAPSHOT, is_open=True))
