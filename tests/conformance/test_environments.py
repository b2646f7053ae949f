# SPDX-License-Identifier: Apache-2.0
"""The environments themselves: built once, shared, rebuilt when a build was interrupted."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from . import environments
from .environments import COMPLETE_MARK, Environment, EnvironmentUnavailable, provide, require

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]


def _made_package(folder: Path) -> str:
    package = folder / "nothing_much"
    package.mkdir(parents=True)
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "nothing-much"\nversion = "1"\n'
    )
    (package / "backend.py").write_text(
        "import zipfile\n"
        "def build_wheel(directory, config_settings=None, metadata_directory=None):\n"
        "    name = 'nothing_much-1-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(f'{directory}/{name}', 'w') as wheel:\n"
        "        info = 'nothing_much-1.dist-info/'\n"
        "        wheel.writestr('nothing_much.py', 'answer = 42')\n"
        "        wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: nothing-much\\n"
        "Version: 1\\n')\n"
        "        wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\n"
        "Tag: py3-none-any\\n')\n"
        "        wheel.writestr(info + 'RECORD', '')\n"
        "    return name\n"
    )
    return str(package)


def test_environment_holds_the_package_and_is_built_once_when_several_ask(tmp_path: Path) -> None:
    requirement = _made_package(tmp_path)
    cache = tmp_path / "envs"

    def ask(_: int) -> Environment:
        return provide(["nothing-much", requirement], cache=cache)

    with ThreadPoolExecutor(4) as pool:
        environments = list(pool.map(ask, range(4)))

    assert len({environment.folder for environment in environments}) == 1
    said = subprocess.check_output([str(environments[0].python), "-c", "import nothing_much as n; print(n.answer)"])
    assert said.strip() == b"42"


def test_interrupted_build_is_done_again(tmp_path: Path) -> None:
    requirement = _made_package(tmp_path)
    environment = provide([requirement], cache=tmp_path / "envs")
    (environment.folder / COMPLETE_MARK).unlink()
    environment.python.unlink()

    again = provide([requirement], cache=tmp_path / "envs")

    assert again == environment
    assert again.python.exists()


def test_package_that_cannot_be_installed_is_an_error_with_the_installers_words(tmp_path: Path) -> None:
    missing = str(tmp_path / "not-there")

    with pytest.raises(EnvironmentUnavailable, match="not-there"):
        provide([missing], cache=tmp_path / "envs")


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_missing_package_skips_on_a_laptop_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    def nothing_in_reach(requirements: object) -> Environment:
        raise EnvironmentUnavailable("no registry")

    monkeypatch.setattr(environments, "provide", nothing_in_reach)
    monkeypatch.setenv("CI", ci)

    with pytest.raises(outcome, match="no registry"):
        require("runpod==0")


def test_environment_is_built_without_uv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environments, "_find_uv", lambda: None)

    environment = provide([_made_package(tmp_path)], cache=tmp_path / "envs")

    assert subprocess.check_output([str(environment.python), "-c", "import nothing_much"]) == b""
