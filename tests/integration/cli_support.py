# SPDX-License-Identifier: Apache-2.0
"""The command line as a person uses it: real processes, on a platform of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

__all__ = ["COMMAND", "flash", "flash_json"]

COMMAND = [sys.executable, "-c", "from flash_plugins.cli import main; main()"]


def flash(*arguments: str, code: int | None = 0, tracebacks: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command and check its exit code; only errors of a user's own program may show a traceback."""
    done = subprocess.run([*COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)
    assert tracebacks or "Traceback" not in done.stderr, done.stderr
    assert code is None or done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def flash_json(*arguments: str, code: int = 0) -> Any:
    """Run a command with `--json` and return what it prints, which is one line."""
    done = flash(*arguments, "--json", code=code)
    [line] = done.stdout.splitlines()
    return json.loads(line)
