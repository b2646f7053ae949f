# SPDX-License-Identifier: Apache-2.0
"""The plugin: one display for all calls of this process, from the first of a stretch of work to the last.

Silent for work that is over within a second, in CI, and where `FLASH_PROGRESS=off`; `on` shows it everywhere. Calls
that follow one another, from whatever thread or library, are one stretch.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol, TextIO

from ...hooks import CallEvent, CallStage, hookimpl
from ...settings import is_dumb_terminal
from .notebook import NotebookOutput, current_cell
from .tally import Snapshot, Tally

__all__ = ["Display", "Progress", "pause_s"]

logger = logging.getLogger(__name__)

#: Seconds of work before anything is shown.
_QUIET_S = 1.0
#: Seconds without a call after which a stretch is over: an estimator does work of its own between two `Parallel` calls.
_LINGER_S = 2.0
#: Longest pause between two looks while no call is open: the next may begin now. Nobody is woken by a call, since that
#: would cost each of many short ones a switch of threads.
_TICK_S = 0.2
#: Seconds that the end of the program waits for the last line.
_FINISH_S: Final = 1.0

_QUEUED: Final = CallStage.QUEUED
_SENT: Final = CallStage.SENT


class Display(Protocol):
    """Where progress is shown.

    Attributes:
        first_after_s: Seconds of work before it is due for the first time.
        shows_rest: Whether it is due as well, once, when no call is under way.
    """

    first_after_s: float
    shows_rest: bool

    def show(self, snapshot: Snapshot) -> float:
        """Show it; returns after how many seconds it is due again."""

    def give_way(self) -> None:
        """No call is under way for now: be in the way of nobody. Must not wait."""

    def end(self, snapshot: Snapshot | None) -> None:
        """The stretch is over: leave the last counts, or nothing if None."""

    def forget(self) -> None:
        """Show nothing more: this is a forked child."""


class Progress:
    """Counts calls and shows them from a thread that lives only while calls run.

    Args:
        mode: Returns `auto`, `on` or `off`; asked when a stretch of work begins.
        stream: Where to write; None means the notebook's cell, or the `sys.stderr` of that moment.
        is_ci: Whether this is a CI run, where `auto` means off.
    """

    def __init__(self, mode: Callable[[], str], *, stream: TextIO | None = None, is_ci: bool = False) -> None:
        self._mode = mode
        self._stream = stream
        self._is_ci = is_ci
        self._is_ending = False
        self._display: Display | None = None
        self._thread: threading.Thread | None = None
        self._ends_at_exit = False
        self.start_anew()

    def start_anew(self) -> None:
        """Forget every call and whoever holds the lock: a forked child has neither the threads nor the calls."""
        self._lock = threading.Lock()  # which every call takes: a condition's own methods take longer
        self._ending = threading.Condition(self._lock)
        self._tally: Tally | None = None
        self._cell: object = None
        display, self._display = self._display, None
        if display is not None:
            display.forget()

    @hookimpl
    def flash_call_event(self, event: CallEvent) -> None:
        """Count the event, and begin to show when the first call of a stretch of work comes in."""
        stage = event.stage
        tally = self._tally
        if stage is _SENT or (tally is None and stage is not _QUEUED):
            return
        with self._lock:
            if stage is _QUEUED and ((tally := self._tally) is None or not tally.has_calls):
                tally = self._begun(tally)
            if tally is None:
                return
            tally.note(event, time.monotonic())
            if not tally.has_calls and self._display is not None:
                self._display.give_way()  # before whoever waited for the call is woken, and writes something

    def _begun(self, tally: Tally | None) -> Tally | None:
        """Return the stretch that a call belongs to while no other is under way; None if it shall not be shown."""
        cell = current_cell()
        if tally is not None and cell == self._cell:
            return tally
        if self._is_ending or not self._is_wanted():
            self._tally = None
            return None
        self._cell = cell
        self._tally = tally = Tally(time.monotonic())
        self._thread = threading.Thread(target=self._show, args=(tally,), name="flash-progress", daemon=True)
        self._thread.start()
        if not self._ends_at_exit:
            self._ends_at_exit = True
            atexit.register(self._finish)
        return tally

    def _is_wanted(self) -> bool:
        mode = self._mode()
        return mode == "on" or (mode == "auto" and not self._is_ci)

    def _show(self, tally: Tally) -> None:
        display: Display | None = None
        try:
            self._display = display = self._opened()
            if display is not None:
                self._run(tally, display)
        except Exception:  # it is users' streams and front ends that are written to; the calls go on
            logger.exception("progress cannot be shown any more")
        finally:
            with self._lock:
                if self._display is display:
                    self._display = None

    def _run(self, tally: Tally, display: Display) -> None:
        due_at, is_shown, is_at_rest = tally.began_at + max(display.first_after_s, _QUIET_S), False, False
        while True:
            with self._lock:
                if not self._is_over(tally):
                    self._ending.wait(pause_s(tally, due_at=due_at, now=time.monotonic()))
                now = time.monotonic()
                is_over = self._is_over(tally)
                if is_over and self._tally is tally:
                    self._tally = None
                is_news = tally.has_calls or (is_shown and display.shows_rest and not is_at_rest)
                is_due = is_over or (is_news and now >= due_at)
                is_at_rest = not tally.has_calls and (is_at_rest or is_due)
                snapshot = tally.snapshot(now) if is_due else None
            # Without the lock, which every call of the process needs: a terminal may be stopped, a pipe full.
            if is_over:
                is_worth_it = is_shown or (snapshot is not None and snapshot.seconds >= _QUIET_S)
                display.end(snapshot if is_worth_it else None)
                return
            if snapshot is not None:
                due_at, is_shown = now + display.show(snapshot), True

    def _is_over(self, tally: Tally) -> bool:
        if self._is_ending or self._tally is not tally:
            return True
        return not tally.has_calls and time.monotonic() - tally.idle_since >= _LINGER_S

    def _opened(self) -> Display | None:
        """Return where to show it, None where nobody looks."""
        if self._stream is None and self._cell is not None:
            return NotebookOutput()
        out: TextIO | None = self._stream or sys.stderr
        if out is None:
            return None
        from .log import LogLines
        from .terminal import TerminalLine, is_terminal

        return TerminalLine(out) if is_terminal(out) and not is_dumb_terminal() else LogLines(out)

    def _finish(self) -> None:
        """The program ends: have the last line written."""
        with self._lock:
            self._is_ending = True
            self._ending.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(_FINISH_S)


def pause_s(tally: Tally, *, due_at: float, now: float) -> float:
    """Return for how many seconds there is nothing to show. Work that ends meanwhile is not over before that."""
    if tally.has_calls:
        return max(0.0, min(due_at - now, _LINGER_S))
    return max(0.0, min(tally.idle_since + _LINGER_S - now, _TICK_S))
