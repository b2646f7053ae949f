# SPDX-License-Identifier: Apache-2.0
"""Functions, classes and local modules reach a second process and come back. Never mocks a process."""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
import timeit
import types
import typing
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from flash_plugins.code import (
    Pickled,
    activate_bundle,
    activation,
    bundle_modules,
    dumps,
    install_bundle,
    is_local_module,
    loads,
)
from flash_plugins.code.bundle import MAX_BUNDLE_BYTES
from flash_plugins.code.imports import imports_of_code, imports_of_file
from flash_plugins.code.modules import ModuleKind, module_kind
from flash_plugins.errors import ConfigError, EnvelopeError, PayloadTooLarge, UnpicklableError
from tests.support import require

_SAMPLES = Path(__file__).parent / "code_samples"

WriteFiles = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> WriteFiles:
    """Write files, given by path and source, into the folder of a project."""
    project = tmp_path / "project"
    project.mkdir()

    def write_files(files: dict[str, str]) -> Path:
        for name, source in files.items():
            file = project / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(source))
        return project

    return write_files


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run a script in a process of its own; return what it printed."""
    installed = tmp_path / "site-packages"
    installed.mkdir()
    shutil.copy(_SAMPLES / "shipping.py", installed)
    (tmp_path / "elsewhere").mkdir()

    def run_script(folder: Path, *command: str, python_path: str = "") -> str:
        paths = os.pathsep.join(filter(None, [str(installed), python_path]))
        finished = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths, "SHIPPING_WORKER_FOLDER": str(tmp_path / "elsewhere")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.strip()

    return run_script


@pytest.fixture
def importable(write: WriteFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteFiles]:
    """Like `write`, with the folder on sys.path; what was imported from it is forgotten at the end."""
    before = set(sys.modules)

    def write_importable(files: dict[str, str]) -> Path:
        project = write(files)
        if str(project) not in sys.path:
            monkeypatch.syspath_prepend(project)
        importlib.invalidate_caches()
        return project

    yield write_importable
    for name in set(sys.modules) - before:
        del sys.modules[name]


# ---------------------------------------------------------------------------------------------------------
# Second processes


def test_helper_beside_the_script_is_importable_on_the_worker(write: WriteFiles, run: Callable[..., str]) -> None:
    project = write(
        {
            "helper.py": "import constants\ndef twice(x): return x * constants.FACTOR\n",
            "constants.py": "FACTOR = 2\n",
            "unrelated.py": "raise SystemExit\n",
            "main.py": """
                import helper
                from helper import twice
                from shipping import bundled, ship

                def f(x):
                    return helper.twice(x) + twice(x)

                print(ship(f, 10), ship(helper.twice, 3), bundled(f, 10))
            """,
        }
    )

    assert run(project, "main.py") == "40 6 ('constants', 'helper')"


def test_helper_imported_inside_a_function_is_importable_on_the_worker(
    write: WriteFiles, run: Callable[..., str]
) -> None:
    project = write(
        {
            "helper.py": "def twice(x):\n    import constants\n    return x * constants.FACTOR\n",
            "constants.py": "FACTOR = 2\n",
            "main.py": """
                from shipping import bundled, ship

                def f(x):
                    import helper
                    return helper.twice(x)

                print(ship(f, 10), ship(lambda: __import__("helper").twice(4)), bundled(f))
            """,
        }
    )

    assert run(project, "main.py") == "20 8 ('constants', 'helper')"


def test_imports_in_a_function_are_found_without_the_source_of_the_script(
    write: WriteFiles, run: Callable[..., str]
) -> None:
    project = write({"helper.py": "ONE = 1\n", "pkg/__init__.py": "", "pkg/deep.py": "TWO = 2\n"})
    script = """
from shipping import ship
def outer():
    def inner():
        from pkg import deep
        import helper
        return helper.ONE + deep.TWO
    return inner
print(ship(outer()), ship(lambda: outer()()))
"""

    assert run(project, "-c", script) == "3 3"


def test_package_with_relative_imports_travels_whole(write: WriteFiles, run: Callable[..., str]) -> None:
    project = write(
        {
            "pkg/__init__.py": "from .core import total\n",
            "pkg/py.typed": "",
            "pkg/core.py": """
                from . import numbers
                from .sub.leaf import leaf
                def total(): return numbers.N + leaf()
            """,
            "pkg/numbers.py": "N = 40\n",
            "pkg/sub/__init__.py": "",
            "pkg/sub/leaf.py": "from ..numbers import N\nimport beside\ndef leaf(): return N + beside.B\n",
            "pkg/by_name.py": "NAME = 'by name'\n",
            "beside.py": "B = 3\n",
            "main.py": """
                import importlib
                from pkg import total
                from pkg.sub import leaf
                from shipping import bundled, ship

                def f():
                    return total(), leaf.leaf(), importlib.import_module("pkg.by_name").NAME

                print(ship(f), bundled(f))
            """,
        }
    )

    assert run(project, "main.py") == (
        "(83, 43, 'by name') ('beside', 'pkg', 'pkg.by_name', 'pkg.core', 'pkg.numbers', 'pkg.sub', 'pkg.sub.leaf')"
    )


def test_script_run_as_a_module_of_a_package(write: WriteFiles, run: Callable[..., str]) -> None:
    project = write(
        {
            "pkg/__init__.py": "",
            "pkg/helper.py": "def f(): return 5\n",
            "pkg/script.py": """
                from . import helper
                from shipping import bundled, ship

                def top():
                    return helper.f()

                def inside():
                    from .helper import f
                    return f()

                print(ship(top), ship(inside))
            """,
        }
    )

    assert run(project, "-m", "pkg.script") == "5 5"


def test_namespace_package_brings_only_what_is_imported(write: WriteFiles, run: Callable[..., str]) -> None:
    project = write(
        {
            "space/one.py": "from space.inner.two import TWO\nONE = TWO - 1\n",
            "space/inner/two.py": "TWO = 2\n",
            "space/other.py": "raise SystemExit\n",
            "main.py": """
                from space import one
                from shipping import bundled, ship
                print(ship(lambda: one.ONE), bundled(lambda: one.ONE))
            """,
        }
    )

    assert run(project, "main.py") == "1 ('space.inner.two', 'space.one')"


def test_edited_helper_gives_a_new_digest_and_new_behaviour_on_a_running_worker(
    write: WriteFiles, run: Callable[..., str]
) -> None:
    project = write(
        {
            "helper.py": "import base\ndef f(): return base.VERSION\n",
            "base.py": "VERSION = 1\n",
            "main.py": """
                from pathlib import Path
                from shipping import Worker

                def f():
                    import helper
                    return helper.f()

                worker = Worker()
                first = worker.call(f)
                digest = worker.bundle.digest
                same = worker.call(f), worker.bundle.digest == digest
                Path("base.py").write_text("VERSION = 'two'\\n")
                second = worker.call(f)
                print(first, same, second, worker.bundle.digest == digest)
                worker.close()
            """,
        }
    )

    assert run(project, "main.py") == "1 (1, True) two False"


def test_classes_keep_their_identity_on_the_way_back(write: WriteFiles, run: Callable[..., str]) -> None:
    project = write(
        {
            "helper.py": "class Thing:\n    def __init__(self, x): self.x = x\n",
            "main.py": """
                import enum
                import typing
                from collections import namedtuple
                from dataclasses import dataclass
                import helper
                from shipping import Worker

                T = typing.TypeVar("T")
                Pair = namedtuple("Pair", "a b")

                class Color(enum.Enum):
                    RED = 1

                @dataclass(frozen=True)
                class Point:
                    x: int
                    color: Color = Color.RED

                class Box(typing.Generic[T]):
                    made = 0
                    def __init__(self, content: T) -> None:
                        type(self).made += 1
                        self.content = content

                class Base:
                    subclasses: list[str] = []
                    def __init_subclass__(cls, **options):
                        Base.subclasses.append(cls.__name__)
                        super().__init_subclass__(**options)

                class Child(Base):
                    pass

                def f(point, thing):
                    assert type(point) is Point and type(thing) is helper.Thing
                    made = [Box(point), Box(Color.RED)]
                    return made, Pair(1, 2), Point(point.x + 1), helper.Thing(thing.x), Color.RED, Child()

                method, initialiser = Box.__init__, Point.__init__
                worker = Worker()
                for _ in range(2):
                    boxes, pair, point, thing, red, child = worker.call(f, Point(1), helper.Thing(2))
                    assert type(boxes[0]) is Box and type(boxes[0].content) is Point
                    assert boxes[1].content is Color.RED and red is Color.RED
                    assert type(pair) is Pair and point == Point(2) and type(thing) is helper.Thing
                    assert type(child) is Child
                assert Box.__init__ is method and Point.__init__ is initialiser, "the original was overwritten"
                assert Box.made == 0, "class attributes of the worker came back"
                assert Base.subclasses == ["Child"], Base.subclasses
                worker.close()
                print("ok")
            """,
        }
    )

    assert run(project, "main.py") == "ok"


def test_kinds_of_callables_reach_the_worker(write: WriteFiles, run: Callable[..., str]) -> None:
    project = write(
        {
            "deco.py": """
                import functools
                def loud(function):
                    @functools.wraps(function)
                    def wrapper(*args):
                        return ("loud", function(*args))
                    return wrapper
                @loud
                def decorated(x): return x
                def factory(y):
                    def made(x): return x + y + LIMIT
                    return made
                LIMIT = 100
            """,
            "main.py": """
                import functools
                import deco
                from shipping import ship

                GLOBAL = {"n": 1}

                @deco.loud
                def here(x): return x

                def even(n): return n == 0 or odd(n - 1)
                def odd(n): return n != 0 and even(n - 1)
                def fact(n): return 1 if n == 0 else n * fact(n - 1)

                class K:
                    base = 3
                    def __init__(self, y): self.y = y
                    def __call__(self, x): return x + self.y
                    def method(self, x): return super().__repr__()[:1], x * self.y
                    @classmethod
                    def cm(cls, x): return cls.base + x
                    @staticmethod
                    def sm(x): return x
                    @functools.cached_property
                    def cp(self): return self.y

                def counts():
                    GLOBAL["n"] += 1
                    return GLOBAL["n"]

                print(ship(here, 1), ship(deco.decorated, 2), ship(deco.factory(1), 2))
                print(ship(even, 10), ship(fact, 5), ship(functools.partial(pow, 2), 5), ship(K(2), 1))
                print(ship(K(2).method, 4), ship(K.cm, 1), ship(K.sm, 7), ship(lambda k: k.cp, K(9)), ship(max, [1, 2]))
                print(ship(counts), GLOBAL)
            """,
        }
    )

    assert run(project, "main.py").splitlines() == [
        "('loud', 1) ('loud', 2) 103",
        "True 120 32 3",
        "('<', 8) 4 7 9 2",
        "2 {'n': 1}",
    ]


def test_objects_that_pickle_by_name_reach_the_worker_from_a_script(write: WriteFiles, run: Callable[..., str]) -> None:
    project = write(
        {
            "main.py": """
                import functools, typing
                from shipping import ship

                UserId = typing.NewType("UserId", int)
                P, T = typing.ParamSpec("P"), typing.TypeVar("T")

                @functools.lru_cache(maxsize=99)
                def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)

                @functools.singledispatch
                def kind(x): return "object"
                @kind.register
                def _(x: int): return "int"
                kind("fills the cache")

                def annotated(user: UserId, f: typing.Callable[P, T]) -> UserId: return UserId(user + 1)

                class Lazy:
                    @functools.cached_property
                    def value(self): return 5

                def cached(lazy): return lazy.value, lazy.value, vars(lazy)

                print(ship(fib, 10), ship(lambda: fib(9)), ship(lambda: fib.cache_parameters()["maxsize"]))
                print(ship(kind, 1), ship(lambda: kind("")), ship(annotated, 1, None), ship(cached, Lazy()))
            """
        }
    )

    assert run(project, "main.py").splitlines() == ["55 34 99", "int object 2 (5, 5, {'value': 5})"]


def test_decorated_function_of_a_module_goes_by_reference(write: WriteFiles, run: Callable[..., str]) -> None:
    project = write(
        {
            "tasks.py": """
                import functools
                import threading

                class Task:
                    def __init__(self, function): functools.update_wrapper(self, function)

                lock = threading.Lock()
                calls = 0

                @Task
                @Task
                def count():
                    global calls
                    with lock:
                        calls += 1
                        return calls
            """,
            "main.py": """
                import tasks
                from shipping import Worker

                def look():
                    return tasks.calls

                worker = Worker()
                function = tasks.count.__wrapped__.__wrapped__
                print(worker.call(function), worker.call(function), worker.call(look), worker.bundle.modules)
                worker.close()
            """,
        }
    )

    assert run(project, "main.py") == "1 2 2 ('tasks',)"


def test_changed_class_of_the_script_changes_on_the_worker_but_not_back(
    write: WriteFiles, run: Callable[..., str]
) -> None:
    project = write(
        {
            "main.py": """
                from shipping import Worker

                class Setting:
                    value = 1

                def change(instance):
                    before = Setting.value
                    Setting.value = -1
                    return before, instance

                worker = Worker()
                first = worker.call(change, Setting())[0]
                Setting.value = 2
                print(first, worker.call(change, Setting())[0], Setting.value)
                worker.close()
            """
        }
    )

    assert run(project, "main.py") == "1 2 2"


def test_script_in_a_process_that_multiprocessing_spawned(write: WriteFiles, run: Callable[..., str]) -> None:
    project = write(
        {
            "main.py": """
                import multiprocessing
                from shipping import ship

                class Point:
                    def __init__(self, x): self.x = x
                    def twice(self): return Point(2 * self.x)

                def child(queue):
                    point = ship(Point.twice, Point(4))
                    queue.put((Point.__module__, point.x, type(point) is Point))

                if __name__ == "__main__":
                    context = multiprocessing.get_context("spawn")
                    queue = context.Queue()
                    process = context.Process(target=child, args=(queue,))
                    process.start()
                    print(queue.get(timeout=30))
                    process.join()
            """
        }
    )

    assert run(project, "main.py") == "('__mp_main__', 8, True)"


def test_editable_install_with_a_finder_of_its_own_counts_as_local(write: WriteFiles, run: Callable[..., str]) -> None:
    project = write(
        {
            "src/oddly_named/__init__.py": "from . import core\n",
            "src/oddly_named/core.py": "def f(): return 11\n",
            "main.py": """
                import sys
                from importlib.util import spec_from_file_location
                from pathlib import Path

                folder = Path(__file__).parent / "src" / "oddly_named"

                class EditableFinder:
                    @classmethod
                    def find_spec(cls, name, path=None, target=None):
                        if name == "project":
                            return spec_from_file_location(
                                name, folder / "__init__.py", submodule_search_locations=[str(folder)])

                sys.meta_path.append(EditableFinder)
                import project
                from shipping import bundled, ship
                print(ship(lambda: project.core.f()), bundled(project.core.f))
            """,
        }
    )

    assert run(project, "main.py") == "11 ('project', 'project.core')"


def test_function_of_a_test_module_goes_by_value(
    run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = dumps(_function_of_this_module, what="function")
    script = "import sys, pickle; print(pickle.load(sys.stdin.buffer)(1))"

    finished = subprocess.run([sys.executable, "-c", script], input=pickled.data, cwd=tmp_path, capture_output=True)

    assert finished.stdout.strip() == b"43", finished.stderr
    assert pickled.modules == frozenset()
    assert module_kind(__name__) is ModuleKind.UNREACHABLE


_ANSWER = 42


def _function_of_this_module(x: int) -> int:
    return _ANSWER + x


def test_module_made_at_run_time_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.ModuleType("made_at_run_time")
    exec("LIMIT = 7\ndef f(): return LIMIT\nclass C: pass\n", vars(made))
    monkeypatch.setitem(sys.modules, made.__name__, made)

    pickled = [dumps(obj, what="it") for obj in (made.f, made.C(), made)]

    monkeypatch.delitem(sys.modules, made.__name__)
    function, instance, module = (loads(p.data) for p in pickled)
    assert typing.cast(Callable[[], int], function)() == 7
    assert type(instance) is made.C
    assert module.f() == 7  # type: ignore[attr-defined]
    assert all(p.modules == frozenset() for p in pickled)


# ---------------------------------------------------------------------------------------------------------
# Pickling


class Level(Enum):
    LOW = 1


@dataclass
class Record:
    value: object


@pytest.mark.parametrize(
    "obj",
    [
        None,
        (1, 2.5, "x", b"y", True, None, 3j),
        {"a": [1, {2, 3}], ("t",): frozenset({4})},
        list(range(1000)),
        bytearray(b"z"),
        Level.LOW,
        Record({"nested": [Record(1)]}),
        functools.partial(int, base=2).keywords,
        types.SimpleNamespace(a=1),
        range(3),
        typing.Callable[[int], str],
        list[int],
        ...,
        NotImplemented,
        type(None),
        os.path,
    ],
)
def test_objects_are_equal_after_the_round_trip(obj: object) -> None:
    pickled = dumps(obj, what="obj")

    assert isinstance(pickled, Pickled)
    assert loads(pickled.data) == obj


def test_recursive_containers_survive() -> None:
    loop: list[object] = []
    loop.append(loop)

    copy = typing.cast("list[object]", loads(dumps(loop, what="loop").data))

    assert copy[0] is copy


def test_pickles_of_one_function_are_equal_so_that_they_can_be_sent_once() -> None:
    def f(x: int) -> int:
        return x + _ANSWER

    assert dumps(f, what="f") == dumps(f, what="f")


def test_pickle_of_an_unchanged_object_is_the_one_from_before() -> None:
    np: typing.Any = require("numpy")
    table = np.arange(100_000, dtype=float).reshape(100, -1)
    text = b"x" * 100_000

    def f() -> object:
        return table, table.T, table[::2], text, _ANSWER

    first = dumps(f, what="f")

    assert dumps(f, what="f", before=first) is first
    table[50, 50] = -1
    changed = dumps(f, what="f", before=first)
    assert changed != first
    assert dumps(f, what="f", before=changed) is changed
    text += b"y"
    assert len(dumps(f, what="f", before=changed).data) == len(changed.data) + 1


def test_object_that_became_unpicklable_is_refused_though_it_was_pickled_before() -> None:
    values: list[object] = [1]
    first = dumps(values, what="values")
    values.append(threading.Lock())

    with pytest.raises(UnpicklableError, match="lock"):
        dumps(values, what="values", before=first)


def test_looking_for_changes_of_a_large_array_costs_no_copy() -> None:
    table = require("numpy").zeros(4_000_000)
    first = dumps(table, what="table")

    def again() -> None:
        assert dumps(table, what="table", before=first) is first

    compared = min(timeit.repeat(again, number=1, repeat=7))
    pickled = min(timeit.repeat(lambda: dumps(table, what="table"), number=1, repeat=7))

    assert compared < pickled / 2


class _Model:
    def __init__(self) -> None:
        self.layers: list[object] = [1, 2, types.SimpleNamespace(lock=threading.Lock())]


_LOCK = threading.Lock()


def _uses_global_lock() -> object:
    return _LOCK


def _captures(value: object) -> Callable[[], object]:
    return lambda: value


class _Raises:
    def __reduce__(self) -> typing.NoReturn:
        raise RuntimeError("not today")


class _Drops:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {}


@pytest.mark.parametrize(
    ("make", "path", "type_name"),
    [
        (_Model, ".layers[2].lock is a _thread.lock", "or drop it in __getstate__"),
        (lambda: {"a": {("k", 1): iter_of_nothing()}}, "['a'][('k', 1)] is a generator", "pass a list of its items"),
        (lambda: _uses_global_lock, "global '_LOCK' that _uses_global_lock() uses is", "_thread.lock"),
        (lambda: _captures(_LOCK), "variable 'value' that _captures.<locals>.<lambda>() captures is", "_thread.lock"),
        (lambda: functools.partial(print, 1, file=_LOCK), ".keywords['file'] is a _thread.lock", "inside"),
        (lambda: _Record_with_lock().method, ".__self__.value is a _thread.lock", "inside"),
        (lambda: [0, _Raises()], "[1] is a", "not today"),
        (lambda: threading.Lock(), "it is a _thread.lock", "inside"),
        (lambda: [_Drops(), Record(_LOCK)], "[1].value is a _thread.lock", "inside"),
        (lambda: sys._getframe(), "it is a frame", "cannot pickle 'frame' object"),
    ],
)  # fmt: skip
def test_unpicklable_object_is_named_by_its_path(make: Callable[[], object], path: str, type_name: str) -> None:
    with pytest.raises(UnpicklableError) as caught:
        dumps(make(), what="argument 'model' of fit()")

    message = str(caught.value)
    assert message.startswith("argument 'model' of fit() cannot be pickled: ")
    assert path in message
    assert type_name in message
    assert caught.value.__cause__ is not None


def iter_of_nothing() -> Iterator[int]:
    yield from ()


class _Record_with_lock(Record):
    def __init__(self) -> None:
        super().__init__(threading.Lock())

    def method(self) -> None: ...


def test_open_file_for_writing_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with open(tmp_path / "f", "w") as file, pytest.raises(UnpicklableError, match="pass the path"):
        dumps({"log": file}, what="argument 'x' of f()")


def test_object_nested_too_deeply_is_refused() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(UnpicklableError, match="nested too deeply"):
        dumps(deep, what="argument 'x' of f()")


def test_search_for_the_culprit_ends_on_cyclic_objects() -> None:
    a, b = types.SimpleNamespace(), types.SimpleNamespace()
    a.b, b.a, b.lock = b, a, threading.Lock()

    with pytest.raises(UnpicklableError, match=r"\.b\.lock is a _thread\.lock"):
        dumps(a, what="argument 'x' of f()")


def test_small_plain_values_cost_little() -> None:
    best = min(timeit.repeat(lambda: dumps((1, 2, 3), what="x"), number=2000, repeat=5)) / 2000

    assert best < 20e-6


# ---------------------------------------------------------------------------------------------------------
# Which modules are local


@pytest.mark.parametrize(
    "name",
    [
        "os",
        "sys",
        "json.decoder",
        "pytest",
        "cloudpickle",
        "flash_plugins.errors",
        "flash_joblib",
        "no_such_module",
        "__main__",
    ],
)
def test_installed_own_and_unknown_modules_are_not_local(name: str) -> None:
    assert not is_local_module(name)


def test_module_with_a_source_file_is_local_whether_imported_or_not(importable: WriteFiles) -> None:
    importable({"local_a.py": "", "local_p/__init__.py": "", "local_p/sub.py": "", "local_n/mod.py": ""})

    names = ["local_a", "local_p", "local_p.sub", "local_n", "local_n.mod"]
    assert all(map(is_local_module, names))
    assert not set(names) & set(sys.modules), "looking must not import"
    assert not is_local_module("local_p.missing")

    for name in names:
        importlib.import_module(name)
    assert all(map(is_local_module, names))


def test_module_is_classified_anew_when_another_takes_its_name(importable: WriteFiles) -> None:
    importable({"changing.py": ""})
    assert module_kind("changing") is ModuleKind.LOCAL

    sys.modules["changing"] = types.ModuleType("changing")

    assert module_kind("changing") is ModuleKind.UNREACHABLE


def test_compiled_extension_beside_the_script_is_refused_only_when_it_is_needed(importable: WriteFiles) -> None:
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    importable(
        {
            f"fast{suffix}": "",
            "careful.py": "try:\n    import fast\nexcept ImportError:\n    fast = None\n",
            "needs.py": "import fast\n",
        }
    )

    assert module_kind("fast") is ModuleKind.COMPILED
    careful = bundle_modules(["careful"])
    assert careful is not None
    assert careful.modules == ("careful",)
    with pytest.raises(ConfigError, match=r"'needs' imports 'fast' \(line 1 of"):
        bundle_modules(["needs"])


def test_object_of_a_compiled_extension_beside_the_script_is_refused(
    importable: WriteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = importable({})
    fast = types.ModuleType("fast")
    fast.__file__ = str(project / f"fast{importlib.machinery.EXTENSION_SUFFIXES[0]}")
    monkeypatch.setitem(sys.modules, "fast", fast)

    with pytest.raises(UnpicklableError, match=r"\['m'\] is a module .*'fast' is a compiled extension"):
        dumps({"m": fast}, what="argument 'x' of f()")


def test_package_with_compiled_parts_is_taken_to_be_installed_on_the_worker(importable: WriteFiles) -> None:
    importable({"mixed/__init__.py": "", f"mixed/_fast{importlib.machinery.EXTENSION_SUFFIXES[0]}": ""})

    assert module_kind("mixed") is ModuleKind.INSTALLED


# ---------------------------------------------------------------------------------------------------------
# Reading imports


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Install files: into a folder that comes late on sys.path."""
    site = tmp_path / "site-packages"

    def install(files: dict[str, str]) -> None:
        for name, source in files.items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(source)
        monkeypatch.setattr(sys, "path", [*sys.path, str(site)])

    return install


def test_second_copy_of_an_installed_package_does_not_travel(
    importable: WriteFiles, installed: Callable[[dict[str, str]], None], caplog: pytest.LogCaptureFixture
) -> None:
    parts = {"copied/__init__.py": "", "copied/a.py": "", "copied/b/__init__.py": ""}
    installed({**parts, "copied/old.py": ""})
    importable({**parts, "copied/new.py": ""})

    assert module_kind("copied") is ModuleKind.INSTALLED
    assert module_kind("copied.new") is ModuleKind.INSTALLED
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "copied" in caplog.text


def test_second_copy_of_an_installed_module_does_not_travel(
    importable: WriteFiles, installed: Callable[[dict[str, str]], None]
) -> None:
    installed({"six_like.py": "", "six_like-1.0.dist-info/METADATA": "Name: six-like\nVersion: 1.0\n"})
    importable({"six_like.py": ""})

    assert module_kind("six_like") is ModuleKind.INSTALLED


def test_module_of_ones_own_with_the_name_of_an_installed_one_travels(
    importable: WriteFiles, installed: Callable[[dict[str, str]], None], caplog: pytest.LogCaptureFixture
) -> None:
    installed({"helpers/__init__.py": "", "helpers/x.py": "", "helpers/y.py": "", "helpers/z.py": "", "one.py": ""})
    importable({"helpers/__init__.py": "", "helpers/x.py": "", "helpers/mine.py": "", "one.py": ""})

    assert module_kind("helpers.mine") is module_kind("one") is ModuleKind.LOCAL
    assert not caplog.records


def test_every_form_of_import_is_read_from_source(write: WriteFiles) -> None:
    project = write(
        {
            "all.py": """
                import a, b.c as d
                from e import f, g as h
                from . import i
                from ..j import k
                from l import *
                try:
                    import m
                except ImportError:
                    pass
                if a: import n
                def fn():
                    import o
                    class C:
                        import p
                async def fn2():
                    async with a:
                        import q
            """
        }
    )

    found = imports_of_file(str(project / "all.py"))
    names = {name for statement in found for name in statement.modules("top.pkg")}

    assert names == {
        "a", "b.c", "e", "e.f", "e.g", "top.pkg", "top.pkg.i", "top.j", "top.j.k", "l", "m", "n", "o", "p", "q",
    }  # fmt: skip
    assert {s.name for s in found if s.is_certain} == {"a", "b.c", "e", "", "j", "l"}


def test_relative_import_above_the_top_names_nothing(write: WriteFiles) -> None:
    project = write({"bad.py": "from ... import x\n", "syntax.py": "import ("})

    assert [list(s.modules("top")) for s in imports_of_file(str(project / "bad.py"))] == [[]]
    assert imports_of_file(str(project / "syntax.py")) == ()


def test_every_form_of_import_is_read_from_a_function() -> None:
    namespace: dict[str, typing.Any] = {}
    exec(
        textwrap.dedent("""
            def f():
                import a, b.c as d
                from e import f, g as h
                from . import i
                from ..j import k
                return lambda: __import__("x") or [__import__("y")]
            def g():
                def inner():
                    import z
        """),
        namespace,
    )

    def names(function: types.FunctionType) -> set[str]:
        return {name for s in imports_of_code(function.__code__) for name in s.modules("top.pkg")}

    assert names(namespace["f"]) == {
        "a", "b.c", "e", "e.f", "e.g", "top.pkg", "top.pkg.i", "top.j", "top.j.k",
    }  # fmt: skip
    assert names(namespace["g"]) == {"z"}


# ---------------------------------------------------------------------------------------------------------
# Bundles


def test_no_local_modules_make_no_bundle() -> None:
    assert bundle_modules([]) is None
    assert bundle_modules(["os", "pytest", "no_such_module"]) is None


def test_bundle_is_deterministic_and_cached(importable: WriteFiles) -> None:
    importable({"one.py": "import two\n", "two.py": "import one\n"})

    first, again, other = bundle_modules(["one"]), bundle_modules(iter(["one"])), bundle_modules(["two"])

    assert first is not None
    assert other is not None
    assert again is first
    assert other.digest == first.digest == hashlib.sha256(first.data).hexdigest()
    assert first.size_bytes == len("import two\n") + len("import one\n")


def test_bundle_sees_edited_and_added_and_removed_files(importable: WriteFiles) -> None:
    project = importable({"grows/__init__.py": "", "grows/a.py": "A = 1\n"})

    def modules_and_digest() -> tuple[tuple[str, ...], str]:
        bundle = bundle_modules(["grows"])
        assert bundle is not None
        return bundle.modules, bundle.digest

    seen = [modules_and_digest()]
    (project / "grows/a.py").write_text("A = 22\n")
    seen.append(modules_and_digest())
    (project / "grows/b.py").write_text("")
    seen.append(modules_and_digest())
    (project / "grows/b.py").unlink()
    seen.append(modules_and_digest())

    assert [names for names, _ in seen] == [
        ("grows", "grows.a"), ("grows", "grows.a"), ("grows", "grows.a", "grows.b"), ("grows", "grows.a"),
    ]  # fmt: skip
    assert seen[1] == seen[3]
    assert len({digest for _, digest in seen}) == 3


def test_bundle_leaves_out_what_is_not_source(importable: WriteFiles) -> None:
    importable(
        {
            "app/__init__.py": "",
            "app/py.typed": "",
            "app/data.bin": "x",
            "app/.hidden/secret.py": "",
            "app/__pycache__/old.py": "",
            "app/node_modules/x.py": "",
            "app/venv/pyvenv.cfg": "",
            "app/venv/lib/y.py": "",
        }
    )

    bundle = bundle_modules(["app"])

    assert bundle is not None
    assert zipfile.ZipFile(io.BytesIO(bundle.data)).namelist() == ["app/__init__.py", "app/py.typed"]


def test_bundle_over_the_limit_names_the_largest_files(importable: WriteFiles) -> None:
    importable({"huge.py": "#" * (MAX_BUNDLE_BYTES + 1), "tiny.py": "import huge\n"})

    with pytest.raises(PayloadTooLarge, match=r"huge\.py \(8\.4 MB\)") as caught:
        bundle_modules(["tiny"])

    assert caught.value.limit_bytes == MAX_BUNDLE_BYTES
    assert caught.value.size_bytes > MAX_BUNDLE_BYTES


# ---------------------------------------------------------------------------------------------------------
# Installing and activating


def _archive(entries: dict[str, str]) -> tuple[str, bytes]:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, source in entries.items():
            archive.writestr(name, source)
    return hashlib.sha256(target.getvalue()).hexdigest(), target.getvalue()


def test_bundle_is_installed_once_by_many_at_a_time(tmp_path: Path) -> None:
    digest, packed = _archive({"m.py": "X = 1\n", "p/__init__.py": "", "p/q.py": ""})
    root = tmp_path / "not" / "there"

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: install_bundle(digest, packed, root), range(32)))

    assert folders == {root / digest}
    assert [p.name for p in root.iterdir()] == [digest], "no temporary folder stays"
    assert sorted(str(p.relative_to(root / digest)) for p in (root / digest).rglob("*.py")) == [
        "m.py", "p/__init__.py", "p/q.py",
    ]  # fmt: skip


@pytest.mark.parametrize("entry", ["../evil.py", "/evil.py", "a/../../evil.py", "c:\\evil.py", "..\\evil.py"])
def test_entry_outside_the_folder_is_refused(tmp_path: Path, entry: str) -> None:
    digest, packed = _archive({"ok.py": "", entry: ""})

    with pytest.raises(EnvelopeError):
        install_bundle(digest, packed, tmp_path / "root")

    assert list((tmp_path / "root").iterdir()) == []
    assert not list(tmp_path.rglob("evil.py"))


def test_damaged_or_misnamed_bundle_is_refused(tmp_path: Path) -> None:
    digest, packed = _archive({"ok.py": ""})
    no_zip = b"no zip"

    with pytest.raises(EnvelopeError, match="damaged"):
        install_bundle(digest, packed + b"!", tmp_path)
    with pytest.raises(EnvelopeError, match="not a SHA-256"):
        install_bundle("../" + digest, packed, tmp_path)
    with pytest.raises(EnvelopeError, match="not a zip"):
        install_bundle(hashlib.sha256(no_zip).hexdigest(), no_zip, tmp_path)


@pytest.fixture
def activate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], bool]]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(activation, "_active", [])
    before = set(sys.modules)

    def install_and_activate(entries: dict[str, str]) -> bool:
        digest, packed = _archive(entries)
        return activate_bundle(install_bundle(digest, packed, tmp_path / "bundles"))

    yield install_and_activate
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_activated_bundle_is_first_on_the_path_once(activate: Callable[[dict[str, str]], bool]) -> None:
    before = len(sys.path)

    assert [activate({"m1.py": "X = 1\n"}) for _ in range(3)] == [False, False, False]

    assert importlib.import_module("m1").X == 1
    assert len(sys.path) == before + 1


def test_edited_module_is_imported_again(activate: Callable[[dict[str, str]], bool]) -> None:
    activate({"m2.py": "from n2 import X\n", "n2.py": "X = 1\n"})
    assert importlib.import_module("m2").X == 1

    assert activate({"m2.py": "from n2 import X\n", "n2.py": "X = 2\n"})

    assert importlib.import_module("m2").X == 2


def test_bundle_with_more_modules_leaves_what_is_imported_alone(activate: Callable[[dict[str, str]], bool]) -> None:
    activate({"m3.py": "class C: pass\n", "only3.py": "Y = 1\n"})
    cls = importlib.import_module("m3").C

    assert not activate({"m3.py": "class C: pass\n", "n3.py": "X = 3\n"})

    assert importlib.import_module("m3").C is cls
    assert importlib.import_module("n3").X == 3
    assert importlib.import_module("only3").Y == 1


def test_package_that_got_a_part_is_imported_again(activate: Callable[[dict[str, str]], bool]) -> None:
    activate({"p4/__init__.py": "", "p4/a.py": ""})
    importlib.import_module("p4.a")

    assert activate({"p4/__init__.py": "", "p4/a.py": "", "p4/b.py": "B = 4\n"})

    assert importlib.import_module("p4.b").B == 4


def test_edited_module_of_a_namespace_package_is_imported_again(activate: Callable[[dict[str, str]], bool]) -> None:
    activate({"ns5/a.py": "X = 1\n"})
    exec("from ns5 import a")

    assert activate({"ns5/a.py": "X = 2\n"})

    namespace: dict[str, typing.Any] = {}
    exec("from ns5 import a", namespace)
    assert namespace["a"].X == 2


def test_module_of_the_same_name_from_elsewhere_gives_way(
    activate: Callable[[dict[str, str]], bool], importable: WriteFiles
) -> None:
    importable({"m6.py": "X = 'elsewhere'\n"})
    assert importlib.import_module("m6").X == "elsewhere"

    assert activate({"m6.py": "X = 'bundle'\n"})

    assert importlib.import_module("m6").X == "bundle"


def test_bundle_never_replaces_the_standard_library(activate: Callable[[dict[str, str]], bool]) -> None:
    before = sys.modules["queue"] if "queue" in sys.modules else importlib.import_module("queue")

    activate({"queue.py": "", "flash_plugins/__init__.py": ""})

    assert sys.modules["queue"] is before
    assert "flash_plugins.errors" in sys.modules


def test_pickle_needs_nothing_but_cloudpickle_and_this_package() -> None:
    """The other end may have any version of ours that has these two functions."""

    class Local:
        pass

    names = {
        argument
        for opcode, argument, _ in pickletools_of(dumps(Local(), what="x").data)
        if opcode == "SHORT_BINUNICODE" and isinstance(argument, str) and argument.startswith("flash_plugins")
    }
    assert names <= {"flash_plugins.code.pickling", __name__}


def pickletools_of(data: bytes) -> Iterator[tuple[str, object, int | None]]:
    import pickletools

    for opcode, argument, position in pickletools.genops(data):
        yield opcode.name, argument, position


assert pickle.HIGHEST_PROTOCOL >= 5
