# SPDX-License-Identifier: Apache-2.0
"""The line on a terminal and what stands before the streams of the process while it may be there."""

from __future__ import annotations

import io
import logging
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest

from flash_plugins.builtin.progress.tally import Snapshot
from flash_plugins.builtin.progress.terminal import TerminalLine, has_other_bar, is_at_prompt, is_terminal
from tests.support import require

CLEAR = "\r\x1b[2K"
SNAPSHOT = Snapshot(labels=("e",), total=1)


class Screen(io.StringIO):
    """A terminal, for both streams."""

    def isatty(self) -> bool:
        return True

    def take(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


Begin = Callable[[], tuple[TerminalLine, Screen]]


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Returns a line that is shown, and where; called in the test itself, as pytest changes the streams before it."""
    made: list[TerminalLine] = []

    def begin() -> tuple[TerminalLine, Screen]:
        screen = Screen()
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setattr(sys, "stderr", screen)
        made.append(TerminalLine(screen))
        made[-1].show(SNAPSHOT)
        assert screen.take().startswith(f"{CLEAR}e: 0/1 calls done")
        return made[-1], screen

    yield begin
    for line in made:
        line.forget()


def test_what_is_printed_clears_the_line_first(begin: Begin) -> None:
    line, screen = begin()
    print("text")
    sys.stderr.writelines(["one\n", "two\n"])
    assert screen.take() == f"{CLEAR}text\none\ntwo\n"
    line.show(SNAPSHOT)
    assert screen.take().startswith(f"{CLEAR}e: ")


def test_there_is_no_line_amid_another(begin: Begin) -> None:
    line, screen = begin()
    sys.stdout.write("half ")
    line.show(SNAPSHOT)
    line.give_way()
    assert screen.take() == f"{CLEAR}half "
    sys.stdout.write("whole\n")
    line.show(SNAPSHOT)
    assert screen.take().startswith(f"whole\n{CLEAR}e: ")
    sys.stdout.write("half ")
    line.end(SNAPSHOT)
    assert screen.take() == f"{CLEAR}half "


def test_the_streams_are_themselves_again_at_the_end(begin: Begin) -> None:
    line, screen = begin()
    kept: Any = sys.stdout
    assert kept is not screen
    assert kept.isatty()
    line.end(None)
    assert sys.stdout is screen
    assert sys.stderr is screen
    kept.write("by who kept it\n")
    assert screen.take() == f"{CLEAR}by who kept it\n"


def test_a_stream_that_was_replaced_meanwhile_stays(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    line, screen = begin()
    guard, other = sys.stdout, io.StringIO()
    monkeypatch.setattr(sys, "stdout", other)
    line.end(None)
    assert sys.stdout is other
    monkeypatch.setattr(sys, "stdout", guard)  # as `redirect_stdout` puts back what it found
    again = TerminalLine(screen)
    again.show(SNAPSHOT)
    screen.take()
    print("text")
    assert screen.take() == f"{CLEAR}text\n"
    again.end(None)


def test_a_log_handler_that_keeps_the_stream_clears_the_line_too(begin: Begin) -> None:
    line, screen = begin()
    line.end(None)
    handler = logging.StreamHandler(screen)
    logging.getLogger().addHandler(handler)
    try:
        line = TerminalLine(screen)
        line.show(SNAPSHOT)
        screen.take()
        logging.getLogger("x").warning("logged")
        assert screen.take() == f"{CLEAR}logged\n"
        line.end(None)
        assert handler.stream is screen
    finally:
        logging.getLogger().removeHandler(handler)


def test_what_goes_around_the_text_layer_clears_the_line(begin: Begin) -> None:
    _, screen = begin()
    assert not hasattr(sys.stdout, "buffer")  # this screen has none, and is asked for it
    assert screen.take() == CLEAR


def test_streams_travel_as_before(begin: Begin) -> None:
    begin()
    assert pickle.loads(cloudpickle.dumps(sys.stdout)) is sys.stdout


def test_a_forked_child_writes_nothing(begin: Begin) -> None:
    line, screen = begin()
    line.forget()
    assert sys.stdout is screen
    line.show(SNAPSHOT)
    line.end(SNAPSHOT)
    line.give_way()
    assert screen.take() == ""


def test_a_bar_of_the_users_takes_the_place(begin: Begin) -> None:
    line, screen = begin()
    tqdm: Any = require("tqdm").tqdm
    with tqdm(total=3, file=io.StringIO()):
        assert has_other_bar()
        line.show(SNAPSHOT)
        assert screen.take() == CLEAR
    assert not has_other_bar()
    with tqdm(total=3, disable=True):
        assert not has_other_bar()


def test_this_is_no_prompt_and_text_in_memory_no_terminal() -> None:
    screen = Screen()
    assert not is_at_prompt()
    assert is_terminal(screen)
    assert not is_terminal(io.StringIO())
    screen.close()
    assert not is_terminal(screen)
