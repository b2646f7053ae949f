# SPDX-License-Identifier: Apache-2.0
"""Progress of all calls of this process, on stderr: one line that is rewritten, or a line now and then in a log.

Silent for work that is over within a second, in CI, and where `FLASH_PROGRESS=off`; `on` shows it everywhere.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from ..hooks import CallEvent, CallStage, hookimpl

__all__ = ["Progress"]

#: Seconds of work before anything is shown, and between two updates on a terminal and in a log.
_QUIET_S = 1.0
_TERMINAL_INTERVAL_S = 0.2
_LOG_INTERVAL_S = 5.0
#: Seconds without a call after which a stretch of work counts as over: calls made one after another are one stretch.
_LINGER_S = 0.5


class Progress:
    """Counts calls by stage and shows them from a thread that lives only while calls run.

    Args:
        mode: Returns `auto`, `on` or `off`; asked when a stretch of work begins.
        stream: Where to write; None means the `sys.stderr` of that moment.
        is_ci: Whether this is a CI run, where `auto` means off.
    """

    def __init__(self, mode: Callable[[], str], *, stream: TextIO | None = None, is_ci: bool = False) -> None:
        self._mode = mode
        self._stream = stream
        self._is_ci = is_ci
        self.start_anew()

    def start_anew(self) -> None:
        """Forget every call and whoever holds the lock: a forked child has neither the threads nor the calls."""
        self._lock = threading.Lock()
        self._is_stretch = False
        self._begin()

    @hookimpl
    def flash_call_event(self, event: CallEvent) -> None:
        """Count the event, and begin to show when the first call of a stretch of work comes in."""
        with self._lock:
            if event.stage is CallStage.QUEUED:
                if not self._is_stretch:
                    self._begin()
                    self._is_stretch = self._is_wanted()
                    if self._is_stretch:
                        threading.Thread(target=self._show, name="flash-progress", daemon=True).start()
                self._total += 1
                self._endpoints.add(event.endpoint)
            elif event.stage.is_final:
                self._ended += 1
                self._failed += event.stage is CallStage.FAILED
                self._cancelled += event.stage is CallStage.CANCELLED
                if event.worker_id is not None:
                    self._workers.add(event.worker_id)
                if not self._open:  # the thread sees it by itself: waking it cost each of many short calls a switch
                    self._idle_since = time.monotonic()

    @property
    def _open(self) -> int:
        return self._total - self._ended

    def _begin(self) -> None:
        self._total = self._ended = self._failed = self._cancelled = 0
        self._workers: set[str] = set()
        self._endpoints: set[str] = set()
        self._began_at = self._idle_since = time.monotonic()

    def _is_wanted(self) -> bool:
        mode = self._mode()
        return mode == "on" or (mode == "auto" and not self._is_ci)

    def _show(self) -> None:
        out: TextIO | None = self._stream or sys.stderr
        is_terminal = out is not None and not out.closed and out.isatty()
        interval_s = _TERMINAL_INTERVAL_S if is_terminal else _LOG_INTERVAL_S
        next_at, is_shown, is_over = self._began_at + _QUIET_S, False, False
        while not is_over:
            time.sleep(self._pause_s(next_at))
            with self._lock:
                if is_over := self._is_over():
                    self._is_stretch = False
                    is_due = is_shown or self._idle_since - self._began_at >= _QUIET_S
                else:
                    is_due = self._open > 0 and time.monotonic() >= next_at
                text = self._text() if is_due else None
            # Without the lock, which every call of the process needs: a terminal may be stopped, a pipe full.
            if text is not None:
                end = "\n" if is_over else ""
                out = _write(out, f"\r\x1b[2K{text}{end}" if is_terminal else f"flash-plugins: {text}\n")
                next_at, is_shown = time.monotonic() + interval_s, True

    def _pause_s(self, next_at: float) -> float:
        """Return for how long there is nothing to show. Work that ends meanwhile is not over before that."""
        now = time.monotonic()
        if not self._open:
            return max(0.0, self._idle_since + _LINGER_S - now)
        return max(0.0, min(next_at - now, _LINGER_S))

    def _is_over(self) -> bool:
        return not self._open and time.monotonic() - self._idle_since >= _LINGER_S

    def _text(self) -> str:
        seconds = (time.monotonic() if self._open else self._idle_since) - self._began_at
        parts = [f"{self._ended}/{self._total} calls done"]
        if self._open and not self._workers:
            parts.append("waiting for the first result")
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._cancelled:
            parts.append(f"{self._cancelled} cancelled")
        if self._workers:
            parts.append(f"{len(self._workers)} worker{'s' if len(self._workers) > 1 else ''}")
        if self._ended:
            parts.append(f"{self._ended / max(seconds, 1e-9):.1f}/s")
        return f"{', '.join(sorted(self._endpoints))}: {' · '.join(parts)} · {seconds:.0f} s"


def _write(out: TextIO | None, text: str) -> TextIO | None:
    """Write the line; returns where the next one goes, None once nobody can read it."""
    if out is None:
        return None
    try:
        out.write(text)
        out.flush()
    except (OSError, ValueError):  # closed meanwhile
        return None
    return out
