# SPDX-License-Identifier: Apache-2.0
"""A process that ends when its parent does, however the parent ended."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

__all__ = ["die_with_parent", "tie_forked_children"]

#: prctl option: signal that the kernel sends to this process when its parent's thread ends (Linux).
_PR_SET_PDEATHSIG = 1
#: Seconds between looks at the parent where the kernel does not tell.
_POLL_S = 0.5


def die_with_parent(parent_pid: int) -> None:
    """Arrange that this process is killed when process `parent_pid` is gone.

    Linux: the kernel does it. Elsewhere a daemon thread looks twice a second whether the parent changed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent_pid,), name="flash-lifeline", daemon=True).start()
    if os.getppid() != parent_pid:  # it ended before the line above
        os._exit(1)


def tie_forked_children() -> None:
    """Arrange that every process forked from this one from now on is killed when this one is gone.

    The official SDK forks a ping process that would otherwise ping for ever after its parent was killed.
    """
    parent_pid = os.getpid()
    os.register_at_fork(after_in_child=lambda: die_with_parent(parent_pid) if os.getppid() == parent_pid else None)


def _watch(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_POLL_S)
    os._exit(1)
