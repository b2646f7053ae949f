# SPDX-License-Identifier: Apache-2.0
"""The cache of folders that workers share: built once, never seen half built, removed only when nobody uses them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flash_plugins.worker.overlays import BuildTimeout, evict, provide

#: Asks for folder KEY of ROOT; its build appends a line to BUILDS and takes a while. Then waits for its stdin.
ASK = """
import sys, time
from pathlib import Path
from flash_plugins.worker.overlays import provide

root, key, builds, seconds = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])

def build(folder, final):
    with builds.open("a") as file:
        file.write("built\\n")
    time.sleep(seconds)
    (folder / "content").write_text("whole")

print((provide(root, key, build, deadline=time.monotonic() + 60) / "content").read_text(), flush=True)
sys.stdin.read()
"""


def asking(root: Path, key: str, *, seconds: float = 0.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ASK, str(root), key, str(root.parent / "builds"), str(seconds)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


def make(root: Path, key: str, *, size: int = 10) -> Path:
    def build(folder: Path, final: Path) -> None:
        assert final == root / key
        (folder / "content").write_bytes(b"x" * size)

    return provide(root, key, build, deadline=time.monotonic() + 10)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "environments"


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def test_processes_that_ask_at_once_share_one_build(root: Path) -> None:
    processes = [asking(root, "key", seconds=0.3) for _ in range(4)]
    assert [answer(process) for process in processes] == ["whole"] * 4
    for process in processes:
        end(process)
    assert (root.parent / "builds").read_text() == "built\n"
    assert folders(root) == ["key"]


def test_a_build_that_was_killed_is_done_again_and_leaves_nothing(root: Path) -> None:
    killed = asking(root, "key", seconds=60)
    deadline = time.monotonic() + 60
    while not (root.parent / "builds").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    second = asking(root, "key")
    assert answer(second) == "whole"
    end(second)
    assert (root.parent / "builds").read_text() == "built\nbuilt\n"
    assert folders(root) == ["key"]


def test_a_build_that_fails_leaves_nothing_and_is_tried_again(root: Path) -> None:
    def fail(folder: Path, final: Path) -> None:
        (folder / "content").write_text("half")
        raise ValueError("no such package")

    with pytest.raises(ValueError, match="no such package"):
        provide(root, "key", fail, deadline=time.monotonic() + 10)
    assert folders(root) == []
    assert make(root, "key").is_dir()


def test_waiting_for_another_build_ends_at_the_deadline(root: Path) -> None:
    slow = asking(root, "key", seconds=60)
    deadline = time.monotonic() + 60
    while not (root.parent / "builds").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        with pytest.raises(BuildTimeout, match="another process"):
            provide(root, "key", lambda *_: None, deadline=time.monotonic() + 0.2)
    finally:
        slow.kill()
        slow.communicate()


def test_the_least_recently_used_folder_goes_first(root: Path) -> None:
    users = [asking(root, key) for key in ("a", "b", "c")]
    for process in users:
        assert answer(process) == "whole"
        end(process)
    for used_at, key in enumerate(("b", "c", "a")):
        os.utime(root / f"{key}.lock", (used_at, used_at))
    evict(root, max_kept=2)
    assert folders(root) == ["a", "c"]
    evict(root, max_bytes=1)
    assert folders(root) == []


def test_what_a_process_uses_stays_until_it_has_ended(root: Path) -> None:
    user = asking(root, "used")
    assert answer(user) == "whole"
    evict(root, max_kept=0)
    assert folders(root) == ["used"]
    end(user)
    evict(root, max_kept=0)
    assert folders(root) == []


def test_what_a_process_has_become_still_uses_its_folder(root: Path) -> None:
    become = "import os, sys\n" + ASK.replace(
        "sys.stdin.read()", "os.execv(sys.executable, [sys.executable, '-c', 'import sys; sys.stdin.read()'])"
    )
    user = subprocess.Popen(
        [sys.executable, "-c", become, str(root), "used", str(root.parent / "builds"), "0"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert answer(user) == "whole"
    evict(root, max_kept=0)
    assert folders(root) == ["used"]
    end(user)


def test_an_interrupted_eviction_leaves_nothing_that_looks_complete(root: Path) -> None:
    end_of_killed = root / ".key-doomed"
    end_of_killed.mkdir(parents=True)
    make(root, "other")
    evict(root)
    assert folders(root) == ["other"]
