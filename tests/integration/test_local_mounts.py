# SPDX-License-Identifier: Apache-2.0
"""A worker of the local platform sees its network volume at `/runpod-volume`, and nobody else does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_plugins.platforms.local import mount
from flash_plugins.platforms.local.launch import launch
from tests.contract.test_platform_volumes import BODY, ENDPOINT
from tests.integration.local_support import Client, wait_for

SCRIPT = Path(mount.__file__)
TARGET = "/runpod-volume"

#: What a worker does: it writes beside what it was told, and says how its world looks.
LOOK = (
    "import os,pathlib;"
    f"pathlib.Path('{TARGET}/written').write_text(os.environ.get('RUNPOD_POD_ID','here'));"
    "print(os.getcwd(),os.getuid(),sorted(os.listdir('/'))==sorted({*%r,'runpod-volume'}),flush=True)"
)


def run(folder: Path, *command: str, script: Path = SCRIPT, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", str(script), TARGET, str(folder), *command],
        capture_output=True, text=True, timeout=60, **options,
    )  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The files of a volume, and where a worker is started."""
    volume, here = tmp_path / "volume", tmp_path / "here"
    volume.mkdir()
    here.mkdir()
    return volume, here


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may enter, which those of a test run are not."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def require_mounts(folder: Path) -> None:
    """Skip the test where the system lets no worker have a mount of its own."""
    said = run(folder, "true", cwd=folder).stderr
    if said:
        pytest.skip(said)


@pytest.fixture(scope="module")
def can_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    require_mounts(tmp_path_factory.mktemp("probe"))


@pytest.mark.usefixtures("can_mount")
def test_the_folder_is_there_and_all_else_is_as_it_was(folders: tuple[Path, Path]) -> None:
    volume, here = folders
    done = run(volume, sys.executable, "-c", LOOK % os.listdir("/"), cwd=here)
    assert (done.stdout, done.stderr, done.returncode) == (f"{here} {os.getuid()} True\n", "", 0)
    assert (volume / "written").read_text() == "here"
    assert not os.path.exists(TARGET)


@pytest.mark.usefixtures("can_mount")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_it_needs_no_root_where_there_are_user_namespaces(open_folder: Path) -> None:
    python = shutil.which("python3", path=os.defpath)  # ours may be where only root may look
    if python is None:
        pytest.skip("no python that others may use")
    volume, here = open_folder / "volume", open_folder / "here"
    for path in (volume, here):
        path.mkdir()
        shutil.chown(path, 65534, 65534)
    script = shutil.copy(SCRIPT, open_folder)
    done = subprocess.run(
        [python, "-I", "-S", script, TARGET, str(volume), python, "-c", LOOK % os.listdir("/")],
        capture_output=True, text=True, timeout=60, cwd=here, user=65534, group=65534, extra_groups=[],
    )  # fmt: skip
    if "unshare" in done.stderr or "uid_map" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.stdout, done.stderr, done.returncode) == (f"{here} 65534 True\n", "", 0)
    assert (volume / "written").read_text() == "here"


def test_where_it_cannot_be_done_a_line_says_so_and_the_worker_starts(folders: tuple[Path, Path]) -> None:
    volume, here = folders
    done = run(volume / "missing", "echo", "started", cwd=here)
    assert (done.stdout, done.returncode) == ("started\n", 0)
    (line,) = done.stderr.splitlines()
    assert "missing" in line
    assert "FLASH_PLUGINS_VOLUME_PATH" in line


def test_a_command_that_does_not_exist_is_named(folders: tuple[Path, Path]) -> None:
    done = run(folders[0], "no-such-command", cwd=folders[1])
    assert done.returncode == 1
    assert "no-such-command" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    platform = launch()
    yield Client.of(platform)
    platform.stop()


@pytest.mark.usefixtures("can_mount")
def test_a_worker_finds_its_volume_and_is_stopped_like_any_other(client: Client, tmp_path: Path) -> None:
    volume = client.ok("POST", "/v2/network-volumes", BODY)
    look = f"open('{TARGET}/started','w').close();import time;time.sleep(600)"
    body = {**ENDPOINT, "args": f'python -c "{look}"', "networkVolumes": [volume["id"]], "workers": {"min": 1}}
    endpoint = client.ok("POST", "/v2/serverless", body)
    (files,) = tmp_path.glob("flash-plugins/volumes/*/files")
    wait_for(lambda: (files / "started").exists())
    assert not os.path.exists(TARGET)
    client.request("DELETE", f"/v2/serverless/{endpoint['id']}")
    wait_for(lambda: client.request("DELETE", f"/v2/network-volumes/{volume['id']}")[0] == 204)
