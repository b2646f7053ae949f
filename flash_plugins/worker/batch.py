# SPDX-License-Identifier: Apache-2.0
"""The calls of one batch, made one after another in the runner. What one of them does to itself, the next never feels.

    make a call ──► its result to the journal ──► what the supervisor noted there: stop, or this one took too long ──┐
        ▲────────────────────────────────────────────────────────────────────────────────────────────────────────────┘

It knows no platform and decides nothing about the process it runs in (see `runner`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..batches import CallResult
from ..failure import encode_exception
from ..payload import CallEnvelope
from ..platforms import api
from ..steps import begin_call
from . import calling, capture
from .calling import CallCancelled, Drive
from .handshake import Handshake
from .journal import EntryKind, Journal
from .run import MissingBlobs, Preparer

__all__ = ["Batch"]

logger = logging.getLogger(__name__)

#: Bytes of results that travel in one job: with a last one of the largest size they stay below the limit of
#: `job-done`, and a caller that waits for the rest waits for another worker instead.
RESULTS_MAX_BYTES = 4_000_000
#: Seconds of a call after which the supervisor is told of its result at once; it looks by itself ten times a second.
_SLOW_S = 0.05


class Batch:
    """The calls of an envelope.

    Args:
        function: What they are calls of.
        journal_path: Where results are kept as they come; None where nobody would read them before the end.
        drive: What runs a coroutine.
        inline: They run in the main thread, and nothing beside them.
        tell: Called when the supervisor should look at the journal.
    """

    def __init__(
        self,
        envelope: CallEnvelope,
        function: Callable[..., Any],
        *,
        preparer: Preparer,
        handshake: Handshake,
        journal_path: Path | None,
        drive: Drive,
        inline: bool,
        tell: Callable[[], None],
    ) -> None:
        self._arguments: Sequence[bytes] = envelope.batch
        self._packages: Mapping[str, str] = envelope.packages
        self._limit_s = envelope.limit_s
        self._function = function
        self._preparer = preparer
        self._handshake = handshake
        self._drive = drive
        self._inline = inline
        self._tell = tell
        self._pid = os.getpid()
        self._journal = self._open(journal_path)
        self._index = 0
        #: Calls from this place on will not begin.
        self._end = len(self._arguments)
        self._kept_bytes = 0
        # What a signal handler and other threads look at.
        self._is_in_call = False
        self._stopped_index: int | None = None
        self._closing = threading.Lock()
        self._is_closed = False
        #: What is not in the journal.
        self.results: list[CallResult] = []
        self.records: list[dict[str, Any]] = []
        #: Blobs that a call needs and this worker lacks; it and those behind it are given back.
        self.missing: tuple[str, ...] = ()

    @property
    def returned(self) -> tuple[int, ...]:
        """Places of the calls that will not begin, once `run` has ended."""
        return tuple(range(self._index, len(self._arguments)))

    def run(self) -> None:
        """Make the calls.

        Raises:
            CallCancelled: The job was cancelled.
        """
        try:
            while self._index < self._end:
                try:
                    result, records = self._made()
                except MissingBlobs as missing:
                    self.missing = missing.digests
                    return
                if os.getpid() != self._pid:
                    os._exit(0)  # a child that the call forked came back here: the call is its parent's
                self._keep(result, records)
                self._index += 1
                self._heed(result.seconds)
        finally:
            with self._closing:
                self._is_closed = True
                if self._journal is not None:
                    self._journal.close()

    def shall_stop(self) -> bool:
        """Return whether the call that runs at this moment is to be stopped, once for each: for signal handlers."""
        index = self._index
        if not self._is_in_call or self._stopped_index == index:
            return False
        with self._closing:  # a handler in this thread is past the line above only where nothing is closed
            if self._is_closed:
                return False
            notes = None if self._journal is None else self._journal.notes_now()
        if notes is not None and not any(
            note.kind is EntryKind.CANCEL or (note.kind is EntryKind.LIMIT and note.index == index) for note in notes
        ):
            return False
        self._stopped_index = index
        return True

    def _open(self, path: Path | None) -> Journal | None:
        if path is None:
            return None
        try:
            return Journal(path, len(self._arguments))
        except OSError as error:
            logger.warning("results of a batch are not kept while it runs, since %s cannot be written: %s", path, error)
            return None

    def _made(self) -> tuple[CallResult, list[dict[str, Any]]]:
        """Make one call and return what came of it."""
        started = time.perf_counter()
        begin_call()
        with capture.recording(inline=self._inline) as recorder:
            try:
                try:
                    self._is_in_call = True
                    result = self._make(started)
                finally:
                    self._is_in_call = False
            except CallCancelled as cancelled:
                self._is_in_call = False
                if not self._is_over_limit():
                    raise
                failure = encode_exception(calling.timeout_of(self._limit_s, cancelled))
                result = CallResult(self._index, time.perf_counter() - started, failure=failure)
        return result, recorder.records

    def _make(self, started: float) -> CallResult:
        is_loading = True
        try:
            args, kwargs = self._preparer.arguments(self._arguments[self._index])
            is_loading = False
            value = calling.value_of(self._function, args, kwargs, self._drive)
            if calling.is_stream(value):
                calling.refuse_stream(self._function)
            content = calling.pickled(value, self._function, api.RUN_MAX_BYTES)
            return CallResult(self._index, time.perf_counter() - started, content)
        except CallCancelled:
            raise
        except BaseException as error:  # user code may raise anything, SystemExit included
            if isinstance(error, MissingBlobs) and is_loading:
                raise
            if isinstance(error, calling.CANCELLATIONS) and self._stopped_index == self._index:
                raise CallCancelled from error
            self._handshake.explain(error, self._packages, is_loading=is_loading)
            return CallResult(self._index, time.perf_counter() - started, failure=encode_exception(error))

    def _keep(self, result: CallResult, records: list[dict[str, Any]]) -> None:
        told = [{**record, "call": self._index} for record in records]
        if self._journal is not None:
            try:
                self._kept_bytes += self._journal.add(result, told)
            except OSError as error:
                logger.warning("results of a batch are not kept while it runs any more: %s", error)
                with self._closing:
                    self._journal.close()
                    self._journal = None
            else:
                return
        self._kept_bytes += len(result.result or b"")
        self.results.append(result)
        self.records += told

    def _heed(self, seconds: float) -> None:
        """End early if there is reason to, before the next call begins."""
        if self._kept_bytes > RESULTS_MAX_BYTES:
            self._end = self._index
        if self._journal is None:
            if self._stopped_index is not None:
                raise CallCancelled
            return
        for note in self._journal.notes():
            if note.kind is EntryKind.CANCEL:
                raise CallCancelled
            if note.kind is EntryKind.STOP:
                self._end = min(self._end, note.index)
        if seconds > _SLOW_S and self._index < self._end:
            self._tell()

    def _is_over_limit(self) -> bool:
        if self._limit_s is None or self._journal is None:
            return False
        notes = self._journal.notes_now()
        return not any(note.kind is EntryKind.CANCEL for note in notes)
