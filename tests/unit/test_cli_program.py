# SPDX-License-Identifier: Apache-2.0
"""A program that the command line imports is the one that runs: the same code travels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json
import sys

from flash_plugins import Endpoint
from flash_plugins.deployment import cargo_of

import helper

api = Endpoint(name="api", cpu="cpu5c-4-8")
LIMIT = 3


class Item:
    size: int = 1


@api.get("/x")
def x(n: int = 1) -> int:
    return helper.twice(n) + Item().size + LIMIT + later()


def later() -> int:
    return 4


queue = Endpoint(name="queue", cpu="cpu5c-4-8")


@queue
def square(v: int) -> str:
    return f"{__name__} {v * later()}"


if __name__ == "__main__" and len(sys.argv) > 1:
    print(json.dumps([cargo_of(api), cargo_of(queue)]))
else:
    print("imported", file=sys.stderr)
"""
IMPORTER = """
import json, sys
from pathlib import Path
from flash_plugins.cli.program import import_program
from flash_plugins.deployment import cargo_of

module = import_program(Path(sys.argv[1]).resolve())
print(json.dumps([cargo_of(module.api), cargo_of(module.queue)]))
"""


def output_of(*command: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("def twice(n):\n    return 2 * n\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def test_what_is_imported_is_deployed_as_what_runs(program: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ran = output_of(program.name, "print", cwd=program.parent)
    ran_from_elsewhere = output_of(str(program), "print", cwd=elsewhere)
    imported = output_of("-c", IMPORTER, str(program), cwd=elsewhere)
    assert ran == ran_from_elsewhere == imported
    assert len(imported) > 500


@pytest.mark.parametrize(
    ("condition", "runs"),
    [
        ('__name__ == "__main__"', False),
        ('"__main__" == __name__', False),
        ('__name__ == "__main__" and True', False),
        ('__name__ != "__main__"', True),
        ('not __name__ == "__main__"', True),
        ('__name__.startswith("_")', True),
    ],
)
def test_what_stands_below_the_question_for_main_does_not_run(tmp_path: Path, condition: str, runs: bool) -> None:
    path = tmp_path / "program.py"
    path.write_text(f"ran = False\nif {condition}:\n    ran = True\n")
    code = "import sys; from pathlib import Path; from flash_plugins.cli.program import import_program;"
    assert output_of("-c", f"{code} print(import_program(Path({str(path)!r})).ran)", cwd=tmp_path) == f"{runs}\n"
