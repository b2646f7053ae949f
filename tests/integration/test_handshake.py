# SPDX-License-Identifier: Apache-2.0
"""What a caller is told when its worker lacks something that is installed here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flash_plugins import Endpoint, NoWorkers

#: Generous: the box may be busy.
DEADLINE_S = 60.0

endpoint = Endpoint(name="handshake", cpu="cpu5c-4-8")


def install(folder: Path, name: str, version: str) -> Path:
    """Put a module and its metadata into a folder of installed packages, as its name says."""
    packages = folder / "site-packages"
    metadata = packages / f"{name}_dist-{version}.dist-info"
    metadata.mkdir(parents=True)
    (packages / f"{name}.py").write_text("def act(): return 1\n")
    (metadata / "RECORD").write_text(f"{name}.py,,\n")
    return packages


@endpoint
def imports(name: str) -> None:
    import importlib

    importlib.import_module(name)


def test_a_module_that_the_worker_lacks_comes_with_what_to_add() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_numpy'") as caught:
        imports("no_such_numpy").result(timeout=DEADLINE_S)
    assert any("dependencies=['no_such_numpy']" in note for note in caught.value.__notes__)


def test_a_module_that_only_the_caller_has_comes_with_its_distribution_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, "only_here", "1.5.1"))  # nowhere near the worker
    import only_here  # type: ignore[import-not-found]

    @endpoint
    def uses_it() -> int:
        return int(only_here.act())

    with pytest.raises(ModuleNotFoundError, match="No module named 'only_here'") as caught:
        uses_it().result(timeout=DEADLINE_S)
    assert any("dependencies=['only-here-dist==1.5.1']" in note for note in caught.value.__notes__)


def test_system_dependencies_are_skipped_on_this_machine_with_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    @Endpoint(name="system", cpu="cpu5c-4-8", system_dependencies=["no-such-package", "libnothing1"])
    def one() -> int:
        return 1

    assert [one().result(timeout=DEADLINE_S) for _ in range(2)] == [1, 1]
    said = [line for line in capfd.readouterr().err.splitlines() if "system_dependencies" in line]
    (line,) = said
    assert "'system'" in line
    assert "no-such-package, libnothing1" in line
    assert "skipped" in line


def test_a_load_balanced_worker_that_lacks_a_module_says_what_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, "only_web", "2.5"))
    import only_web  # type: ignore[import-not-found]

    web = Endpoint(name="web-lacking", cpu="cpu5c-4-8", workers=(0, 1))

    @web.get("/act")
    def act() -> int:
        return int(only_web.act())

    with pytest.raises(NoWorkers, match=r"dependencies=\['only-web-dist==2.5'\]"):
        web.client.get("/act").result(timeout=DEADLINE_S)


def test_a_version_that_differs_is_said_once_per_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path / "here", "differs", "1.5.1"))
    there = install(tmp_path / "there", "differs", "1.4.2")
    import differs  # type: ignore[import-not-found]

    env = {"PYTHONPATH": os.pathsep.join([str(there), os.environ.get("PYTHONPATH", "")])}

    @Endpoint(name="differing", cpu="cpu5c-4-8", env=env)
    def act() -> int:
        return int(differs.act())

    assert [act().result(timeout=DEADLINE_S) for _ in range(3)] == [1, 1, 1]
    said = [record.getMessage() for record in caplog.records if "the worker has" in record.getMessage()]
    assert said == [
        "the worker has differs-dist 1.4.2, this process 1.5.1: pin dependencies=['differs-dist==1.5.1'] to "
        "have the same"
    ]
