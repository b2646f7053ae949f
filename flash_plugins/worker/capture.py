# SPDX-License-Identifier: Apache-2.0
"""What a call prints, logs and warns, recorded on the worker for replay at the caller.

Everything is also written to the worker's own output, where a platform keeps its logs. Text that C libraries and
subprocesses write to standard output is recorded too (`native`); what they write to standard error goes only there.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from ..code import dumps
from ..errors import PayloadError
from ..payload import encode_bytes
from .native import NativeOutput

__all__ = ["Recorder", "follow_log_level", "install", "recording"]

#: Most characters kept of one call's output; the rest stays in the worker's log only.
MAX_CHARACTERS = 262_144
#: Characters that a record counts for beside its text: its place, names and JSON.
_RECORD_CHARACTERS = 200
#: What every log record has; whatever else one has was given as `extra=`.
_LOG_ATTRIBUTES = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})
#: Characters of a text in `extra=` that travel.
_EXTRA_CHARACTERS = 1_000
#: Stack frames looked at to find the module that a warning came from.
_MAX_FRAMES = 60

_current: contextvars.ContextVar[Recorder | None] = contextvars.ContextVar("flash_recorder", default=None)
#: The recorder of the one call that runs in the main thread: output of threads that the call starts is its own.
_inline: list[Recorder] = []
#: This process's own standard streams, as `install` made them.
_streams: list[_RecordedStream] = []
#: What has taken descriptor 1, if anything has.
_native: NativeOutput | None = None


class Recorder:
    """The output of one call, in order: dictionaries that go into the outcome's `records`."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self._characters = 0
        self._is_full = False
        self._warned: set[tuple[object, ...]] = set()

    def text(self, stream: str, text: str) -> None:
        """Record text written to `stdout` or `stderr`."""
        text = _sendable(text)
        if kept := text[: max(0, MAX_CHARACTERS - self._characters)]:
            last = self.records[-1] if self.records else None
            if last is not None and last.get("stream") == stream:
                last["text"] += kept
            else:
                self.records.append({"stream": stream, "text": kept})
        self._admit(len(text))

    def log(self, record: logging.LogRecord, message: str) -> None:
        """Record one log record with its text already formatted."""
        message = _sendable(message)
        if self._admit(len(message) + _RECORD_CHARACTERS):
            entry = {
                "log": _sendable(record.name), "level": record.levelno, "text": message, "path": record.pathname,
                "line": record.lineno, "function": record.funcName, "created": record.created,
            }  # fmt: skip
            if extra := _extra_of(record):
                entry["extra"] = extra
            self.records.append(entry)

    def warning(self, warning: Warning, category: type[Warning], path: str, line: int, module: str) -> None:
        """Record a warning; equal ones of one place once per call."""
        text = _sendable(str(warning))
        key = (category, text, path, line)
        if key in self._warned:
            return
        self._warned.add(key)
        try:
            pickled = encode_bytes(dumps(warning, what="a warning").data)
        except PayloadError:
            pickled = None  # the caller shows its text as a plain UserWarning
        if not self._admit(len(text) + len(pickled or "") + _RECORD_CHARACTERS):
            return
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
        _take_native(None)
        _inline.append(recorder)
        if _streams:  # an earlier call may have put others in their place
            sys.stdout, sys.stderr = _streams
    try:
        yield recorder
    finally:
        _current.reset(token)
        if inline:
            if _native is not None:
                _native.flush()
                _take_native(recorder)
            _inline.remove(recorder)


def install(*, native: bool = False) -> None:
    """Route this process's standard streams, root logger and warnings through the recorders.

    Args:
        native: Whether to take descriptor 1 as well, for good.
    """
    global _native
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no text may fail a call for where its log goes
    stdout = sys.stdout
    if native and isinstance(stdout, io.TextIOWrapper):
        _native = NativeOutput(stdout)
        stdout = _native.log
        os.register_at_fork(after_in_child=_forget_native)
    sys.stdout = _RecordedStream("stdout", stdout)
    sys.stderr = _RecordedStream("stderr", sys.stderr)
    _streams[:] = [sys.stdout, sys.stderr]
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
        _streams[1].original.write(warnings.formatwarning(message, category, filename, lineno, line))

    warnings.showwarning = show


def follow_log_level(level: int) -> None:
    """Let the root logger pass what the caller's would."""
    root = logging.getLogger()
    if root.level != level:
        root.setLevel(level)


def _extra_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given as `extra=`, as far as it is plain."""
    extra: dict[str, Any] = {}
    for name, value in vars(record).items():
        if name in _LOG_ATTRIBUTES:
            continue
        if isinstance(value, str):
            extra[name] = _sendable(str(value)[:_EXTRA_CHARACTERS])
        elif value is None or type(value) in (bool, int, float):
            extra[name] = value
    return extra


def _sendable(text: str) -> str:
    """Return text that any JSON encoder can send: lone surrogates, as in undecodable file names, are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _take_native(recorder: Recorder | None) -> None:
    """Record, or only log, what was written around Python's streams so far."""
    if _native is not None and _native.has_some:
        text = _native.take()
        if recorder is not None:
            recorder.text("stdout", text)


def _forget_native() -> None:
    global _native
    _native = None  # the parent reads the file


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
        if _native is not None and _inline:
            _take_native(recorder)
        written = self.original.write(text)  # first: it refuses what is no text
        if recorder is not None:
            recorder.text(self._name, text)
        return written

    def flush(self) -> None:
        self.original.flush()

    def fileno(self) -> int:
        return 1 if self.original is getattr(_native, "log", None) else self.original.fileno()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.original.encoding

    @property
    def buffer(self) -> Any:
        if sys.__stdout__ is not None and self.original is getattr(_native, "log", None):
            return sys.__stdout__.buffer
        return self.original.buffer  # bytes written there reach the worker's log only


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
