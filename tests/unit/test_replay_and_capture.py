# SPDX-License-Identifier: Apache-2.0
"""What a call prints, logs and warns: recorded on the worker, shown at the caller as if it had run there."""

from __future__ import annotations

import contextvars
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from flash_plugins.replay import replay
from flash_plugins.worker import capture
from flash_plugins.worker.capture import Recorder, follow_log_level, install, recording


class Worker:
    """This process made a worker: its streams, root logger and warnings recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out = io.StringIO()
        self.err = io.StringIO()
        self._monkeypatch = monkeypatch

    def install(self) -> None:
        """Begin; in the test itself, since pytest sets the streams anew between a fixture and its test."""
        for name, stream in (("stdout", self.out), ("stderr", self.err), ("__stderr__", self.err)):
            self._monkeypatch.setattr(sys, name, stream)
        logging.getLogger().handlers.clear()
        install()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with warnings.catch_warnings():
        yield Worker(monkeypatch)
        monkeypatch.undo()
    root.handlers[:] = handlers
    root.setLevel(level)


def travel(recorder: Recorder) -> list[dict[str, Any]]:
    """The records as the caller gets them."""
    records: list[dict[str, Any]] = json.loads(json.dumps(recorder.records))
    return records


def test_prints_are_recorded_in_order_and_reach_the_workers_log(worker: Worker) -> None:
    worker.install()
    with recording(inline=True) as recorder:
        print("one")
        print("two")
        print("oops", file=sys.stderr)
        print("three")
    assert recorder.records == [
        {"stream": "stdout", "text": "one\ntwo\n"},
        {"stream": "stderr", "text": "oops\n"},
        {"stream": "stdout", "text": "three\n"},
    ]
    assert worker.out.getvalue() == "one\ntwo\nthree\n"
    assert worker.err.getvalue() == "oops\n"


def test_nothing_is_recorded_outside_of_a_call(worker: Worker) -> None:
    worker.install()
    with recording(inline=True) as recorder:
        pass
    print("between calls")
    logging.getLogger("between").error("calls")
    assert recorder.records == []
    assert "between calls" in worker.out.getvalue()
    assert "ERROR:between:calls" in worker.err.getvalue()


def test_threads_of_the_only_call_are_its_own(worker: Worker) -> None:
    worker.install()
    with recording(inline=True) as recorder:
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start()
        thread.join()
    assert recorder.records == [{"stream": "stdout", "text": "from a thread\n"}]


def test_calls_that_run_side_by_side_do_not_mix(worker: Worker) -> None:
    worker.install()
    recorders: dict[str, Recorder] = {}
    barrier = threading.Barrier(2)

    def call(name: str) -> None:
        with recording(inline=False) as recorder:
            recorders[name] = recorder
            for _ in range(50):
                barrier.wait(30)
                print(name)

    threads = [threading.Thread(target=contextvars.Context().run, args=(call, name)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: recorder.records for name, recorder in recorders.items()} == {
        name: [{"stream": "stdout", "text": f"{name}\n" * 50}] for name in "ab"
    }


def test_log_records_are_recorded_with_where_they_come_from(worker: Worker) -> None:
    worker.install()
    follow_log_level(logging.INFO)
    with recording(inline=True) as recorder:
        logging.getLogger("app.part").info("hello %s", "you")
        logging.getLogger("app.part").debug("too fine")
    (record,) = recorder.records
    assert (record["log"], record["level"], record["text"]) == ("app.part", logging.INFO, "hello you")
    assert record["path"] == __file__
    assert record["function"] == "test_log_records_are_recorded_with_where_they_come_from"
    assert "INFO:app.part:hello you" in worker.err.getvalue()


def test_plain_extras_of_a_log_record_travel(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.install()
    with recording(inline=True) as recorder:
        logging.getLogger("app").warning("hello", extra={"user": "ada", "tries": 3, "lock": threading.Lock()})
        logging.getLogger("app").warning("plain")
    with_extra, plain = records = travel(recorder)
    assert with_extra["extra"] == {"user": "ada", "tries": 3}
    assert "extra" not in plain
    logging.getLogger().addHandler(caplog.handler)  # the worker has taken the others off
    replay(records)
    first, second = caplog.records[-2:]
    assert (first.__dict__["user"], first.__dict__["tries"]) == ("ada", 3)
    assert not hasattr(second, "user")
    assert first.msecs == int(first.created % 1 * 1000)


def test_a_logged_exception_carries_its_traceback(worker: Worker) -> None:
    worker.install()
    with recording(inline=True) as recorder:
        try:
            raise ZeroDivisionError("here")
        except ZeroDivisionError:
            logging.getLogger("app").exception("failed")
    assert recorder.records[0]["text"].startswith("failed\nTraceback")
    assert "ZeroDivisionError: here" in recorder.records[0]["text"]


def test_a_log_call_with_a_bad_format_is_shown_and_stops_nothing(worker: Worker) -> None:
    worker.install()
    with recording(inline=True) as recorder:
        logging.getLogger("app").error("%d apples", "no")
        print("went on")
    assert "Logging error" in recorder.records[0]["text"]
    assert recorder.records[-1] == {"stream": "stdout", "text": "went on\n"}


def test_equal_warnings_of_one_place_are_recorded_once_per_call(worker: Worker) -> None:
    worker.install()

    def warn(text: str) -> None:
        warnings.warn(text, DeprecationWarning, stacklevel=1)

    for _ in range(2):
        with recording(inline=True) as recorder:
            for _ in range(3):
                warn("old")
            warn("older")
        assert [record["warning"] for record in recorder.records] == ["old", "older"]
        assert recorder.records[0]["module"] == __name__
        assert recorder.records[0]["path"] == __file__


def test_output_beyond_the_limit_is_cut_with_a_note(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.install()
    monkeypatch.setattr(capture, "MAX_CHARACTERS", 100)
    with recording(inline=True) as recorder:
        for _ in range(50):
            print("x" * 9)
        logging.getLogger("app").error("also cut")
        warnings.warn("also cut", UserWarning, stacklevel=1)
    kept, note = recorder.records
    assert len(kept["text"]) <= 100
    assert note["stream"] == "stderr"
    assert "cut at 100 characters" in note["text"]
    assert len(worker.out.getvalue()) == 500


def test_the_streams_still_look_like_streams(worker: Worker) -> None:
    worker.install()
    assert not sys.stdout.isatty()
    assert sys.stdout.writable()
    sys.stdout.flush()
    sys.stdout.writelines(["a", "b"])
    assert worker.out.getvalue() == "ab"
    print("c", end="", flush=True)
    assert worker.out.getvalue() == "abc"


def test_prints_are_shown_on_the_same_stream(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    worker.install()
    with recording(inline=True) as recorder:
        print("to out")
        print("to err", file=sys.stderr)
    records = travel(recorder)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as caller:
        caller.setattr(sys, "stdout", out)
        caller.setattr(sys, "stderr", err)
        replay(records)
    assert (out.getvalue(), err.getvalue()) == ("to out\n", "to err\n")


def test_a_process_without_streams_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    replay([{"stream": "stdout", "text": "nowhere"}])


def log_record(level: int = logging.WARNING) -> dict[str, Any]:
    return {
        "log": "remote.part", "level": level, "text": "100% done", "path": "/worker/f.py", "line": 7,
        "function": "f", "created": 1_000.5,
    }  # fmt: skip


def test_log_records_go_through_the_callers_loggers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        replay([log_record(), log_record(logging.DEBUG)])
    (record,) = [record for record in caplog.records if record.name == "remote.part"]
    assert record.getMessage() == "100% done"
    assert (record.levelname, record.pathname, record.lineno, record.funcName) == ("WARNING", "/worker/f.py", 7, "f")
    assert record.created == 1_000.5


def test_a_logger_that_the_caller_switched_off_stays_silent(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("remote.part")
    logger.disabled = True
    try:
        replay([log_record()])
    finally:
        logger.disabled = False
    assert not [record for record in caplog.records if record.name == "remote.part"]


class OwnWarning(UserWarning):
    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


def recorded_warning(warning: Warning) -> list[dict[str, Any]]:
    recorder = Recorder()
    recorder.warning(warning, type(warning), "/worker/f.py", 7, "remote_module")
    return travel(recorder)


def test_a_warning_comes_as_its_own_class_from_its_place() -> None:
    with pytest.warns(OwnWarning, match="careful") as caught:
        replay(recorded_warning(OwnWarning("careful", 5)))
    (shown,) = caught
    assert isinstance(shown.message, OwnWarning)
    assert shown.message.code == 5
    assert (shown.filename, shown.lineno) == ("/worker/f.py", 7)


def test_the_callers_filters_decide_what_is_shown() -> None:
    records = recorded_warning(DeprecationWarning("old"))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("ignore")
        replay(records)
        assert shown == []
        warnings.filterwarnings("always", module="remote_module")
        replay(records)
        replay(records)
        assert len(shown) == 2
        warnings.simplefilter("error")
        with pytest.raises(DeprecationWarning, match="old"):
            replay(records)


def test_a_warning_that_is_shown_once_is_shown_once() -> None:
    records = recorded_warning(UserWarning("only once, please"))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            replay(records)
    assert len(shown) == 1


def test_a_warning_that_cannot_be_rebuilt_keeps_its_text() -> None:
    class Local(UserWarning):
        def __reduce__(self) -> Any:
            return (_fail, ())

    with pytest.warns(UserWarning, match="odd"):
        replay(recorded_warning(Local("odd")))


def _fail() -> None:
    raise ZeroDivisionError


def test_a_warning_that_cannot_be_pickled_keeps_its_text() -> None:
    warning = UserWarning("with a lock")
    warning.lock = threading.Lock()  # type: ignore[attr-defined]
    records = recorded_warning(warning)
    assert records[0]["pickle"] is None
    with pytest.warns(UserWarning, match="with a lock"):
        replay(records)


def test_a_pickle_that_is_no_warning_is_not_shown_as_one() -> None:
    from flash_plugins.code import dumps
    from flash_plugins.payload import encode_bytes

    (record,) = recorded_warning(UserWarning("text"))
    record["pickle"] = encode_bytes(dumps({"not": "a warning"}, what="it").data)
    with pytest.warns(UserWarning, match="text"):
        replay([record])


def test_unknown_records_are_left_out() -> None:
    replay([{"metric": 5}])
