# SPDX-License-Identifier: Apache-2.0
"""The plugin that shows how far the calls of this process are, on streams that are read."""

from __future__ import annotations

import io
import itertools
import re
import threading
import time
from collections.abc import Callable

import pytest

from flash_plugins import CallEvent, CallStage, Work
from flash_plugins.builtin.progress import Progress, log, plugin, terminal
from flash_plugins.builtin.progress.plugin import pause_s
from flash_plugins.builtin.progress.tally import Snapshot, Tally

#: Generous: the box may be busy.
DEADLINE_S = 20.0


CLEAR = "\r\x1b[2K"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def event(stage: CallStage, number: int = 1, *, worker: str | None = None, endpoint: str = "e") -> CallEvent:
    return CallEvent(stage, endpoint=endpoint, function="f", call_id=number, worker_id=worker)


_numbers = itertools.count(1)
_open: list[int] = []


def show(shown: Progress, *stages: CallStage, worker: str | None = "w1", endpoint: str = "e") -> None:
    """Tell of calls: each that is queued is another one, and the oldest goes on."""
    for stage in stages:
        if stage is CallStage.QUEUED:
            _open.append(next(_numbers))
        number = _open[-1] if stage is CallStage.QUEUED else _open[0]
        if stage.is_final:
            _open.pop(0)
        known = worker if stage is CallStage.DONE else None
        shown.flash_call_event(event(stage, number, worker=known, endpoint=endpoint))


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_over() -> bool:
    return not any(thread.name == "flash-progress" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates in hundredths of a second; no line of an earlier test goes on."""
    until(is_over)
    _open.clear()
    for name in ("_QUIET_S", "_TICK_S", "_LINGER_S"):
        monkeypatch.setattr(plugin, name, 0.03)
    monkeypatch.setattr(terminal, "_INTERVAL_S", 0.03)
    for name in ("_FIRST_PAUSE_S", "_LONGEST_PAUSE_S"):
        monkeypatch.setattr(log, name, 0.03)
    monkeypatch.delenv("TERM", raising=False)


def test_a_log_gets_lines_and_a_last_one() -> None:
    out = io.StringIO()
    shown = Progress(lambda: "auto", stream=out)
    show(shown, CallStage.QUEUED, CallStage.QUEUED, CallStage.SENT, CallStage.SENT)
    until(lambda: "0/2 calls done · starting workers · 2 queued" in out.getvalue())
    show(shown, CallStage.DONE)
    until(lambda: "1/2 calls done" in out.getvalue())
    show(shown, CallStage.FAILED)
    until(is_over)
    lines = out.getvalue().splitlines()
    assert all(line.startswith("flash-plugins: e: ") for line in lines)
    assert re.fullmatch(r"flash-plugins: e: 2/2 calls done · 1 failed · 1 worker( · [\d.,]+/s)? · \d+ s", lines[-1])


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    out = Terminal()
    shown = Progress(lambda: "auto", stream=out)
    show(shown, CallStage.QUEUED)
    until(lambda: out.getvalue().count("0/1") >= 2)
    show(shown, CallStage.DONE)
    until(is_over)
    text = out.getvalue()
    drawn, last = text.rsplit(CLEAR, 1)  # the line is cleared when the last call ends
    assert last.startswith("flash-plugins: e: 1/1 calls done")
    assert last.endswith(" s\n")
    assert all(part.startswith("e: 0/1 calls done") for part in drawn.split(CLEAR)[1:])
    assert "\n" not in drawn


def test_work_that_is_over_at_once_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_QUIET_S", 60.0)
    out = io.StringIO()
    shown = Progress(lambda: "on", stream=out)
    show(shown, CallStage.QUEUED, CallStage.SENT, CallStage.DONE)
    until(is_over)
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("mode", "is_ci", "is_shown"),
    [("auto", False, True), ("auto", True, False), ("on", True, True), ("off", False, False)],
)
def test_the_mode_decides_whether_it_is_shown(mode: str, is_ci: bool, is_shown: bool) -> None:
    out = io.StringIO()
    shown = Progress(lambda: mode, stream=out, is_ci=is_ci)
    show(shown, CallStage.QUEUED)
    assert is_over() != is_shown
    until(lambda: not is_shown or out.getvalue())
    show(shown, CallStage.DONE)
    until(is_over)
    assert bool(out.getvalue()) == is_shown


def test_the_mode_is_asked_when_work_begins() -> None:
    modes = iter(["off", "on"])
    out = io.StringIO()
    shown = Progress(lambda: next(modes), stream=out)
    show(shown, CallStage.QUEUED, CallStage.DONE)
    show(shown, CallStage.QUEUED)
    until(out.getvalue)
    show(shown, CallStage.DONE)
    until(is_over)
    assert "1/1 calls done" in out.getvalue()


def test_calls_one_after_another_are_one_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_LINGER_S", 1.0)
    out = io.StringIO()
    shown = Progress(lambda: "on", stream=out)
    for _ in range(5):
        show(shown, CallStage.QUEUED, CallStage.SENT, CallStage.DONE)
    show(shown, CallStage.QUEUED)
    until(lambda: "5/6" in out.getvalue())
    show(shown, CallStage.CANCELLED)
    until(is_over)
    assert "6/6 calls done · 1 cancelled · 1 worker" in out.getvalue().splitlines()[-1]


def test_a_new_stretch_counts_anew() -> None:
    out = io.StringIO()
    shown = Progress(lambda: "on", stream=out)
    for _ in range(2):
        show(shown, CallStage.QUEUED)
        until(lambda: "0/1" in out.getvalue())
        show(shown, CallStage.DONE)
        until(is_over)
    assert "2/2" not in out.getvalue()


def test_all_endpoints_are_named() -> None:
    out = io.StringIO()
    shown = Progress(lambda: "on", stream=out)
    show(shown, CallStage.QUEUED, endpoint="two")
    show(shown, CallStage.QUEUED, endpoint="one")
    until(lambda: "two, one: 0/2" in out.getvalue())
    show(shown, CallStage.DONE, worker="w1")
    show(shown, CallStage.DONE, worker="w2")
    until(is_over)
    assert "2 workers" in out.getvalue()


def test_a_stream_that_is_closed_meanwhile_ends_the_showing_only() -> None:
    out = io.StringIO()
    shown = Progress(lambda: "on", stream=out)
    show(shown, CallStage.QUEUED)
    until(out.getvalue)
    out.close()
    show(shown, CallStage.DONE)
    until(is_over)


class StoppedTerminal(Terminal):
    """As after Ctrl-S: what is written waits."""

    def __init__(self) -> None:
        super().__init__()
        self.is_waiting = threading.Event()
        self.goes_on = threading.Event()

    def write(self, text: str, /) -> int:
        self.is_waiting.set()
        assert self.goes_on.wait(DEADLINE_S)
        return super().write(text)


def test_a_stopped_terminal_does_not_stop_the_calls() -> None:
    out = StoppedTerminal()
    shown = Progress(lambda: "on", stream=out)
    show(shown, CallStage.QUEUED)
    assert out.is_waiting.wait(DEADLINE_S)
    telling = threading.Thread(target=show, args=(shown, CallStage.DONE, CallStage.QUEUED, CallStage.DONE))
    telling.start()
    telling.join(5)
    is_stopped = telling.is_alive()
    out.goes_on.set()
    telling.join()
    assert not is_stopped
    until(is_over)
    assert "2/2 calls done" in out.getvalue()


def test_a_process_without_stderr_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    shown = Progress(lambda: "on")
    show(shown, CallStage.QUEUED, CallStage.DONE)
    until(is_over)


def test_nobody_is_woken_by_a_call_and_work_that_ends_is_seen_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_LINGER_S", 100.0)
    tally = Tally(7.0)
    tally.note(event(CallStage.QUEUED), 7.0)
    assert pause_s(tally, due_at=8.0, now=7.5) == 0.5  # a line is due
    assert pause_s(tally, due_at=1000.0, now=7.5) == 100.0  # it may end right now, and be over then
    tally.note(event(CallStage.DONE), 7.5)
    assert 0.0 < pause_s(tally, due_at=7.5, now=7.5) <= 100.0  # nothing is due while no call is open
    assert pause_s(tally, due_at=7.5, now=200.0) == 0.0


def test_nothing_is_on_the_line_when_the_last_call_has_ended() -> None:
    out = Terminal()
    shown = Progress(lambda: "on", stream=out)
    show(shown, CallStage.QUEUED)
    until(out.getvalue)
    show(shown, CallStage.DONE)
    assert out.getvalue().endswith(CLEAR)  # at once: whoever waited for the call may write something now


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    shown = Progress(lambda: "on", stream=out)
    show(shown, CallStage.QUEUED)
    until(out.getvalue)
    show(shown, CallStage.DONE)
    until(is_over)
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().startswith("flash-plugins: e: 0/1 ")


def test_no_colours_are_written() -> None:
    out = Terminal()
    shown = Progress(lambda: "on", stream=out)
    show(shown, CallStage.QUEUED, CallStage.FAILED)
    until(is_over)
    assert not re.search(r"\x1b\[[\d;]*m", out.getvalue())


def test_a_log_gets_fewer_lines_the_longer_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    lines = log.LogLines(io.StringIO())
    pauses = [lines.show(Snapshot()) for _ in range(6)]
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_several_works_and_threads_are_one_stretch() -> None:
    out = io.StringIO()
    shown = Progress(lambda: "on", stream=out)
    works = [Work(f"work-{number}", total=50) for number in range(4)]

    def make(number: int) -> None:
        for call in range(50):
            for stage in (CallStage.QUEUED, CallStage.SENT, CallStage.DONE):
                told = CallEvent(stage, endpoint="e", function="f", call_id=100 * number + call, work=works[number])
                shown.flash_call_event(told)

    shown.flash_call_event(event(CallStage.QUEUED, 999))
    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(out.getvalue)
    shown.flash_call_event(event(CallStage.DONE, 999))
    until(is_over)
    assert "201/201 tasks done" in out.getvalue().splitlines()[-1]


def test_the_end_of_the_program_has_the_last_line_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_LINGER_S", 60.0)
    out = io.StringIO()
    shown = Progress(lambda: "on", stream=out)
    show(shown, CallStage.QUEUED)
    until(out.getvalue)
    show(shown, CallStage.DONE)
    shown._finish()
    assert "1/1 calls done" in out.getvalue().splitlines()[-1]
    show(shown, CallStage.QUEUED, CallStage.CANCELLED)  # what is cancelled as the program ends
    assert is_over()


class Broken(Terminal):
    def write(self, text: str, /) -> int:
        raise RuntimeError("no such thing")


def test_a_stream_that_fails_in_its_own_way_is_logged_and_the_calls_go_on(caplog: pytest.LogCaptureFixture) -> None:
    shown = Progress(lambda: "on", stream=Broken())
    show(shown, CallStage.QUEUED)
    until(is_over)
    show(shown, CallStage.DONE)
    assert "progress cannot be shown any more" in caplog.text
