# SPDX-License-Identifier: Apache-2.0
"""What a release would upload: both distributions, built, opened and installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

from tests.support import ROOT

#: Folder of each distribution and the package that it installs.
DISTRIBUTIONS = {ROOT: "flash_plugins", ROOT / "plugins" / "joblib": "flash_joblib"}

CONSTRAINTS = ROOT / "constraints.txt"


@dataclass(frozen=True)
class Built:
    """One distribution as built from a source distribution of its own."""

    folder: Path
    package: str
    wheel: Path
    sdist: Path

    def wheel_names(self) -> list[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.namelist()

    def sdist_names(self) -> list[str]:
        with tarfile.open(self.sdist) as archive:
            return [name.partition("/")[2] for name in archive.getnames()]

    def metadata(self) -> bytes:
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA")))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Built]:
    """Both distributions, built with the backend that is installed here: no network."""
    found = []
    for folder, package in DISTRIBUTIONS.items():
        target = tmp_path_factory.mktemp(package)
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(Built(folder, package, next(target.glob("*.whl")), next(target.glob("*.tar.gz"))))
    return found


def _project(folder: Path) -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    return project


def test_wheels_hold_the_package_and_nothing_else(built: list[Built]) -> None:
    for one in built:
        top = {name.partition("/")[0] for name in one.wheel_names()}
        assert {name for name in top if not name.endswith(".dist-info")} == {one.package}
        modules = {path.relative_to(one.folder).as_posix() for path in (one.folder / one.package).rglob("*.py")}
        assert modules <= set(one.wheel_names())


def test_wheels_are_typed_and_carry_the_licence(built: list[Built]) -> None:
    licence = (ROOT / "LICENSE").read_bytes()
    for one in built:
        assert f"{one.package}/py.typed" in one.wheel_names()
        with zipfile.ZipFile(one.wheel) as archive:
            inside = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
            assert [archive.read(name) for name in inside] == [licence]


def test_source_distributions_hold_neither_tests_nor_other_distributions(built: list[Built]) -> None:
    for one in built:
        top = {name.partition("/")[0] for name in one.sdist_names()}
        allowed = {
            one.package,
            "LICENSE",
            "README.md",
            "CHANGELOG.md",
            "pyproject.toml",
            "PKG-INFO",
            ".gitignore",
            "",
        }
        assert top <= allowed, sorted(top - allowed)
        assert {"LICENSE", "README.md", "pyproject.toml", one.package} <= top
        assert not [name for name in one.sdist_names() if "__pycache__" in name or "/tests/" in name]


def test_metadata_is_valid_and_names_no_place_to_download_from(built: list[Built]) -> None:
    for one in built:
        metadata = Metadata.from_email(one.metadata(), validate=True)
        assert metadata.license_expression == "Apache-2.0"
        assert metadata.requires_python is not None
        assert "3.10.14" not in metadata.requires_python
        assert "3.11.0" in metadata.requires_python
        assert metadata.summary
        assert metadata.description_content_type == "text/markdown"
        readme = (one.folder / "README.md").read_text("utf-8")
        assert (metadata.description or "").strip() == readme.strip()
        assert not [requirement for requirement in metadata.requires_dist or [] if requirement.url]


def test_versions_are_in_lock_step() -> None:
    versions = {folder: str(_project(folder)["version"]) for folder in DISTRIBUTIONS}
    assert len(set(versions.values())) == 1, versions
    version = versions[ROOT]
    for folder in DISTRIBUTIONS:
        dependencies = _project(folder)["dependencies"]
        assert isinstance(dependencies, list)
        needed = [Requirement(text) for text in dependencies]
        ours = [requirement for requirement in needed if requirement.name == "flash-plugins"]
        assert [str(requirement.specifier) for requirement in ours] == ([] if folder == ROOT else [f"=={version}"])
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{version}]" in changelog or "## [Unreleased]" in changelog


def test_every_dependency_gives_its_reason() -> None:
    for folder in DISTRIBUTIONS:
        lines = (folder / "pyproject.toml").read_text("utf-8").splitlines()
        start = lines.index("dependencies = [")
        listed = lines[start + 1 : lines.index("]", start)]
        bare = [line.strip() for line in listed if "#" not in line]
        assert not bare, f"{folder.name}/pyproject.toml: say beside it why {bare} is needed"


def test_constraints_pin_everything_and_name_no_registry() -> None:
    for line in CONSTRAINTS.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            assert requirement.url is None
            assert [specifier.operator for specifier in requirement.specifier] == ["=="], line


@pytest.mark.slow
def test_wheels_install_and_import_in_a_clean_environment(built: list[Built], tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    python = environment / "bin" / "python"
    wheels = [str(one.wheel) for one in built]
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv:
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(environment))
        _run(uv, "pip", "install", "--quiet", "--python", str(python), "-c", str(CONSTRAINTS), *wheels)
    else:
        _run(sys.executable, "-m", "venv", str(environment))
        _run(str(python), "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), *wheels)
    names = ", ".join(one.package for one in built)
    probe = f"import sys, {names}; print([sys.modules[n].__file__ for n in {[one.package for one in built]}])"
    said = _run(str(python), "-I", "-c", probe, cwd=tmp_path)
    assert said.count(str(environment)) == len(built), f"imported from elsewhere: {said}"
    # Without the extra `cli` the command exists, and says how to get the rest.
    command = [str(environment / "bin" / "flash-plugins"), "platform", "status"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "flash-plugins[cli]" in done.stderr
    assert "Traceback" not in done.stderr
    if uv:
        _run(uv, "pip", "check", "--quiet", "--python", str(python))


def _run(*command: str, cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout
