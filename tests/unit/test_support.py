# SPDX-License-Identifier: Apache-2.0
"""The look at what a test run leaves behind finds what it should, and only that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import support


def test_a_process_of_another_run_is_not_ours() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            assert support.leftover_processes("another run", patience_s=0) == []
            found = support.leftover_processes(os.environ[support.RUN_MARK], patience_s=0)
            assert child.pid in {process.pid for process in found}
        finally:
            child.kill()


def test_leftovers_are_named_and_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = "a run of its own"
    (tmp_path / "flash-plugins-state").touch()
    (tmp_path / "joblib_memmapping_folder").mkdir()
    environment = {**os.environ, support.RUN_MARK: mark}
    command = [sys.executable, "-c", "input('flash_plugins')"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        child.stdout.read(5)
        found = support.leftover_processes(mark, patience_s=0)
        assert [process.pid for process in found] == [child.pid]
        assert not support.end_with_report(mark, tmp_path)
        assert child.wait(10) != 0
    said = capsys.readouterr().err
    assert f"process {child.pid}" in said
    assert "flash-plugins-state" in said
    assert "joblib" not in said


def test_a_missing_package_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception):
        support.require("no_such_package")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no_such_package"):
        support.require("no_such_package")
    assert support.require("sys") is sys


def test_no_test_can_reach_a_real_account() -> None:
    assert os.environ["FLASH_PLATFORM"] == "local"
    facts = {"RUNPOD_OPENAPI", "RUNPOD_CATALOG"}  # where descriptions for tests are
    assert not [name for name in os.environ if name.startswith("RUNPOD_") and name not in facts]
