# SPDX-License-Identifier: Apache-2.0
"""How a process ended, in words: its exit code or signal, whether memory was the reason, and where it crashed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..steps import nameless_file

__all__ = ["CrashReport", "Exit", "Kills"]

#: Where Linux tells of a container's memory: version 2 of control groups, then version 1.
_EVENTS: Final = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
#: Bytes of what a crashed process says of itself.
_REPORT_BYTES = 50_000
#: The thread that crashed, and its frames, innermost first; of a deep recursion some.
_CRASHED: Final = re.compile(r"^Current thread .*\n(  File .*\n?){1,20}", re.MULTILINE)
#: Bytes below which no peak is worth a word: any python has that many.
_WORTH_SAYING_BYTES = 200_000_000
#: Part of all memory from which on a process that was killed may well have been too large; others use some, too.
_SUSPICIOUS_PART = 0.1
#: Bytes in the unit in which the system counts memory.
_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a process.

    Attributes:
        code: Exit code; negative for a signal.
        peak_bytes: Most memory that it had at once, None if not known.
    """

    code: int
    peak_bytes: int | None = None

    @classmethod
    def wait(cls, process: subprocess.Popen[bytes]) -> Exit:
        """Wait for the end of a process. Any thread."""
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except ChildProcessError:  # somebody asked it meanwhile whether it lives, and has the code
            return cls(process.wait())
        process.returncode = os.waitstatus_to_exitcode(status)
        return cls(process.returncode, usage.ru_maxrss * _UNIT_BYTES)

    def describe(self, *, was_out_of_memory: bool = False) -> str:
        """Return it as the end of a sentence.

        Args:
            was_out_of_memory: Whether the system has killed processes for their memory meanwhile.
        """
        if self.code >= 0:
            return f"ended with exit code {self.code}{self._peak()}"
        name = signal.Signals(-self.code).name if -self.code in set(signal.Signals) else str(-self.code)
        if self.code != -signal.SIGKILL:
            return f"ended with signal {name}{self._peak()}"
        why = "the system killed it, out of memory" if was_out_of_memory else "killed from outside"
        if not was_out_of_memory and (self.peak_bytes is None or self.peak_bytes > _memory_bytes() * _SUSPICIOUS_PART):
            why += ", most often for using too much memory"
        return f"ended with signal {name} ({why}{self._peak()})"

    def _peak(self) -> str:
        if self.peak_bytes is None or (self.peak_bytes < _WORTH_SAYING_BYTES and self.code != -signal.SIGKILL):
            return ""
        return f"; it had {self.peak_bytes / 1e9:.1f} GB of {_memory_bytes() / 1e9:.1f} GB at most"


class Kills:
    """Tells whether the system has killed processes of this container for their memory."""

    def __init__(self) -> None:
        self._seen = _oom_kills()

    def were(self) -> bool:
        """Return whether there was one since this was asked last."""
        before, self._seen = self._seen, _oom_kills()
        return self._seen > before


class CrashReport:
    """What a process says of itself as it crashes: a file that outlives it."""

    def __init__(self) -> None:
        self.fd = nameless_file()

    def take(self) -> str:
        """Return what was said, empty if nothing, and forget it."""
        os.lseek(self.fd, 0, os.SEEK_SET)
        text = os.read(self.fd, _REPORT_BYTES).decode("utf-8", "replace")
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        what, _, threads = text.partition("\n")
        crashed = _CRASHED.search(threads)
        if crashed is None:
            return text.strip()
        frames = crashed.group().splitlines()
        own = next((at for at, line in enumerate(frames) if "/flash_plugins/worker/" in line), len(frames))
        return "\n".join([what, *frames[:own]]).strip()


def _oom_kills() -> int:
    for path in _EVENTS:
        try:
            words = Path(path).read_text().split()
        except OSError:
            continue
        if "oom_kill" in words[:-1]:
            return int(words[words.index("oom_kill") + 1])
    return 0


def _memory_bytes() -> int:
    """Return how much memory there is for this worker: that of its container, else of the machine."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _LIMITS:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return min(machine, int(text))
    return machine
