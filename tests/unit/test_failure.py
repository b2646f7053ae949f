# SPDX-License-Identifier: Apache-2.0
"""Exceptions of every kind come back as they were raised, through JSON and through a second process."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
import traceback
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flash_plugins.errors import JobTimeout, PayloadTooLarge, RemoteError
from flash_plugins.failure import RemoteTraceback, decode_exception, encode_exception

_SAMPLES = Path(__file__).parent / "code_samples"


def raised(function: Callable[[], object]) -> BaseException:
    """What a function raises, with its traceback and context."""
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - SystemExit and its like are what is tested
        return error
    raise AssertionError("it raised nothing")


def thrower(error: BaseException) -> Callable[[], object]:
    def throw() -> object:
        raise error

    return throw


def travel(error: BaseException, limit_bytes: int = 262_144) -> BaseException:
    """Through JSON and back."""
    return decode_exception(json.loads(json.dumps(encode_exception(error, limit_bytes=limit_bytes))))


def attributes_of(error: BaseException) -> dict[str, object]:
    return {k: v for k, v in vars(error).items() if k not in ("remote_traceback", "__notes__")}


class SeveralArguments(Exception):
    def __init__(self, code: int, reason: str, *, retry: bool) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason, self.retry = code, reason, retry


class MessageBuilder(ValueError):
    def __init__(self, value: object) -> None:
        super().__init__(f"bad {value}")
        self.value = value


class OwnReduce(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.pair = (first, second)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self.pair


class WrongReduce(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)
        self.second = second

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (0, 0)


class OwnNew(Exception):
    def __new__(cls, first: int, second: int) -> OwnNew:
        return super().__new__(cls, first + second)

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first + second)


class Slotted(Exception):
    __slots__ = ("__secret", "code", "message")

    def __init__(self, code: int) -> None:
        self.code = code
        self.message = "in a slot"


@dataclass(frozen=True)
class Frozen(Exception):
    x: int


class NamedImport(ImportError):
    def __init__(self, module: str, *, hint: str) -> None:
        super().__init__(f"{module} ({hint})", name=module, path="/here")


class MissingFile(FileNotFoundError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "gone", path)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


class CustomGroup(ExceptionGroup[Exception]):
    def __new__(cls, message: str, members: list[Exception], code: int = 0) -> CustomGroup:
        self = super().__new__(cls, message, members)
        self.code = code
        return self

    def __init__(self, message: str, members: list[Exception], code: int = 0) -> None:
        super().__init__(message, members)

    code: int


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        ValueError("a", 1, None),
        KeyError("k"),
        StopIteration(3),
        RecursionError("deep"),
        SeveralArguments(7, "busy", retry=True),
        MessageBuilder(3),
        OwnReduce(1, 2),
        WrongReduce(1, 2),
        OwnNew(1, 2),
        Slotted(5),
        Frozen(9),
        NamedImport("torch", hint="gpu"),
        MissingFile("/x"),
        OSError(13, "denied", "/a", None, "/b"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        UnicodeEncodeError("ascii", "é", 0, 1, "bad"),
        json.JSONDecodeError("bad", "{", 1),
        subprocess.CalledProcessError(3, ["cmd"], b"out"),
        subprocess.TimeoutExpired("cmd", 1.5),
        SyntaxError("bad", ("f.py", 3, 4, "text", 3, 5)),
        TimeoutError(),
        JobTimeout("late", job_id="7f3"),
        PayloadTooLarge("large", size_bytes=9, limit_bytes=8),
        RemoteError("x", type_name="y.Z"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exception_comes_back_with_its_class_arguments_and_attributes(error: BaseException) -> None:
    original = raised(thrower(error))

    copy = travel(original)

    assert type(copy) is type(original)
    assert copy.args == original.args
    assert str(copy) == str(original)
    assert attributes_of(copy) == attributes_of(original)
    for name in ("errno", "strerror", "filename", "filename2", "name", "path", "value", "start", "object", "reason"):
        assert getattr(copy, name, None) == getattr(original, name, None), name
    for name in ("lineno", "text", "offset", "code", "message"):
        assert getattr(copy, name, None) == getattr(original, name, None), name


def test_remote_traceback_is_the_last_cause_and_an_attribute() -> None:
    copy = travel(raised(lambda: int("x")))

    assert isinstance(copy.__cause__, RemoteTraceback)
    assert "invalid literal for int()" in copy.__cause__.text
    assert vars(copy)["remote_traceback"] == copy.__cause__.text
    printed = "".join(traceback.format_exception(copy))
    assert 'copy = travel(raised(lambda: int("x")))' in printed
    assert printed.count("ValueError: invalid literal") == 2
    assert isinstance(pickle.loads(pickle.dumps(copy.__cause__)), RemoteTraceback)


def test_cause_and_context_come_back_in_their_places() -> None:
    def with_cause() -> None:
        try:
            int("x")
        except ValueError as error:
            raise KeyError("k") from error

    def with_context() -> None:
        try:
            int("x")
        except ValueError:
            raise KeyError("k")  # noqa: B904 - the implicit context is what is tested

    def with_none() -> None:
        try:
            int("x")
        except ValueError:
            raise KeyError("k") from None

    caused, contextual, suppressed = (travel(raised(f)) for f in (with_cause, with_context, with_none))

    assert isinstance(caused.__cause__, ValueError)
    assert caused.__context__ is caused.__cause__
    assert isinstance(caused.__cause__.__cause__, RemoteTraceback)
    assert contextual.__cause__ is None
    assert isinstance(contextual.__context__, ValueError)
    assert isinstance(contextual.__context__.__cause__, RemoteTraceback)
    assert not contextual.__suppress_context__
    assert suppressed.__suppress_context__
    assert isinstance(suppressed.__context__, ValueError)
    assert isinstance(suppressed.__cause__, RemoteTraceback)


def test_cyclic_chain_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one

    copy = travel(one)

    assert str(copy.__context__) == "two"


def test_long_chain_is_cut_and_does_not_overflow() -> None:
    error: BaseException = ValueError("0")
    for i in range(3000):
        following = ValueError(str(i))
        following.__cause__ = error
        error = following

    encoded = encode_exception(error)

    assert len(json.dumps(encoded)) < 270_000
    assert str(decode_exception(encoded)) == "2999"


def test_notes_come_back() -> None:
    error = ValueError("x")
    error.add_note("first")
    error.add_note("second")

    assert travel(error).__notes__ == ["first", "second"]


def test_groups_come_back_with_their_members() -> None:
    error = ExceptionGroup("outer", [SeveralArguments(1, "r", retry=False), ExceptionGroup("inner", [KeyError("k")])])
    error.add_note("noted")

    copy = travel(raised(thrower(error)))

    assert type(copy) is ExceptionGroup
    assert (copy.message, copy.__notes__) == ("outer", ["noted"])
    first, inner = copy.exceptions
    assert isinstance(first, SeveralArguments)
    assert first.reason == "r"
    assert isinstance(inner, ExceptionGroup)
    assert isinstance(inner.exceptions[0], KeyError)
    assert copy.subgroup(KeyError) is not None


def test_custom_group_keeps_its_class() -> None:
    copy = travel(CustomGroup("g", [ValueError("v")], code=4))

    assert isinstance(copy, CustomGroup)
    assert copy.code == 4
    assert [type(e) for e in copy.exceptions] == [ValueError]


def test_group_with_an_exception_that_ends_processes_becomes_harmless() -> None:
    copy = travel(BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError("v")]))

    assert type(copy) is ExceptionGroup
    assert [type(e) for e in copy.exceptions] == [RemoteError, ValueError]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
def test_exception_that_would_end_this_process_becomes_a_remote_error(error: BaseException) -> None:
    copy = travel(error)

    assert type(copy) is RemoteError
    assert copy.type_name.endswith(type(error).__name__)
    assert type(error).__name__ in str(copy)
    assert isinstance(copy.__cause__, RemoteTraceback)


def test_exception_that_would_end_this_process_stays_what_it_is_as_a_cause() -> None:
    error = ValueError("v")
    error.__cause__ = SystemExit(3)

    cause = travel(error).__cause__

    assert isinstance(cause, SystemExit)
    assert cause.code == 3


def test_attribute_that_cannot_be_pickled_is_dropped_and_named() -> None:
    error = SeveralArguments(7, "busy", retry=True)
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    error.args = ("text", threading.Lock())

    copy = travel(error)

    assert isinstance(copy, SeveralArguments)
    assert (copy.code, copy.reason, copy.retry) == (7, "busy", True)
    assert not hasattr(copy, "lock")
    assert copy.args[0] == "text"
    assert "_thread.lock object" in copy.args[1]
    notes = "\n".join(copy.__notes__)
    assert "attribute 'lock' (_thread.lock) stayed on the worker" in notes
    assert "argument 1 (_thread.lock) stayed on the worker" in notes


def test_object_of_an_attribute_error_does_not_travel() -> None:
    class Holder:
        content = "x" * 100_000

    error = raised(lambda: Holder().missing)  # type: ignore[attr-defined]

    copy = travel(error)

    assert isinstance(copy, AttributeError)
    assert copy.name == "missing"
    assert copy.obj is None
    assert len(json.dumps(encode_exception(error))) < 5000


def test_exception_that_cannot_be_printed_comes_back() -> None:
    copy = travel(raised(thrower(Unprintable(1))))

    assert isinstance(copy, Unprintable)
    assert copy.args == (1,)


def test_text_that_is_not_valid_unicode_travels() -> None:
    encoded = encode_exception(OSError(2, "gone", "name-\udcff"))

    json.dumps(encoded, ensure_ascii=False).encode("utf-8")
    assert typing.cast(OSError, decode_exception(encoded)).filename == "name-\udcff"


@pytest.mark.parametrize("limit_bytes", [4096, 20_000, 262_144])
def test_large_exception_is_cut_to_the_limit_and_keeps_its_class(limit_bytes: int) -> None:
    error = ValueError("start " + "é" * 1_000_000 + " end", b"x" * 1_000_000)
    error.array = b"z" * 1_000_000  # type: ignore[attr-defined]
    error.small = 1  # type: ignore[attr-defined]
    for _ in range(100):
        error.add_note("n" * 10_000)

    encoded = encode_exception(raised(thrower(error)), limit_bytes=limit_bytes)
    copy = decode_exception(encoded)

    assert len(json.dumps(encoded)) <= limit_bytes
    assert type(copy) is ValueError
    assert copy.args[0].startswith("start ")
    assert copy.args[0].endswith(" end")
    assert "characters cut" in copy.args[0]
    assert attributes_of(copy) == {"small": 1}


def test_large_group_keeps_as_many_whole_members_as_fit() -> None:
    encoded = encode_exception(ExceptionGroup("g", [MessageBuilder("x" * 500) for _ in range(2000)]))
    copy = decode_exception(encoded)

    assert len(json.dumps(encoded)) < 270_000
    assert isinstance(copy, ExceptionGroup)
    assert len(copy.exceptions) > 30
    assert all(type(e) is MessageBuilder for e in copy.exceptions)
    assert "more exceptions of this group were cut" in copy.__notes__[-1]


def test_frames_of_our_own_runner_are_left_out() -> None:
    runner = {"__name__": "flash_plugins.worker.run"}
    exec(compile("def run(f):\n    return inner(f)\ndef inner(f):\n    return f()\n", "/our/runner.py", "exec"), runner)
    run = typing.cast("Callable[[Callable[[], object]], object]", runner["run"])

    def caught_by_runner(function: Callable[[], object]) -> BaseException:
        error = raised(lambda: run(function))
        assert error.__traceback__ is not None
        assert error.__traceback__.tb_next is not None
        return error.with_traceback(error.__traceback__.tb_next.tb_next)  # from the runner's own frame on

    text = encode_exception(caught_by_runner(lambda: int("x")))["traceback"]

    assert "/our/runner.py" not in text
    assert 'int("x")' in text


def test_whole_traceback_stays_when_only_our_own_frames_are_in_it() -> None:
    runner: dict[str, object] = {"__name__": "flash_plugins.worker.run"}
    source = "try:\n    1 / 0\nexcept Exception as e:\n    error = e\n"
    exec(compile(source, "/our/runner.py", "exec"), runner)

    encoded = encode_exception(typing.cast(BaseException, runner["error"]))

    assert "/our/runner.py" in encoded["traceback"]


@pytest.mark.parametrize(
    "failure",
    [
        {},
        {"type": None, "message": None, "pickle": 3, "notes": 4, "cause": 5, "exceptions": None},
        {"type": "a.B", "message": "m", "pickle": "!!!", "exceptions": [1], "notes": ["n", 2]},
        {"type": "a.B", "message": "m", "pickle": "gAVLAS4=", "traceback": "tb", "suppress_context": "yes"},
    ],
)
def test_malformed_failure_becomes_a_remote_error(failure: dict[str, object]) -> None:
    copy = decode_exception(failure)

    assert type(copy) is RemoteError
    assert str(failure.get("message") or "") in str(copy)


class Explodes:
    """Unpickling it fails."""

    def __reduce__(self) -> tuple[object, ...]:
        return _fail, ()


def _fail() -> typing.NoReturn:
    raise LookupError("not here")


def test_exception_with_contents_that_do_not_exist_here_keeps_its_class() -> None:
    error = ValueError("message")
    error.foreign = Explodes()  # type: ignore[attr-defined]

    copy = travel(error)

    assert type(copy) is ValueError
    assert str(copy) == "message"
    assert "cannot be rebuilt here: LookupError: not here" in copy.__notes__[0]


def test_exceptions_of_script_helper_and_installed_package_are_caught_by_class(tmp_path: Path) -> None:
    project, installed, elsewhere = tmp_path / "project", tmp_path / "site-packages", tmp_path / "elsewhere"
    for folder in (project, installed, elsewhere):
        folder.mkdir()
    shutil.copy(_SAMPLES / "shipping.py", installed)
    (installed / "vendor.py").write_text(
        "class VendorError(Exception):\n"
        "    def __init__(self, code, *, hint):\n        super().__init__(code)\n        self.hint = hint\n"
    )
    (project / "helper.py").write_text(
        "class HelperError(Exception):\n"
        "    def __init__(self, a, b):\n        super().__init__(f'{a}/{b}')\n        self.a, self.b = a, b\n"
        "def fail():\n    raise HelperError(1, 2)\n"
    )
    (project / "main.py").write_text(
        textwrap.dedent("""
            import sys, traceback
            import helper, vendor
            from shipping import Worker
            from flash_plugins.errors import RemoteError

            class Base(Exception):
                def __str__(self): return f"{PREFIX} {self.code}"
            PREFIX = "script"
            class ScriptError(Base):
                def __init__(self, code, *, more): self.code, self.more = code, more

            def script(): raise ScriptError(5, more=[1])
            def installed(): raise vendor.VendorError(6, hint="h")
            def chained():
                try: helper.fail()
                except helper.HelperError as error: raise ScriptError(7, more=None) from error
            def group(): raise ExceptionGroup("g", [ScriptError(8, more=0), vendor.VendorError(9, hint="i")])
            def only_there():
                import sys, types
                module = types.ModuleType("only_there")
                module.__spec__ = __import__("importlib").machinery.ModuleSpec("only_there", None, origin="built-in")
                exec("class Gone(Exception): pass", vars(module))
                sys.modules["only_there"] = module
                raise module.Gone("lost")

            worker = Worker()
            try: worker.call(script)
            except ScriptError as e:
                print(str(e), e.code, e.more, type(e) is ScriptError)
                text = "".join(traceback.format_exception(e))
                assert "in script" in text and "raise ScriptError(5, more=[1])" in text, text
            try: worker.call(helper.fail)
            except helper.HelperError as e: print(str(e), e.a, e.b)
            try: worker.call(installed)
            except vendor.VendorError as e: print(e.args, e.hint)
            try: worker.call(chained)
            except ScriptError as e: print(str(e), repr(e.__cause__), type(e.__cause__.__cause__).__name__)
            try: worker.call(group)
            except* ScriptError as g: print([e.code for e in g.exceptions])
            except* vendor.VendorError as g: print([e.hint for e in g.exceptions])
            try: worker.call(only_there)
            except RemoteError as e: print(e.type_name, str(e))
            try: worker.call(sys.exit, 4)
            except RemoteError as e: print(e.type_name)
            print(worker.call(int, "3"))
            worker.close()
        """)
    )

    finished = subprocess.run(
        [sys.executable, "main.py"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(installed), "SHIPPING_WORKER_FOLDER": str(elsewhere)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [
        "script 5 5 [1] True",
        "1/2 1 2",
        "(6,) h",
        "script 7 HelperError('1/2') RemoteTraceback",
        "[8]",
        "['i']",
        "only_there.Gone only_there.Gone: lost (class only_there.Gone cannot be rebuilt here: "
        "ModuleNotFoundError: No module named 'only_there')",
        "SystemExit",
        "3",
    ]
