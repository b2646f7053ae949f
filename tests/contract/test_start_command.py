# SPDX-License-Identifier: Apache-2.0
"""The command that starts our worker in a stock image, run by a real `sh` against a python that only pretends."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from flash_plugins.platforms import api

SPEC = "flash-plugins[worker]==0.1.0"

#: What the pretended python does: notes its arguments, and ends as its variables say.
PYTHON = """#!/bin/sh
for word in "$@"; do printf '%s|' "$word" >> "$CALLS"; done
printf '\\n' >> "$CALLS"
case "$*" in
  "-c import flash_plugins, runpod") exit "$IMPORT_EXIT" ;;
  "-m pip "*) echo "pip says no" >&2; exit "$PIP_EXIT" ;;
  "-m flash_plugins.worker") echo "worker of $0"; exit 5 ;;
esac
exit 99
"""


@dataclass
class Image:
    """A machine with nothing but what a test puts on its PATH."""

    folder: Path

    def add_python(self, name: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(PYTHON)
        path.chmod(0o755)

    def start(
        self, *, is_installed: bool = True, pip_exit: int = 0, env: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.folder / "bin"),
            "CALLS": str(self.folder / "calls"),
            "IMPORT_EXIT": "0" if is_installed else "1",
            "PIP_EXIT": str(pip_exit),
            api.PACKAGE_SPEC_ENV: SPEC,
            **env,
        }
        words = shlex.split(api.INSTALLING_WORKER_COMMAND)
        return subprocess.run([shell(), *words[1:]], env=environment, capture_output=True, text=True, timeout=60)

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [line.split("|")[:-1] for line in path.read_text().splitlines()] if path.exists() else []


def shell() -> str:
    found = shutil.which("sh")
    assert found is not None
    return found


@pytest.fixture
def image(tmp_path: Path) -> Image:
    (tmp_path / "bin").mkdir()
    return Image(tmp_path)


IMPORT = ["-c", "import flash_plugins, runpod"]
WORKER = ["-m", "flash_plugins.worker"]


def test_it_is_one_word_for_sh() -> None:
    words = shlex.split(api.INSTALLING_WORKER_COMMAND)
    assert words[:2] == ["sh", "-c"]
    assert len(words) == 3
    assert "'" not in words[2]
    assert api.INSTALLING_WORKER_COMMAND.count("'") == 2
    assert "\n" not in words[2]


def test_it_means_the_same_to_a_platform_that_splits_and_to_one_that_uses_a_shell(image: Image) -> None:
    image.add_python("python3")
    split = image.start()
    (image.folder / "bin" / "sh").symlink_to(shell())
    environment = {"PATH": str(image.folder / "bin"), "CALLS": os.devnull, "IMPORT_EXIT": "0"}
    by_shell = subprocess.run(
        api.INSTALLING_WORKER_COMMAND, shell=True, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (split.returncode, split.stdout) == (by_shell.returncode, by_shell.stdout)


def test_its_syntax_is_that_of_sh() -> None:
    script = shlex.split(api.INSTALLING_WORKER_COMMAND)[2]
    assert subprocess.run([shell(), "-n", "-c", script], capture_output=True, text=True).stderr == ""


def test_where_the_package_is_installed_the_worker_starts_at_once(image: Image) -> None:
    image.add_python("python3")
    done = image.start()
    assert image.calls == [IMPORT, WORKER]
    assert done.returncode == 5  # that of the worker, which takes the place of the shell
    assert done.stdout.startswith("worker of ")
    assert done.stderr == ""


def test_where_it_is_not_it_is_installed_first(image: Image) -> None:
    image.add_python("python3")
    done = image.start(is_installed=False)
    looked, installed, started = image.calls
    assert (looked, started) == (IMPORT, WORKER)
    assert installed[:3] == ["-m", "pip", "install"]
    assert installed[-1] == SPEC
    assert done.returncode == 5


def test_a_specification_of_several_words_is_several_words(image: Image) -> None:
    image.add_python("python3")
    image.start(is_installed=False, env={api.PACKAGE_SPEC_ENV: "--pre flash-plugins[worker] runpod==2.0.0rc2"})
    assert image.calls[1][-3:] == ["--pre", "flash-plugins[worker]", "runpod==2.0.0rc2"]


@pytest.mark.parametrize("code", [1, 2, 130])
def test_a_failing_installation_is_an_error_with_the_words_of_pip(image: Image, code: int) -> None:
    image.add_python("python3")
    done = image.start(is_installed=False, pip_exit=code)
    assert done.returncode == 1
    assert WORKER not in image.calls
    pip, ours = done.stderr.splitlines()
    assert pip == "pip says no"
    assert ours.startswith(f"flash-plugins: pip install {SPEC} failed")


def test_an_image_without_python_is_an_error_that_says_so(image: Image) -> None:
    done = image.start()
    assert done.returncode == 1
    assert done.stderr == "flash-plugins: this image has no python; choose one that has\n"
    assert done.stdout == ""


def test_python_by_its_other_name_is_found(image: Image) -> None:
    image.add_python("python")
    done = image.start()
    assert done.returncode == 5
    assert done.stdout == f"worker of {image.folder}/bin/python\n"


def test_python3_is_preferred(image: Image) -> None:
    image.add_python("python")
    image.add_python("python3")
    assert image.start().stdout == f"worker of {image.folder}/bin/python3\n"


def test_a_variable_of_the_image_does_not_disturb_it(image: Image) -> None:
    image.add_python("python3")
    assert image.start(env={"p": "/bin/false"}).returncode == 5
