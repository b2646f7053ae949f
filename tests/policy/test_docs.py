# SPDX-License-Identifier: Apache-2.0
"""Code in the documents runs, and prints what the document says.

Every fenced block names its language. `python` blocks run as scripts, each in a folder and a process of its
own on the local platform; where a line ends in `print(…)  # text`, the script must print that text. A block
whose first line is `# not run: reason` is only compiled. Commands in `console` blocks (`$ …`) must be ones
that exist.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.policy.source import relative, tracked_files
from tests.support import ROOT

LANGUAGES = ("python", "console", "text", "toml", "json", "mermaid")
EXPECTED = re.compile(r"^\s*print\(.*\)\s+# (?P<text>.+)$", re.MULTILINE)
NOT_RUN = re.compile(r"^# not run: \S.{10,}")

#: Seconds for one block: an environment or a worker may have to start first.
LIMIT_S = 100

#: Programs that documents may ask to run, besides `make`, `python FILE` and `flash-plugins`.
COMMANDS = ("git clone", "cd", "pip install", "uv pip install", "uv sync", "export", "curl")


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    path: Path
    line: int
    language: str
    code: str

    @property
    def name(self) -> str:
        return f"{relative(self.path)}:{self.line}"


def _blocks() -> list[Block]:
    found = []
    for path in tracked_files():
        if path.suffix != ".md":
            continue
        block: list[str] | None = None
        start, language = 0, ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip().startswith("```"):
                if block is None:
                    block, start, language = [], number, line.strip().strip("`")
                else:
                    found.append(Block(path, start, language, "\n".join(block) + "\n"))
                    block = None
            elif block is not None:
                block.append(line)
    return found


BLOCKS = _blocks()
PYTHON = [block for block in BLOCKS if block.language == "python"]
CONSOLE = [block for block in BLOCKS if block.language == "console"]


def test_every_block_names_a_known_language() -> None:
    wrong = [block.name for block in BLOCKS if block.language not in LANGUAGES]
    assert not wrong, f"write one of {', '.join(LANGUAGES)} after the fence of {', '.join(wrong)}"


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python_block_runs_and_prints_what_it_says(block: Block, tmp_path: Path) -> None:
    ast.parse(block.code, block.name)
    if NOT_RUN.match(block.code):
        return
    assert not block.code.startswith("# not run"), f"{block.name}: give the reason"
    script = tmp_path / "example.py"
    script.write_text(block.code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)],
        cwd=tmp_path, env={**os.environ, "FLASH_PLATFORM": "local"},
        capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.name} fails:\n{done.stdout}{done.stderr}"
    printed = done.stdout.splitlines()
    for expected in EXPECTED.finditer(block.code):
        assert expected["text"] in printed, f"{block.name} prints {printed}, not {expected['text']!r}"


@pytest.mark.parametrize("block", CONSOLE, ids=lambda block: block.name)
def test_console_block_names_commands_that_exist(block: Block) -> None:
    for line in block.code.splitlines():
        if line.startswith("$ "):
            _check_command(line.removeprefix("$ ").partition("  #")[0], block)


def _check_command(command: str, block: Block) -> None:
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    match words:
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            for target in targets:
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{block.name}: no target {target!r}"
        case ["python", script, *_]:
            assert (ROOT / script).exists(), f"{block.name}: no file {script!r}"
        case ["flash-plugins", *words]:
            help_of = [word for word in words if not word.startswith("-")]
            said = subprocess.run(
                [sys.executable, "-c", "from flash_plugins.cli import main; main()", *help_of, "--help"],
                env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
            assert said.returncode == 0, f"{block.name}: {command!r} does not exist: {said.stderr}"
            missing = [word for word in words if word.startswith("--") and word.partition("=")[0] not in said.stdout]
            assert not missing, f"{block.name}: {command!r} has no option {missing}"
        case _:
            assert command.startswith(COMMANDS), f"{block.name}: {command!r} is no command that documents use"


@pytest.mark.parametrize("path", [p for p in tracked_files() if p.suffix == ".md"], ids=relative)
def test_links_within_the_repository_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert (path.parent / target).exists(), f"{relative(path)} links to {target}, which is not there"
