# SPDX-License-Identifier: Apache-2.0
"""What a worker installs before it serves: Debian packages by a pretended `apt-get`, and when nothing is to be done."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path

import pytest

from flash_plugins.platforms import api
from flash_plugins.worker import base, environment, overlays
from flash_plugins.worker.environment import cache_root, enter
from flash_plugins.worker.installer import InstallFailed, run_installer

APT_GET = """#!/bin/sh
echo "$DEBIAN_FRONTEND $*" >> "$0.calls"
case "$*" in *no-such*) echo "E: Unable to locate package no-such"; exit 100 ;; esac
"""
DPKG_QUERY = """#!/bin/sh
case "$*" in *here*) echo installed ;; *) exit 1 ;; esac
"""


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A container of Debian, as root; returns where calls of `apt-get` are noted."""
    for name, text in (("apt-get", APT_GET), ("dpkg-query", DPKG_QUERY)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in (api.EXECUTABLE_ENV, api.DEPENDENCIES_ENV, api.INIT_TIMEOUT_ENV, environment.ENTERED_ENV):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "apt-get.calls"


def ask_for(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setenv(api.SYSTEM_DEPENDENCIES_ENV, json.dumps(names))


def test_debian_packages_are_installed(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for(monkeypatch, "ffmpeg", "libgl1=1.6")
    assert enter() is None
    update, install = container.read_text().splitlines()
    assert update.startswith("noninteractive -qq ")
    assert update.endswith(" update")
    assert install.endswith(" install --yes --no-install-recommends ffmpeg libgl1=1.6")


def test_what_is_there_is_not_installed_again(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for(monkeypatch, "here")
    assert enter() is None
    assert not container.exists()
    ask_for(monkeypatch, "here", "not")
    assert enter() is None
    assert container.read_text().splitlines()[1].endswith(" not")


def test_a_package_that_does_not_exist_is_an_error_in_the_words_of_apt(
    container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for(monkeypatch, "no-such")
    reason = enter()
    assert reason is not None
    assert reason.startswith(f"{api.DEPENDENCIES_FAILED_PREFIX}no-such: apt-get install failed with exit code 100")
    assert "E: Unable to locate package no-such" in reason


def test_without_root_there_is_an_error_that_says_so(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ask_for(monkeypatch, "ffmpeg")
    assert "takes root" in (enter() or "")


def test_an_image_of_another_system_is_an_error(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(container.parent / "nothing"))
    ask_for(monkeypatch, "ffmpeg")
    assert "none of Debian or Ubuntu" in (enter() or "")


def test_nothing_is_installed_on_somebodys_own_machine(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(api.EXECUTABLE_ENV, sys.executable)
    ask_for(monkeypatch, "ffmpeg")
    assert enter() is None
    assert not container.exists()


def test_what_a_worker_has_become_installs_nothing_again(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.ENTERED_ENV, sys.prefix)
    monkeypatch.setenv(api.DEPENDENCIES_ENV, '["no-such"]')
    ask_for(monkeypatch, "no-such")
    assert enter() is None
    assert not container.exists()


@pytest.mark.parametrize(
    ("requirement", "is_here"),
    [
        ("pluggy", True),
        (f"pluggy=={importlib.metadata.version('pluggy')}", True),
        ("pluggy<0.1", False),
        ("flash-plugins-no-such-package-xyz", False),
        ("flash-plugins-no-such-package-xyz; python_version < '3'", True),
        ("pluggy[extra]", False),
        ("pluggy @ https://example.com/pluggy.whl", False),
        ("git+https://example.com/pluggy", False),
    ],
)
def test_what_the_interpreter_has_needs_no_installer(requirement: str, is_here: bool) -> None:
    assert base.has(requirement) is is_here


def test_where_the_interpreter_has_everything_the_worker_goes_on_in_it(
    container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlays, "provide", None)
    monkeypatch.delenv(api.SYSTEM_DEPENDENCIES_ENV, raising=False)
    monkeypatch.setenv(api.DEPENDENCIES_ENV, '["pluggy", "packaging>=20"]')
    assert enter() is None


def test_an_installer_that_takes_too_long_is_stopped() -> None:
    started_at = time.monotonic()
    with pytest.raises(InstallFailed, match="stopped after"):
        run_installer(["sleep", "60"], started_at + 0.1, what="sleep", environment=os.environ)
    assert time.monotonic() - started_at < 30


def test_the_installers_last_lines_are_in_the_error() -> None:
    script = "for i in range(99): print('line', i)\nraise SystemExit(7)"
    with pytest.raises(InstallFailed, match=r"it failed with exit code 7:(?s:.)*line 98$") as caught:
        run_installer([sys.executable, "-c", script], time.monotonic() + 60, what="it", environment=os.environ)
    assert "line 50\n" not in str(caught.value)


def test_environments_are_cached_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_root() == tmp_path / "cache" / "flash-plugins" / "environments"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "flash-plugins" / "environments"


def test_where_the_cache_cannot_be_written_they_are_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert cache_root() == tmp_path / f"flash-plugins-{os.getuid()}" / "environments"


def test_a_cache_that_cannot_be_filled_is_an_error_and_no_crash(
    container: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(overlays, "provide", full)
    monkeypatch.setenv(api.DEPENDENCIES_ENV, '["flash-plugins-no-such-package-xyz"]')
    assert "No space left on device" in (enter() or "")


@pytest.mark.parametrize("is_off", [True, False])
def test_downloads_from_the_hub_are_hastened_where_the_package_is_there(
    container: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_off: bool
) -> None:
    (tmp_path / "hf_xet.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("HF_XET_HIGH_PERFORMANCE", raising=False)
    monkeypatch.delenv("HF_HUB_ENABLE_HF_TRANSFER", raising=False)
    monkeypatch.delenv(api.SYSTEM_DEPENDENCIES_ENV, raising=False)
    if is_off:
        monkeypatch.setenv(api.ACCELERATE_ENV, "0")
    else:
        monkeypatch.delenv(api.ACCELERATE_ENV, raising=False)
    assert enter() is None
    assert os.environ.pop("HF_XET_HIGH_PERFORMANCE", None) == (None if is_off else "1")
    assert "HF_HUB_ENABLE_HF_TRANSFER" not in os.environ  # without its package it would be an error
