# SPDX-License-Identifier: Apache-2.0
"""What a caller is told when its worker lacks something that is installed here."""

from __future__ import annotations

from pathlib import Path

import pytest

from flash_plugins import Endpoint, NoWorkers

#: Generous: the box may be busy.
DEADLINE_S = 60.0

endpoint = Endpoint(name="handshake", cpu="cpu5c-4-8")


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
    folder = tmp_path / "site-packages"  # installed, as its name says, and nowhere near the worker
    metadata = folder / "only_here_dist-1.5.1.dist-info"
    metadata.mkdir(parents=True)
    (folder / "only_here.py").write_text("def act(): return 1\n")
    (metadata / "RECORD").write_text("only_here.py,,\n")
    monkeypatch.syspath_prepend(folder)
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
    folder = tmp_path / "site-packages"
    metadata = folder / "only_web_dist-2.5.dist-info"
    metadata.mkdir(parents=True)
    (folder / "only_web.py").write_text("def act(): return 1\n")
    (metadata / "RECORD").write_text("only_web.py,,\n")
    monkeypatch.syspath_prepend(folder)
    import only_web  # type: ignore[import-not-found]

    web = Endpoint(name="web-lacking", cpu="cpu5c-4-8", workers=(0, 1))

    @web.get("/act")
    def act() -> int:
        return int(only_web.act())

    with pytest.raises(NoWorkers, match=r"dependencies=\['only-web-dist==2.5'\]"):
        web.client.get("/act").result(timeout=DEADLINE_S)
