# SPDX-License-Identifier: Apache-2.0
"""The command that starts our worker, run by a real `sh`: in images that only pretend, and with a real python.

The local platform starts its workers with the same command, so what every other test runs goes through it too.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from flash_plugins.platforms import api
from flash_plugins.platforms.base import Connection

SPEC = "flash-plugins[worker]==0.1.0"

#: What a pretended python of VERSION does: notes its arguments, and ends as its variables say.
PYTHON = """#!/bin/sh
for word in "$@"; do printf '%s|' "$word" >> "$CALLS"; done
printf '\\n' >> "$CALLS"
case "$*" in
  *"sys.version.startswith"*) case "VERSION.7 (main)" in "$3"*) exit 0 ;; esac; exit 1 ;;
  *"find_spec"*) exit "$FIND_EXIT" ;;
  "-m pip install uv"*) exit "$UV_EXIT" ;;
  "-m pip "*) echo "pip says no" >&2; exit "$PIP_EXIT" ;;
  "-m uv "*) echo "uv says no" >&2; exit 1 ;;
  "-m flash_plugins.worker") echo "worker of $0"; exit 5 ;;
esac
exit 99
"""
#: A pretended uv that makes an environment with a python of the version that it is asked for.
UV = """#!/bin/sh
for word in "$@"; do printf '%s|' "$word" >> "$CALLS"; done
printf '\\n' >> "$CALLS"
while [ $# -gt 1 ]; do shift; done
mkdir -p "$1/bin" && cp "$FETCHED" "$1/bin/python"
"""


@dataclass
class Image:
    """A machine with nothing but what a test puts on its PATH."""

    folder: Path

    def add_python(self, name: str, *, version: str = "3.11") -> Path:
        return self.add(name, PYTHON.replace("VERSION", version))

    def add_uv(self, *, fetches: str) -> None:
        (self.folder / "fetched").write_text(PYTHON.replace("VERSION", fetches))
        (self.folder / "fetched").chmod(0o755)
        self.add("uv", UV)
        for tool in ("mkdir", "cp"):
            (self.folder / "bin" / tool).symlink_to(str(shutil.which(tool)))

    def add(self, name: str, text: str) -> Path:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(
        self, *, is_installed: bool = True, pip_exit: int = 0, env: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.folder / "bin"),
            "CALLS": str(self.folder / "calls"),
            "FETCHED": str(self.folder / "fetched"),
            "FIND_EXIT": "0" if is_installed else "1",
            "PIP_EXIT": str(pip_exit),
            "UV_EXIT": "0",
            api.PACKAGE_SPEC_ENV: SPEC,
            api.PYTHON_ENV: "3.11",
            **env,
        }
        words = shlex.split(api.WORKER_COMMAND.replace(api.FETCHED_PYTHON, str(self.folder / "other-python")))
        return subprocess.run([shell(), *words[1:]], env=environment, capture_output=True, text=True, timeout=60)

    @property
    def calls(self) -> list[list[str]]:
        """What was run, without the two questions that each start asks."""
        path = self.folder / "calls"
        calls = [line.split("|")[:-1] for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in calls if call[0] != "-c"]


def shell() -> str:
    found = shutil.which("sh")
    assert found is not None
    return found


@pytest.fixture
def image(tmp_path: Path) -> Image:
    (tmp_path / "bin").mkdir()
    return Image(tmp_path)


WORKER = ["-m", "flash_plugins.worker"]


def test_it_is_one_word_for_sh() -> None:
    words = shlex.split(api.WORKER_COMMAND)
    assert words[:2] == ["sh", "-c"]
    assert len(words) == 3
    assert "'" not in words[2]
    assert api.WORKER_COMMAND.count("'") == 2
    assert "\n" not in words[2]
    assert "\\" not in words[2]


def test_it_means_the_same_to_a_platform_that_splits_and_to_one_that_uses_a_shell(image: Image) -> None:
    image.add_python("python3")
    split = image.start()
    (image.folder / "bin" / "sh").symlink_to(shell())
    environment = {"PATH": str(image.folder / "bin"), "CALLS": os.devnull, "FIND_EXIT": "0"}
    by_shell = subprocess.run(
        api.WORKER_COMMAND, shell=True, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (split.returncode, split.stdout) == (by_shell.returncode, by_shell.stdout)


def test_its_syntax_is_that_of_every_sh_here() -> None:
    script = shlex.split(api.WORKER_COMMAND)[2]
    shells = [found for name in ("sh", "dash", "bash", "busybox") if (found := shutil.which(name))]
    for found in shells:
        command = [found, "sh"] if found.endswith("busybox") else [found]
        assert subprocess.run([*command, "-n", "-c", script], capture_output=True, text=True).stderr == "", found
    assert shells


def test_every_platform_uses_it() -> None:
    assert Connection(api_base="https://example.com", key="").worker_command == api.WORKER_COMMAND


def test_where_the_package_is_installed_the_worker_starts_at_once(image: Image) -> None:
    image.add_python("python3")
    done = image.start()
    assert image.calls == [WORKER]
    assert done.returncode == 5  # that of the worker, which takes the place of the shell
    assert done.stdout.startswith("worker of ")
    assert done.stderr == ""


def test_where_it_is_not_it_is_installed_first(image: Image) -> None:
    image.add_python("python3")
    done = image.start(is_installed=False)
    installed, started = image.calls
    assert started == WORKER
    assert installed[:4] == ["-m", "pip", "install", SPEC]
    assert done.returncode == 5


@pytest.mark.parametrize(
    ("handler", "modules"),
    [("", ["flash_plugins", "runpod"]), ("http", ["flash_plugins", "fastapi", "uvicorn"])],
)
def test_it_looks_for_what_this_kind_of_worker_needs(image: Image, handler: str, modules: list[str]) -> None:
    image.add_python("python3")
    image.start(env={api.HANDLER_ENV: handler})
    looked = [line for line in (image.folder / "calls").read_text().splitlines() if "find_spec" in line]
    assert [line.split("|")[2:-1] for line in looked] == [modules]


def test_a_specification_of_several_words_is_several_words(image: Image) -> None:
    image.add_python("python3")
    image.start(is_installed=False, env={api.PACKAGE_SPEC_ENV: "--pre flash-plugins[worker] runpod==2.0.0rc2"})
    assert image.calls[0][3:6] == ["--pre", "flash-plugins[worker]", "runpod==2.0.0rc2"]


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


def test_a_python_of_the_callers_version_is_preferred(image: Image) -> None:
    image.add_python("python3", version="3.12")
    image.add_python("python3.11")
    image.add_python("python")
    assert image.start().stdout == f"worker of {image.folder}/bin/python3.11\n"
    assert image.start(env={api.PYTHON_ENV: "3.12"}).stdout == f"worker of {image.folder}/bin/python3\n"


def test_versions_are_compared_as_a_whole(image: Image) -> None:
    image.add_python("python3", version="3.11")
    image.add_python("python", version="3.1")
    assert image.start(env={api.PYTHON_ENV: "3.1"}).stdout == f"worker of {image.folder}/bin/python\n"


def test_a_python_that_the_image_lacks_is_fetched(image: Image) -> None:
    image.add_python("python3", version="3.12")
    image.add_uv(fetches="3.11")
    done = image.start(is_installed=False)
    fetched = image.folder / "other-python" / "bin" / "python"
    assert done.stdout == f"worker of {fetched}\n"
    assert "this image has no Python 3.11" in done.stderr
    made, installed, started = image.calls
    assert made[:2] == ["venv", "--quiet"]
    assert made[-3:] == ["--python", "3.11", str(fetched.parent.parent)]
    assert (installed[3], started) == (SPEC, WORKER)
    # A container that is started again has it already.
    image.start()
    assert image.calls[3:] == [WORKER]


def test_uv_is_installed_to_fetch_a_python(image: Image) -> None:
    image.add_python("python3", version="3.12")
    image.start()
    assert image.calls[0][:4] == ["-m", "pip", "install", "uv"]
    assert image.calls[1][:3] == ["-m", "uv", "venv"]


def test_where_none_can_be_had_the_worker_starts_to_refuse_calls(image: Image) -> None:
    image.add_python("python3", version="3.12")
    done = image.start()
    assert done.stdout == f"worker of {image.folder}/bin/python3\n"
    *_, last = done.stderr.splitlines()
    assert last.startswith("flash-plugins: Python 3.11 could not be had; use an image that has it")


def test_without_a_version_the_first_python_does(image: Image) -> None:
    image.add_python("python3", version="3.12")
    assert image.start(env={api.PYTHON_ENV: ""}).stdout == f"worker of {image.folder}/bin/python3\n"


def test_the_python_of_the_local_platform_is_used_whatever_there_is_on_the_path(image: Image) -> None:
    image.add_python("python3.11")
    (image.folder / "bin" / "with space").mkdir()
    own = image.add_python("with space/python", version="3.12")
    done = image.start(env={api.EXECUTABLE_ENV: str(own)})
    assert done.stdout == f"worker of {own}\n"
    assert image.calls == [WORKER]


def test_a_variable_of_the_image_does_not_disturb_it(image: Image) -> None:
    image.add_python("python3")
    assert image.start(env=dict.fromkeys("pavum", "/bin/false")).returncode == 5


def test_a_real_python_answers_as_the_pretended_one_does() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = os.path.dirname(sys.executable)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RUNPOD_")},
        "PATH": os.pathsep.join([folder, os.environ.get("PATH", os.defpath)]),
        api.PYTHON_ENV: version,
        api.PACKAGE_SPEC_ENV: "no-package-must-be-needed",
    }
    done = subprocess.run(shlex.split(api.WORKER_COMMAND), env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("flash_plugins.worker: RUNPOD_WEBHOOK_GET_JOB is not set")
