# SPDX-License-Identifier: Apache-2.0
"""One batch as the job loop follows it, from its journal: what came of it so far, and for how long a call runs by now.

It starts and ends no processes (see `supervisor`) and sends nothing (see `early`).
"""

from __future__ import annotations

import json
import logging
import struct
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..batches import CallResult, pack_results
from ..failure import encode_exception
from ..payload import Outcome, decode_start, encode_bytes, is_envelope
from . import calling
from .journal import Entry, EntryKind, Notes

__all__ = ["Progress"]

logger = logging.getLogger(__name__)


class Progress:
    """What has come of a batch. Used from one event loop.

    Args:
        path: Of its journal, which the runner makes when the first call begins.
        count: How many calls it has.
        limit_s: Seconds that each call may run, None for any.
    """

    def __init__(self, path: Path, count: int, limit_s: float | None) -> None:
        self.count = count
        self.limit_s = limit_s
        self._path = path
        self._notes: Notes | None = None
        #: What came back, in the order of the calls: each call's result, and what it printed.
        self.entries: list[Entry] = []
        self._began_at: float | None = None
        self._since: float | None = None
        self._end = count
        self._limited: int | None = None
        self._is_cancelled = False

    @classmethod
    def of(cls, path: Path, content: object) -> Progress | None:
        """Return that of a job with this input, None if it is no batch."""
        if not isinstance(content, Mapping) or not is_envelope(content) or not isinstance(content.get("batch"), str):
            return None
        try:
            (count,) = struct.unpack("<I", decode_start(content["batch"], 4))
            limit_s = content.get("limit_s")
            return cls(path, count, None if limit_s is None else float(limit_s))
        except (ValueError, TypeError, struct.error):
            return None  # damaged: the runner says how

    @property
    def has_begun(self) -> bool:
        """Whether a call of it has begun, here or in a worker that is gone."""
        return self._opened() is not None

    @property
    def returned(self) -> tuple[int, ...]:
        """Places of the calls that will not begin because a note says so."""
        return tuple(range(self._end, self.count))

    @property
    def running(self) -> int | None:
        """Place of the call that runs, None before the first and after the last."""
        return None if self._since is None or len(self.entries) >= self._end else len(self.entries)

    def running_for_s(self) -> float:
        """Return for how many seconds that call has run, 0 if there is none."""
        return 0.0 if self.running is None or self._since is None else time.monotonic() - self._since

    def has_run_s(self) -> float:
        """Return for how many seconds the batch has run, 0 before its first call."""
        return 0.0 if self._began_at is None else time.monotonic() - self._began_at

    def left_s(self) -> float:
        """Return in how many seconds the batch will end if its calls go on as they have; none knows that better."""
        done = len(self.entries)
        if self.running is None or self._began_at is None:
            return 0.0
        each_s = self.has_run_s() / max(done, 1)
        return max(each_s * (self._end - done) - self.running_for_s(), self.running_for_s())

    def look(self) -> None:
        """Read what is new."""
        if (notes := self._opened()) is None:
            return
        for entry in notes.read():
            match entry.kind:
                case EntryKind.RESULT:
                    self.entries.append(entry)
                    self._since = entry.at
                case EntryKind.STOP:
                    self._end = min(self._end, entry.index)
                case EntryKind.LIMIT:
                    self._limited = entry.index
        self._began_at = notes.began_at
        if self._since is None:
            self._since = self._began_at

    def stop(self) -> None:
        """Let no call begin but the one that runs."""
        self._note(EntryKind.STOP)
        self.look()

    def limit(self) -> None:
        """Have the call that runs counted as one that ran too long."""
        if self.running is not None and self._limited != self.running:
            self._note(EntryKind.LIMIT, self.running)
            self.look()

    @property
    def is_limited(self) -> bool:
        """Whether the call that runs has run too long, and the runner is told so."""
        return self._limited is not None and self._limited == self.running

    def cancel(self) -> None:
        """Have the whole job counted as cancelled."""
        if not self._is_cancelled and self._opened() is not None:
            self._is_cancelled = self._note(EntryKind.CANCEL)

    def answer(self, outcome: Outcome) -> dict[str, Any]:
        """Return what the job loop reports: what the runner said at the end, with what is in the journal."""
        self.look()
        return self._encoded(replace(outcome, returned=outcome.returned or self.returned))

    def answer_of_dead(self, reason: str, worker: str | None = None, step: int | None = None) -> dict[str, Any]:
        """Return what the job loop reports when the process that ran the calls is gone.

        Args:
            reason: How it died, in words.
            step: The step of the running call in which it did.
        """
        self.look()
        outcome = Outcome(worker=worker, returned=self.returned)
        if (index := self.running) is not None:
            if self.is_limited:
                failure = encode_exception(calling.timeout_of(self.limit_s))
                outcome = replace(outcome, results=[CallResult(index, self.running_for_s(), failure=failure)])
            else:
                outcome = replace(outcome, lost=(index, reason), step=step)
        return self._encoded(outcome)

    def close(self) -> None:
        """Remove the journal: the job has ended and its outcome was sent."""
        if self._notes is not None:
            self._notes.close()
            self._notes = None
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the journal of a job that has ended stays behind: %s", error)

    def _encoded(self, outcome: Outcome) -> dict[str, Any]:
        known = {entry.index for entry in self.entries}
        rest = [one for one in outcome.results if one.index not in known]
        records = [*outcome.records, *(record for entry in self.entries for record in records_of(entry))]
        answer = replace(outcome, results=(), records=records).encode()
        packed = b"".join([*(entry.packed for entry in self.entries), pack_results(rest)])
        if packed:
            answer["results"] = encode_bytes(packed)
        return answer

    def _opened(self) -> Notes | None:
        if self._notes is None:
            try:
                self._notes = Notes(self._path)
            except OSError:
                return None  # not begun, or nothing can be written here: the runner has told
        return self._notes

    def _note(self, kind: EntryKind, index: int = 0) -> bool:
        try:
            if self._notes is not None:
                self._notes.add(kind, index)
                return True
        except OSError as error:
            logger.warning("a batch goes on as the journal of its job cannot be written: %s", error)
        return False


def records_of(entry: Entry) -> list[dict[str, Any]]:
    """Return what a call printed and logged."""
    records: list[dict[str, Any]] = json.loads(entry.records) if entry.records else []
    return records
