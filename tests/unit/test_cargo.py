# SPDX-License-Identifier: Apache-2.0
"""Code that is deployed with an endpoint: packed into environment variables here, loaded on a worker."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest

from flash_plugins import EnvelopeError, PayloadTooLarge, UnpicklableError
from flash_plugins.code.canonical import canonical_dumps
from flash_plugins.code.cargo import Cargo, CargoRoute, digest_in, pack, read, unpack
from flash_plugins.platforms import api
from tests.support import require

if TYPE_CHECKING:
    from decimal import Decimal

FIRST = f"{api.CARGO_ENV_PREFIX}0"

SCRIPT = """
from __future__ import annotations
import dataclasses, enum, json, sys
import sibling
from flash_plugins import Endpoint
from flash_plugins.code.cargo import Cargo, CargoRoute, pack

class Colour(enum.Enum):
    RED = "red"

@dataclasses.dataclass
class Point:
    x: int
    colour: Colour = Colour.RED

KNOWN = {"one", "two", "three", ("four", 5), None}
ME = set(); ME.add(type("Ring", (), {"ring": ME})())
calls = 0

async def count(point: Point) -> int:
    global calls
    calls += 1
    return point.x if point.x not in {"a", "b", "c"} and KNOWN and ME else 0

def total():
    return calls, sibling.twice(calls)

endpoint = Endpoint(name="packed", cpu="cpu5c-4-8")

@endpoint
def decorated(x):
    return x + 1

@endpoint
class Counter:
    def __init__(self, start=10):
        self.value = start
    def next(self):
        self.value += 1
        return self.value

if __name__ == "__main__":
    routes = [CargoRoute("POST", "/count", count), CargoRoute("GET", "/total", total)]
    print(json.dumps(pack(Cargo({"decorated": decorated, "Counter": Counter}, routes))))
"""

USE = """
import asyncio, json, sys
from flash_plugins.code.cargo import unpack
cargo = unpack({**json.loads(sys.stdin.read()), "FLASH_PLUGINS_CACHE_DIR": sys.argv[1]})
count, total = cargo.routes
hints = count.hints
asyncio.run(count.function(hints["point"](3)))
counter = cargo.functions["Counter"]()
counter.next()
print(json.dumps([cargo.functions["decorated"](1), counter.next(), total.function(), hints["point"].__name__,
                  [count.method, count.path, count.name]]))
"""


def run(code: str, *arguments: str, given: str = "", folder: Path, seed: str = "0") -> str:
    done = subprocess.run(
        [sys.executable, *arguments] if not code else [sys.executable, "-c", code, *arguments],
        input=given, cwd=folder, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "program" / "script.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    (path.parent / "sibling.py").write_text("def twice(x):\n    return 2 * x\n")
    return path


def packed(script: Path, seed: str = "0") -> dict[str, str]:
    variables: dict[str, str] = json.loads(run("", str(script), folder=script.parent, seed=seed))
    return variables


def test_functions_classes_and_routes_of_a_script_run_elsewhere(script: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = json.loads(run(USE, str(tmp_path / "cache"), given=json.dumps(packed(script)), folder=elsewhere))
    # Routes share the globals of their script: `total` sees what `count` did.
    assert found == [2, 12, [1, 2], "Point", ["POST", "/count", "route POST /count (count())"]]


def test_unchanged_source_gives_the_same_variables_in_every_process(script: Path) -> None:
    first = packed(script, seed="1")
    assert packed(script, seed="2") == first
    assert packed(script, seed="3") == first
    (script.parent / "sibling.py").write_text("def twice(x):\n    return x + x\n")
    assert digest_in(packed(script, seed="1")) != digest_in(first)


def test_models_of_pydantic_travel_and_stay_the_same(script: Path) -> None:
    require("pydantic")
    script.write_text(
        "from __future__ import annotations\nimport json\nfrom pydantic import BaseModel\n"
        "from flash_plugins.code.cargo import Cargo, CargoRoute, pack\n"
        "class Part(BaseModel):\n    size: int = 1\n"
        "class Item(BaseModel):\n    name: str\n    parts: list[Part] = []\n"
        "def make(item: Item, other: dict[str, Part]) -> Item:\n    return item\n"
        "print(json.dumps(pack(Cargo(routes=[CargoRoute('POST', '/', make)]))))\n"
    )
    first = packed(script, seed="1")
    assert packed(script, seed="2") == first
    cargo = unpack(first)
    assert cargo is not None
    (route,) = cargo.routes
    hints: Any = route.hints
    item = hints["item"].model_validate({"name": "a", "parts": [{"size": 2}]})
    assert item.parts[0].size == 2
    assert hints["item"].model_json_schema()["required"] == ["name"]


def double(x: int) -> int:
    return 2 * x


def with_lock() -> Callable[[], None]:
    lock = threading.Lock()

    def locked() -> None:
        lock.acquire()

    return locked


def heavy() -> Callable[[], int]:
    weights = os.urandom(api.CARGO_MAX_BYTES)

    def weigh() -> int:
        return len(weights)

    return weigh


def test_cargo_is_split_into_variables_that_linux_takes() -> None:
    noise = os.urandom(400_000)

    def sized() -> int:
        return len(noise)

    variables = pack(Cargo({"sized": sized}))
    assert len(variables) > 4
    assert all(len(name) + len(value) <= api.CARGO_VARIABLE_MAX_BYTES for name, value in variables.items())
    done = subprocess.run(["true"], env=variables, check=False)
    assert done.returncode == 0
    cargo = unpack(variables)
    assert cargo is not None
    assert cargo.functions["sized"]() == 400_000
    # Variables left over from larger code do no harm.
    assert unpack({**variables, f"{api.CARGO_ENV_PREFIX}{len(variables)}": "old"}) is not None


def test_what_cannot_travel_is_named_with_its_route() -> None:
    with pytest.raises(UnpicklableError, match=r"route POST /lock \(with_lock\.<locals>\.locked\(\)\).*lock"):
        pack(Cargo(routes=[CargoRoute("GET", "/", double), CargoRoute("POST", "/lock", with_lock())]))
    with pytest.raises(UnpicklableError, match=r"function bad\(\)"):
        pack(Cargo({"good": double, "bad": with_lock()}))


def test_too_much_cargo_names_its_largest_part() -> None:
    with pytest.raises(PayloadTooLarge, match=r"function heavy\(\) \(2\.\d\d MB\), function double\(\)") as caught:
        pack(Cargo({"double": double, "heavy": heavy()}))
    assert caught.value.size_bytes > caught.value.limit_bytes == api.CARGO_MAX_BYTES


def test_far_too_much_is_found_before_it_is_compressed() -> None:
    zeros = bytes(80_000_000)

    def endless() -> int:
        return len(zeros)

    with pytest.raises(PayloadTooLarge, match=r"takes \d\d\.\d\d MB .* function endless\(\) \(\d\d\.\d\d MB\)"):
        pack(Cargo({"endless": endless}))


def test_annotations_of_what_is_called_like_a_function_are_found() -> None:
    class Greeter:
        def __call__(self, name: str, times: int) -> str:
            return name * times

    callables: list[Any] = [Greeter(), functools.partial(Greeter(), times=2)]
    cargo = unpack(pack(Cargo(routes=[CargoRoute("GET", f"/{number}", c) for number, c in enumerate(callables)])))
    assert cargo is not None
    assert [route.hints for route in cargo.routes] == [{"name": str, "times": int, "return": str}] * 2
    assert cargo.routes[0].function("a", 3) == "aaa"


def test_a_process_without_cargo_says_so() -> None:
    assert unpack({"PATH": "/bin"}) is None
    assert digest_in({}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop(f"{api.CARGO_ENV_PREFIX}1"), "CODE_1 did not arrive"),
        (lambda v: v.pop(FIRST), "CODE_0 is missing"),
        (lambda v: v.update({FIRST: "nonsense"}), "does not begin"),
        (lambda v: v.update({FIRST: v[FIRST].replace("1:", "9:", 1)}), "version 9"),
        (lambda v: v.update({FIRST: v[FIRST].replace(":3.", ":2.", 1)}), r"Python 2\.\d+ and this worker"),
        (lambda v: v.update({FIRST: v[FIRST][:-40] + "A" * 40}), "damaged"),
        (lambda v: v.update({FIRST: v[FIRST][:-40] + "*" * 40}), "damaged"),
        (lambda v: v.update({FIRST: v[FIRST][:-41]}), "damaged"),
    ],
)
def test_damaged_cargo_is_refused(change: Callable[[dict[str, str]], object], message: str) -> None:
    noise = os.urandom(100_000)

    def noisy() -> bytes:
        return noise

    variables = pack(Cargo({"noisy": noisy}))
    change(variables)
    with pytest.raises(EnvelopeError, match=message):
        read(variables)


def test_annotations_are_resolved_where_their_names_are_known(caplog: pytest.LogCaptureFixture) -> None:
    def annotated(a: Annotated[int, "note"], b: Decimal, c: list[Path], d=3) -> None:  # type: ignore[no-untyped-def]
        return None

    cargo = unpack(pack(Cargo(routes=[CargoRoute("GET", "/", annotated)])))
    assert cargo is not None
    (route,) = cargo.routes
    assert route.hints == {"a": Annotated[int, "note"], "b": Any, "c": list[Path], "return": type(None)}
    assert "route GET / (" in caplog.text
    assert "'Decimal' of 'b'" in caplog.text


def test_a_long_chain_of_functions_travels() -> None:
    function: Callable[[], int] = lambda: 0  # noqa: E731 - the first of a chain
    for _ in range(120):
        function = (lambda before: lambda: before() + 1)(function)
    assert canonical_dumps(function) == canonical_dumps(function)
    cargo = unpack(pack(Cargo({"deep": function})))
    assert cargo is not None
    assert cargo.functions["deep"]() == 120


def test_it_states_what_it_uses_of_what_is_installed_here() -> None:
    import pluggy

    def register() -> Any:
        return pluggy.PluginManager

    packed = read(pack(Cargo({"register": register})))
    assert packed is not None
    assert packed.packages["pluggy"] == f"pluggy=={pluggy.__version__}"
