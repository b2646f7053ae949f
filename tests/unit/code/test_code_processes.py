# SPDX-License-Identifier: Apache-2.0
"""Functions, classes and local modules reach a second process and come back. Never mocks a process."""

from __future__ import annotations

import subprocess
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from flash_plugins.code import (
    dumps,
    loads,
)
from flash_plugins.code.modules import ModuleKind, module_kind

WriteFiles = Callable[..., Path]


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
