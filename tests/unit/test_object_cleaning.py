# SPDX-License-Identifier: Apache-2.0
"""What goes from a shared store and what stays, and the command that says so."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flash_plugins.cli.app import app
from flash_plugins.errors import ConfigError
from flash_plugins.objects import Ref
from flash_plugins.objects.cleaning import Cleaned, clean, clean_daily, clean_in_background, overdue
from flash_plugins.objects.digest import digest_of
from flash_plugins.objects.open import open_store
from flash_plugins.objects.remote import RemoteStore
from flash_plugins.objects.store import ObjectEntry
from flash_plugins.platforms import api

DAY_S = 86_400.0
NOW = 1_800_000_000.0


def entry(name: str, age_days: float, size: int = 10) -> ObjectEntry:
    return ObjectEntry(Ref(digest_of(name.encode()), size), NOW - age_days * DAY_S)


YOUNG, OLD, OLDER, OLDEST = entry("a", 1, 100), entry("b", 9), entry("c", 20), entry("d", 40)
ALL = [OLD, YOUNG, OLDEST, OLDER]


def test_what_is_older_than_asked_goes_oldest_first() -> None:
    assert overdue(ALL, now=NOW, max_age_s=8 * DAY_S) == [OLDEST, OLDER, OLD]
    assert overdue(ALL, now=NOW, max_age_s=30 * DAY_S) == [OLDEST]
    assert overdue(ALL, now=NOW) == []


def test_what_a_job_may_need_stays_whatever_is_asked() -> None:
    assert overdue(ALL, now=NOW, max_age_s=0, max_bytes=0) == [OLDEST, OLDER, OLD]


def test_by_size_the_least_recently_used_goes_until_the_rest_fits() -> None:
    assert overdue(ALL, now=NOW, max_bytes=130) == []
    assert overdue(ALL, now=NOW, max_bytes=129) == [OLDEST]
    assert overdue(ALL, now=NOW, max_bytes=110) == [OLDEST, OLDER]
    assert overdue(ALL, now=NOW, max_bytes=120, max_age_s=15 * DAY_S) == [OLDEST, OLDER]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an object that was used today, and one that was not for ten days."""
    folder = tmp_path / "store"
    monkeypatch.setenv(api.OBJECTS_ENV, folder.as_uri())
    opened = open_store(folder.as_uri())
    for content, age_days in ((b"new", 0), (b"old!", 10)):
        digest = digest_of(content)
        opened.put(Ref(digest, len(content)), memoryview(content))
        for path in folder.rglob(digest):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age_days * DAY_S))
    return folder


def contents(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_clean_removes_and_counts(store: Path) -> None:
    assert clean(open_store(store.as_uri()), max_age_s=8 * DAY_S) == Cleaned(1, 4, 1, 3)
    assert contents(store) == [b"new"]
    assert clean(open_store(store.as_uri()), everything=True) == Cleaned(1, 3, 0, 0)
    assert contents(store) == []


def test_a_store_is_cleaned_once_a_day_whoever_uses_it(store: Path) -> None:
    now = time.time()
    opened = open_store(store.as_uri())
    assert isinstance(opened, RemoteStore)
    assert clean_daily(opened, now=lambda: now) == Cleaned(0, 0, 2, 7)
    assert clean_daily(opened, now=lambda: now + DAY_S / 2) is None
    assert clean_daily(opened, now=lambda: now + 25 * DAY_S) == Cleaned(1, 4, 1, 3)


def test_cleaning_in_the_background_hurts_nobody(store: Path, tmp_path: Path) -> None:
    for path in store.rglob("objects/*/*"):
        os.utime(path, (NOW - 400 * DAY_S, NOW - 400 * DAY_S))
    opened = open_store(store.as_uri())
    assert isinstance(opened, RemoteStore)
    clean_in_background(opened).join(60)
    assert list(opened.entries()) == []
    (tmp_path / "file").write_text("not a folder")
    broken = open_store((tmp_path / "file").as_uri())
    assert isinstance(broken, RemoteStore)
    clean_in_background(broken).join(60)


def run(*arguments: str, code: int = 0, answer: str | None = None) -> str:
    done = CliRunner().invoke(app, ["objects", *arguments], input=answer)
    assert done.exit_code == code, done.output
    return done.output


def test_the_command_shows_what_is_there(store: Path) -> None:
    shown = run()
    assert "2 objects, 0.00 MB" in shown
    assert "10.0 days ago" in shown
    assert "1 object, 0.00 MB" in shown
    found = json.loads(run("--json"))
    assert {**found, "oldest_use_s": None} == {
        "store": store.as_uri(), "objects": 2, "bytes": 7, "oldest_use_s": None, "unused": 1, "unused_bytes": 4,
    }  # fmt: skip


def test_the_command_cleans_by_age_and_by_size(store: Path) -> None:
    assert "removed 0 objects" in run("--clean", "--older-than", "30")
    assert "removed 0 objects" in run("--clean", "--keep-gb", "1")
    assert json.loads(run("--clean", "--keep-gb", "0", "--json"))["removed"] == 1
    assert contents(store) == [b"new"]


def test_the_command_asks_before_it_removes_everything(store: Path) -> None:
    assert "Nobody can answer here" in run("--delete-all", code=2)
    assert len(contents(store)) == 2
    assert "removed 2 objects" in run("--delete-all", "--yes")
    assert contents(store) == []


@pytest.mark.parametrize(
    "arguments", [["--clean", "--delete-all"], ["--keep-gb", "1"], ["--clean", "--older-than", "7"]]
)
def test_the_command_refuses_what_makes_no_sense(store: Path, arguments: list[str]) -> None:
    run(*arguments, code=2)
    assert len(contents(store)) == 2


def test_the_command_names_another_store(store: Path, tmp_path: Path) -> None:
    assert json.loads(run("--store", (tmp_path / "other").as_uri(), "--json"))["objects"] == 0


def test_without_a_store_the_command_says_how_to_set_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(api.OBJECTS_ENV, raising=False)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["objects"])
    assert isinstance(done.exception, ConfigError)
    assert api.OBJECTS_ENV in str(done.exception)
