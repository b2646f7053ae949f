# SPDX-License-Identifier: Apache-2.0
"""Runs a driver script inside an official package's environment and reads its transcript."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .account import Account
from .environments import Environment

DRIVERS: Final = Path(__file__).parent / "drivers"

#: Seconds for one driver with all its operations.
DRIVER_TIMEOUT_S: Final = 400.0


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the operations of one driver gave."""

    entries: Mapping[str, Mapping[str, Any]]

    def result(self, operation: str) -> Any:
        """Return what the operation returned.

        Raises:
            AssertionError: It raised; the message is its traceback.
        """
        entry = self.entries[operation]
        assert "result" in entry, entry["traceback"]
        return entry["result"]

    def raised(self, operation: str) -> str:
        """Return the name of the error type that the operation raised, `nothing` when it returned."""
        return str(self.entries[operation].get("raised", "nothing"))

    def seconds(self, operation: str) -> float:
        """Return how long a successful operation took."""
        return float(self.entries[operation]["seconds"])


def redirected(account: Account, home: Path) -> dict[str, str]:
    """Return the environment variables that point Runpod's packages at the platform, and nothing else."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),  # no ~/.runpod/config.toml of the person who runs the tests
        "RUNPOD_API_KEY": account.key,
        "RUNPOD_API_BASE_URL": account.url,
        "RUNPOD_ENDPOINT_BASE_URL": f"{account.url}/v2",
        "RUNPOD_URL_MIXED_OK": "1",  # runpod-flash warns when its other hosts stay at Runpod's
        "RUNPOD_FLASH_SILENCE_DEPRECATION": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def play(
    driver: str,
    sdk: Environment,
    account: Account,
    setting: Mapping[str, str],
    folder: Path,
    *,
    more: Mapping[str, str] | None = None,
) -> Transcript:
    """Run one driver to its end, with `more` in its environment.

    Raises:
        AssertionError: The driver itself broke; the message is its standard error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    setting_path, transcript_path = folder / "setting.json", folder / "transcript.json"
    setting_path.write_text(json.dumps({**setting, "scratch": str(folder)}))
    done = subprocess.run(
        [str(sdk.python), str(DRIVERS / driver), str(setting_path), str(transcript_path)],
        env={**redirected(account, folder), **(more or {})},
        cwd=folder,  # runpod-flash writes logs where it is run
        capture_output=True,
        text=True,
        timeout=DRIVER_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Transcript(json.loads(transcript_path.read_text()))
