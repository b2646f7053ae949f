# SPDX-License-Identifier: Apache-2.0
"""The line that shows how far the calls of this process are."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable

import pytest

from flash_plugins import CallEvent, CallStage
from flash_plugins.builtin import progress
from flash_plugins.builtin.progress import Progress

#: Generous: the box may be busy.
DEADLINE_S = 30.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def event(stage: CallStage, number: int = 1, *, worker: str | None = None, endpoint: str = "e") -> CallEvent:
    return CallEvent(stage, endpoint=endpoint, function="f", call_id=number, worker_id=worker)


def show(shown: Progress, *stages: CallStage, worker: str | None = "w1", endpoint: str = "e") -> None:
    for stage in stages:
        shown.flash_call_event(event(stage, worker=worker if stage is CallStage.DONE else None, endpoint=endpoint))


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
    for name in ("_QUIET_S", "_TERMINAL_INTERVAL_S", "_LOG_INTERVAL_S", "_LINGER_S"):
        monkeypatch.setattr(progress, name, 0.03)


def test_a_log_gets_lines_and_a_last_one() -> None:
    out = io.StringIO()
    shown = Progress(lambda: "auto", stream=out)
    show(shown, CallStage.QUEUED, CallStage.QUEUED, CallStage.SENT, CallStage.SENT)
    until(lambda: "0/2 calls done, waiting for the first result" in out.getvalue().replace(" · ", ", "))
    show(shown, CallStage.DONE)
    until(lambda: "1/2 calls done" in out.getvalue())
    show(shown, CallStage.FAILED)
    until(is_over)
    lines = out.getvalue().splitlines()
    assert all(line.startswith("flash-plugins: e: ") for line in lines)
    assert re.fullmatch(r"flash-plugins: e: 2/2 calls done · 1 failed · 1 worker · \d+\.\d/s · \d+ s", lines[-1])


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    out = Terminal()
    shown = Progress(lambda: "auto", stream=out)
    show(shown, CallStage.QUEUED)
    until(lambda: out.getvalue().count("0/1") >= 2)
    show(shown, CallStage.DONE)
    until(is_over)
    text = out.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert all(part.startswith("e: ") for part in text.split("\r\x1b[2K")[1:])
    assert "1/1 calls done" in text


def test_work_that_is_over_at_once_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_QUIET_S", 60.0)
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
    monkeypatch.setattr(progress, "_LINGER_S", 1.0)
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
    until(lambda: "one, two: 0/2" in out.getvalue())
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
    monkeypatch.setattr(progress, "_LINGER_S", 100.0)
    shown = Progress(lambda: "off")
    now = time.monotonic()
    show(shown, CallStage.QUEUED)
    assert shown._pause_s(now + 1.0) <= 1.0  # a line is due
    assert shown._pause_s(now + 1000.0) == 100.0  # it may end right now, and be over then
    show(shown, CallStage.DONE)
    assert 0.0 < shown._pause_s(now) <= 100.0  # nothing is due while no call is open
