# SPDX-License-Identifier: Apache-2.0
"""Where this user's local platforms keep their files, and the note a platform run by hand leaves there.

Nothing heavy, and needs no home directory: both the platform's process and its clients use it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from ...objects.directory import SCHEME
from ...objects.holds import HELD_PREFIX, OwnFolder
from ...objects.holds import remove_abandoned as remove_abandoned_folders
from ...objects.spaces import local_base

__all__ = [
    "RUN_DIR_PREFIX",
    "detached_dir",
    "forget_state",
    "make_objects_folder",
    "note_end",
    "noted_end",
    "occupy",
    "read_state",
    "remove_abandoned",
    "runtime_base",
    "state_path",
    "url_of",
    "volumes_base",
    "write_state",
]

#: How the name of a run directory begins; the braces stand for the user's number.
RUN_DIR_PREFIX = "flash-plugins-run-{}-"
#: The same for the folder of large objects.
OBJECTS_PREFIX = "flash-plugins-objects-{}-"
#: File in a run directory that its platform keeps locked.
_LOCK = "lock"
#: File in a run directory that says why its platform is ending.
_ENDING = "ending"


def runtime_base() -> Path:
    """Return where platforms make their directories: `XDG_RUNTIME_DIR` if it can be used, else the temporary one."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base) and os.access(base, os.W_OK | os.X_OK):
        return Path(base)
    return Path(tempfile.gettempdir())


def volumes_base(run_dir: Path) -> Path:
    """Return where network volumes are kept, which may have to be made.

    Below `XDG_DATA_HOME`, else `~/.local/share`: they outlive the platform. Below `run_dir`, and gone with it,
    where that cannot be written.
    """
    data_home = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification has relative paths ignored.
    base = Path(data_home) if os.path.isabs(data_home) else Path(os.path.expanduser("~"), ".local", "share")
    volumes = base / "flash-plugins" / "volumes"
    nearest = next(folder for folder in (volumes, *volumes.parents) if folder.exists())
    is_usable = volumes.is_absolute() and nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return volumes if is_usable else run_dir / "volumes"


def make_objects_folder(run_dir: Path) -> OwnFolder:
    """Return a platform's folder for large objects: in memory if there is enough, else below `run_dir`.

    What platforms and their callers left there is removed, if all of them were killed.
    """
    base = local_base(run_dir)
    for prefix in (OBJECTS_PREFIX, HELD_PREFIX):
        remove_abandoned_folders(base, prefix)
    return OwnFolder(base, OBJECTS_PREFIX)


def url_of(objects: OwnFolder) -> str:
    """Return the URL of a platform's folder for large objects."""
    return f"{SCHEME}://{quote(objects.path)}"


def detached_dir() -> Path:
    """Return this user's directory (0700) for the platform that is run by hand, made if need be.

    Raises:
        PermissionError: Somebody else made it first.
    """
    parent = _detached_dir()
    parent.mkdir(mode=0o700, exist_ok=True)
    if parent.lstat().st_uid != os.getuid() or parent.is_symlink():
        raise PermissionError(f"{parent} belongs to somebody else: remove it, or set XDG_RUNTIME_DIR")
    parent.chmod(0o700)
    return parent


@contextmanager
def occupy(run_dir: Path) -> Iterator[None]:
    """Mark a run directory as in use for the time of the context, or the life of the process."""
    with open(os.open(run_dir / _LOCK, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def note_end(run_dir: Path, why: str) -> None:
    """Let clients know, before their connections break, that this platform is ending."""
    draft = run_dir / f"{_ENDING}.draft"
    try:
        draft.write_text(why)
        draft.replace(run_dir / _ENDING)
    except FileNotFoundError:  # removed already, which says the same
        return


def noted_end(run_dir: Path) -> str | None:
    """Return why the platform of a run directory is ending, None while it is not."""
    try:
        return (run_dir / _ENDING).read_text()
    except FileNotFoundError:
        return None if run_dir.exists() else "its files are gone"


def remove_abandoned(base: Path) -> None:
    """Remove run directories of this user that nobody uses: their platform and its guardian were both killed."""
    for run_dir in base.glob(RUN_DIR_PREFIX.format(os.getuid()) + "*"):
        try:
            with open(run_dir / _LOCK, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use, being made, or gone already
            continue
        shutil.rmtree(run_dir, ignore_errors=True)


def _detached_dir() -> Path:
    return runtime_base() / f"flash-plugins-{os.getuid()}"


def state_path() -> Path:
    """Return the file that says where a platform run by hand is."""
    return _detached_dir() / "platform.json"


def write_state(ready: dict[str, object]) -> None:
    """Leave a note (0600) for `find_running`: `url`, `key`, `pid`, `run_dir`, `objects`."""
    path = detached_dir() / state_path().name
    draft = path.with_suffix(f".{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(ready, file)
    draft.replace(path)


def read_state() -> dict[str, object] | None:
    """Return the note, None if there is none that can be read."""
    try:
        note = json.loads(state_path().read_text())
    except (OSError, ValueError):
        return None
    is_complete = isinstance(note, dict) and {"url", "key", "pid", "run_dir", "objects"} <= note.keys()
    return note if is_complete else None


def forget_state(pid: int) -> None:
    """Remove the note, if it is still about process `pid`."""
    note = read_state()
    if note is not None and note["pid"] == pid:
        shutil.rmtree(_detached_dir(), ignore_errors=True)
