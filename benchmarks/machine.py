# SPDX-License-Identifier: Apache-2.0
"""What the figures were measured on. No host name, user or path: results are published."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from .environments import ROOT

__all__ = ["Machine", "commit", "look"]


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine, at the moment the benchmarks began.

    Attributes:
        cpu: Model name.
        cores: Logical processors that this process may use.
        memory_gib: Physical memory.
        system: Kernel and architecture.
        python: Version and implementation.
        load: Load averages of 1, 5 and 15 minutes before the first measurement.
    """

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    load: tuple[float, float, float]

    @property
    def slug(self) -> str:
        """A name for files, such as `amd-epyc-2-cores`."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.cpu} {self.cores} cores".lower()).strip("-")

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.memory_gib:g} GiB, {self.system}, {self.python}"

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        """Return everything, for the results file."""
        return asdict(self)


def look() -> Machine:
    """Return this machine as it is now."""
    load = os.getloadavg()
    return Machine(
        cpu=_cpu_model(),
        cores=_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        load=(round(load[0], 2), round(load[1], 2), round(load[2], 2)),
    )


def commit() -> str:
    """Return the commit of this checkout, with `+` if files differ from it; `unknown` without version control."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if head is None:
        return "unknown"
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
