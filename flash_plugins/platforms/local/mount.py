# SPDX-License-Identifier: Apache-2.0
"""Starts a worker that sees its network volume at `/runpod-volume`, as on Runpod; nobody else sees a difference.

    guardian ──> mount.py TARGET FOLDER COMMAND… ──exec, in a mount namespace of its own──> worker

It runs as a script of its own (`python -I -S`), with the standard library only. Where the target exists, the folder is
mounted over it. Else the worker gets a root directory that has everything of this one and the target besides: in the
real one, only root may make directories. Where the system allows neither (no user namespaces, macOS) one line in the
worker's log says so, and the worker starts without.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Callable

#: unshare(2): a mount namespace of its own, within a user namespace, in which anybody may mount.
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
#: mount(2) and umount2(2): show a folder elsewhere; with what is mounted below it; tell no other namespace; at once.
_MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
#: Number of pivot_root(2), for which libc has no function, by machine.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
#: prctl(2): the signal for this process when its parent ends, which new credentials may have cleared.
_PR_SET_PDEATHSIG = 1


def main(target: str, folder: str, *command: str) -> None:
    """Become the worker."""
    reason = _tried(target, folder)
    if reason is None:
        _mount(target, folder)
    else:
        sys.stderr.write(
            f"flash-plugins: this system does not let a worker see its network volume at {target} ({reason}); its "
            f"files are in {folder}, as the variable FLASH_PLUGINS_VOLUME_PATH says\n"
        )
        sys.stderr.flush()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"flash-plugins: {command[0]} cannot be started: {error.strerror}")


def _tried(target: str, folder: str) -> str | None:
    """Return why it cannot be done. A child tries, since half of it done would break the worker."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _mount(target, folder)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must learn of it
            os.write(writing, (str(error) or repr(error)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as said:
        reason = said.read().decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    return reason or (f"status {status}" if status else None)


def _mount(target: str, folder: str) -> None:
    if sys.platform != "linux":
        raise OSError("it is not Linux")
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*(a.encode() if isinstance(a, str) else a for a in arguments)):
            raise OSError(f"{name}: {os.strerror(ctypes.get_errno())}")

    _unshare(call)
    call("mount", None, "/", None, _MS_REC | _MS_PRIVATE, None)
    if os.path.isdir(target):
        call("mount", folder, target, None, _MS_BIND, None)
        return
    here = os.getcwd()
    root = tempfile.mkdtemp(prefix=".root-", dir=here)  # the worker's own folder, which is removed with it
    call("mount", "tmpfs", root, "tmpfs", 0, "mode=755")
    for entry in os.scandir("/"):
        place = os.path.join(root, entry.name)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), place)
            continue
        os.mkdir(place) if entry.is_dir() else os.close(os.open(place, os.O_CREAT, 0o600))
        call("mount", entry.path, place, None, _MS_BIND | _MS_REC, None)
    os.mkdir(root + target)
    call("mount", folder, root + target, None, _MS_BIND, None)
    os.chdir(root)
    call("syscall", _PIVOT_ROOT[os.uname().machine], ".", ".")
    call("umount2", ".", _MNT_DETACH)
    os.chdir(here)


def _unshare(call: Callable[..., None]) -> None:
    uid, gid = os.getuid(), os.getgid()
    try:
        call("unshare", _CLONE_NEWNS)
    except OSError:
        call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
