# SPDX-License-Identifier: Apache-2.0
"""The journal of a batch: what both sides read in it, in one order, however it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flash_plugins.batches import CallResult, unpack_results
from flash_plugins.payload import Outcome, decode_outcome
from flash_plugins.worker import journal
from flash_plugins.worker.journal import EntryKind, Journal, Notes, clean, path_of
from flash_plugins.worker.progress import Progress


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return path_of(tmp_path, "a/job ..")


def results_of(answer: dict[str, object]) -> list[int]:
    return [one.index for one in decode_outcome(answer).results]


def test_results_are_read_as_they_come(path: Path) -> None:
    written = Journal(path, 3)
    notes = Notes(path)
    assert list(notes.read()) == []
    assert notes.count == 3
    written.add(CallResult(0, 0.5, b"zero"), [])
    written.add(CallResult(1, 0.25, failure={"type": "E"}), [{"stream": "stdout", "text": "hi"}])
    first, second = notes.read()
    assert unpack_results(first.packed) == [CallResult(0, 0.5, b"zero")]
    assert unpack_results(second.packed) == [CallResult(1, 0.25, failure={"type": "E"})]
    assert (first.records, second.records) == (b"", b'[{"stream": "stdout", "text": "hi"}]')
    written.add(CallResult(2, 0.0, bytes(3_000_000)), [])
    (third,) = notes.read()
    assert len(third.packed) > 3_000_000
    assert list(notes.read()) == []


def test_a_note_to_stop_is_about_the_call_that_ran_when_it_was_written(path: Path) -> None:
    written = Journal(path, 9)
    notes = Notes(path)
    written.add(CallResult(0, 0.0, b""), [])
    notes.add(EntryKind.STOP)
    written.add(CallResult(1, 0.0, b""), [])
    (stop,) = written.notes()
    assert (stop.kind, stop.index) == (EntryKind.STOP, 2)  # 1 ran, so 2 is the first that never begins
    assert [entry.index for entry in notes.read() if entry.kind is EntryKind.STOP] == [2]


def test_a_note_about_a_call_that_has_ended_is_void(path: Path) -> None:
    written = Journal(path, 9)
    notes = Notes(path)
    written.add(CallResult(0, 0.0, b""), [])
    notes.add(EntryKind.LIMIT, 0)
    assert written.notes() == []
    notes.add(EntryKind.LIMIT, 1)
    assert [note.index for note in written.notes()] == [1]
    assert [note.index for note in written.notes_now()] == [1]


def test_what_was_cut_ends_the_journal(path: Path) -> None:
    written = Journal(path, 3)
    written.add(CallResult(0, 0.0, b"zero"), [])
    size = path.stat().st_size
    written.add(CallResult(1, 0.0, b"one" * 100), [])
    os.truncate(path, size + 50)
    progress = Progress(path, 3, None)
    answer = progress.answer_of_dead("it died")
    assert results_of(answer) == [0]
    assert decode_outcome(answer).lost == (1, "it died")
    Notes(path).add(EntryKind.STOP)  # becomes part of what was cut, which no checksum fits
    os.truncate(path, size + 400)
    assert not Progress(path, 3, None).returned
    assert results_of(Progress(path, 3, None).answer_of_dead("it died")) == [0]


def test_a_file_that_is_no_journal_holds_nothing(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else altogether" * 10)
    assert results_of(Progress(path, 3, None).answer_of_dead("it died")) == []


def test_what_the_journal_lacks_comes_from_the_runner(path: Path) -> None:
    written = Journal(path, 3)
    written.add(CallResult(0, 0.0, b"zero"), [{"text": "a"}])
    outcome = Outcome(results=[CallResult(0, 0.0, b"again"), CallResult(1, 0.0, b"one")], records=[{"text": "b"}])
    answer = Progress(path, 3, None).answer(outcome)
    assert [(one.index, one.result) for one in decode_outcome(answer).results] == [(0, b"zero"), (1, b"one")]
    assert [record["text"] for record in decode_outcome(answer).records] == ["b", "a"]


def test_a_second_journal_of_a_job_is_refused(path: Path) -> None:
    Journal(path, 1)
    with pytest.raises(FileExistsError):
        Journal(path, 1)


def test_journals_that_nobody_removed_go_by_age(tmp_path: Path, path: Path) -> None:
    clean(tmp_path)  # none yet
    Journal(path, 1)
    Journal(path_of(tmp_path, "young"), 1)
    long_ago = time.time() - journal._MAX_AGE_S - 60
    os.utime(path, (long_ago, long_ago))
    clean(tmp_path)
    assert [left.name for left in path.parent.iterdir()] == ["job-young"]
