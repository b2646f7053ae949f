# SPDX-License-Identifier: Apache-2.0
"""Who is measured, in which environment, at which version. Change versions of the peers here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from .environments import EnvironmentUnavailable, provide
from .figures import OURS, public_reason

__all__ = [
    "BOTOCORE",
    "DASK",
    "FLASH",
    "LOKY",
    "OBSTORE",
    "RAY",
    "RUNPOD_1",
    "RUNPOD_2",
    "RUNPOD_FLASH",
    "S3FS",
    "Contestant",
    "versions",
]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One package under measurement.

    Attributes:
        name: As in the report.
        key: Name of it for the programs.
        requirements: Of its own environment; empty for ours, which is the one that runs the benchmarks.
    """

    name: str
    key: str
    requirements: tuple[str, ...] = ()

    def python(self) -> Path:
        """Return its interpreter, building its environment on the first ask.

        Raises:
            EnvironmentUnavailable: It cannot be installed.
        """
        return provide(self.requirements) if self.requirements else Path(sys.executable)


@cache
def _like_ours(*names: str) -> tuple[str, ...]:
    """Pin packages to the versions that we run with, so that both sides compute with the same code."""
    return tuple(f"{name}=={metadata.version(name)}" for name in names)


_SCIENCE: Final = _like_ours("joblib", "scikit-learn", "numpy", "scipy")

FLASH: Final = Contestant(OURS, "flash")
RAY: Final = Contestant("Ray", "ray", ("ray==2.60.0", *_SCIENCE))
DASK: Final = Contestant("Dask", "dask", ("distributed==2026.8.0", "dask==2026.8.0", *_SCIENCE))
LOKY: Final = Contestant("loky", "loky", ("loky==3.7.0", *_SCIENCE))
#: Libraries for S3; the first one is ours.
BOTOCORE: Final = Contestant("botocore", "botocore")
OBSTORE: Final = Contestant("obstore", "obstore", ("obstore==0.12.1",))
S3FS: Final = Contestant("s3fs", "s3fs", ("s3fs==2026.9.0",))
#: Runpod's own package, the one in use and the next one.
RUNPOD_1: Final = Contestant("runpod 1.12", "runpod1", ("runpod==1.12.0",))
RUNPOD_2: Final = Contestant("runpod 2.0rc2", "runpod2", ("runpod==2.0.0rc2",))
RUNPOD_FLASH: Final = Contestant("runpod-flash", "runpod_flash", ("runpod-flash==1.21.0",))

#: Distributions of ours whose versions explain a figure.
_PARTS: Final = (
    "flash-plugins", "flash-plugins-joblib", "runpod", "aiohttp", "uvicorn", "starlette",
    "uvloop", "httptools", "cloudpickle", "joblib", "scikit-learn", "numpy", "botocore",
)  # fmt: skip


def versions() -> dict[str, dict[str, str]]:
    """Return the versions of everything that takes part, by contestant; peers that cannot be installed say so."""
    found = {OURS: {name: metadata.version(name) for name in _PARTS}}
    for peer in (RAY, DASK, LOKY, RUNPOD_1, RUNPOD_2, RUNPOD_FLASH, OBSTORE, S3FS):
        try:
            peer.python()
        except EnvironmentUnavailable as error:
            found[peer.name] = {"unavailable": public_reason(str(error))}
        else:
            found[peer.name] = dict(pin.split("==") for pin in peer.requirements)
    return found
