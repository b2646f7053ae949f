# SPDX-License-Identifier: Apache-2.0
"""What a call prints, logs and warns, recorded on the worker for replay at the caller.

Everything is also written to the worker's own output, where a platform keeps its logs. Text that bypasses
Python's `sys.stdout` and `sys.stderr` (C libraries, subprocesses) goes only there.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from ..code import dumps
from ..errors import PayloadError
from ..payload import encode_bytes

__all__ = ["Recorder", "follow_log_level", "install", "recording"]

#: Most characters kept of one call's output; the rest stays in the worker's log only.
MAX_CHARACTERS = 262_144
#: Stack frames looked at to find the module that a warning came from.
_MAX_FRAMES = 60

_current: contextvars.ContextVar[Recorder | None] = contextvars.ContextVar("flash_recorder", default=None)
#: The recorder of the one call that runs in the main thread: output of threads that the call starts is its own.
_inline: list[Recorder] = []


class Recorder:
    """The output of one call, in order: dictionaries that go into the outcome's `records`."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self._characters = 0
        self._is_full = False
        self._warned: set[tuple[object, ...]] = set()

    def text(self, stream: str, text: str) -> None:
        """Record text written to `stdout` or `stderr`."""
        if not self._admit(len(text)):
            return
        last = self.records[-1] if self.records else None
        if last is not None and last.get("stream") == stream:
            last["text"] += text
        else:
            self.records.append({"stream": stream, "text": text})

    def log(self, record: logging.LogRecord, message: str) -> None:
        """Record one log record with its text already formatted."""
        if self._admit(len(message)):
            entry = {
                "log": record.name, "level": record.levelno, "text": message, "path": record.pathname,
                "line": record.lineno, "function": record.funcName, "created": record.created,
            }  # fmt: skip
            self.records.append(entry)

    def warning(self, warning: Warning, category: type[Warning], path: str, line: int, module: str) -> None:
        """Record a warning; equal ones of one place once per call."""
        text = str(warning)
        key = (category, text, path, line)
        if key in self._warned or not self._admit(len(text)):
            return
        self._warned.add(key)
        try:
            pickled = encode_bytes(dumps(warning, what="a warning").data)
        except PayloadError:
            pickled = None  # the caller shows its text as a plain UserWarning
        self.records.append({"warning": text, "pickle": pickled, "path": path, "line": line, "module": module})

    def _admit(self, characters: int) -> bool:
        self._characters += characters
        if self._characters <= MAX_CHARACTERS:
            return True
        if not self._is_full:
            self._is_full = True
            note = f"[output of this call cut at {MAX_CHARACTERS} characters; the rest is in the worker's log]\n"
            self.records.append({"stream": "stderr", "text": note})
        return False


@contextlib.contextmanager
def recording(*, inline: bool) -> Iterator[Recorder]:
    """Record what runs in this context.

    Args:
        inline: This is the only call of the process, in its main thread: what its threads print is its own.
    """
    recorder = Recorder()
    token = _current.set(recorder)
    if inline:
        _inline.append(recorder)
    try:
        yield recorder
    finally:
        _current.reset(token)
        if inline:
            _inline.remove(recorder)


def install() -> None:
    """Route this process's standard streams, root logger and warnings through the recorders."""
    sys.stdout = _RecordedStream("stdout", sys.stdout)
    sys.stderr = _RecordedStream("stderr", sys.stderr)
    logging.getLogger().addHandler(_RecordingHandler(sys.stderr.original))
    warnings.simplefilter("always")  # the caller's own filters decide what is shown
    shown = warnings.showwarning

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        recorder = _recorder()
        if recorder is None or file is not None or not isinstance(message, Warning):
            shown(message, category, filename, lineno, file, line)
            return
        recorder.warning(message, category, filename, lineno, _module_at(filename))
        sys.__stderr__ and sys.__stderr__.write(warnings.formatwarning(message, category, filename, lineno, line))

    warnings.showwarning = show


def follow_log_level(level: int) -> None:
    """Let the root logger pass what the caller's would."""
    root = logging.getLogger()
    if root.level != level:
        root.setLevel(level)


def _recorder() -> Recorder | None:
    return _current.get() or (_inline[-1] if _inline else None)


def _module_at(filename: str) -> str:
    frame = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        if frame.f_code.co_filename == filename:
            return str(frame.f_globals.get("__name__", filename))
        if frame.f_back is None:
            break
        frame = frame.f_back
    return filename.removesuffix(".py") or "<unknown>"


class _RecordedStream(io.TextIOBase):
    """A standard stream that also tells the running call's recorder."""

    def __init__(self, name: str, original: TextIO) -> None:
        super().__init__()
        self._name = name
        self.original = original

    def write(self, text: str) -> int:
        recorder = _recorder()
        if recorder is not None:
            recorder.text(self._name, text)
        return self.original.write(text)

    def flush(self) -> None:
        self.original.flush()

    def fileno(self) -> int:
        return self.original.fileno()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.original.encoding

    @property
    def buffer(self) -> Any:  # bytes written there reach the worker's log only
        return self.original.buffer


class _RecordingHandler(logging.Handler):
    def __init__(self, worker_log: TextIO) -> None:
        super().__init__()
        self._worker_log = worker_log
        self.setFormatter(logging.Formatter("%(levelname)s:%(name)s:%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._emit(record)
        except Exception:  # noqa: BLE001 - a bad format string is shown, as by every handler, and never stops the call
            self.handleError(record)

    def _emit(self, record: logging.LogRecord) -> None:
        recorder = _recorder()
        if recorder is not None:
            message = record.getMessage()
            if record.exc_info:
                message += "\n" + logging.Formatter().formatException(record.exc_info)
            recorder.log(record, message)
        self._worker_log.write(self.format(record) + "\n")
