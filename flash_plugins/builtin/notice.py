# SPDX-License-Identifier: Apache-2.0
"""Lines on stderr: which platform runs the calls of this process, what changes there, why calls wait."""

from __future__ import annotations

import contextlib
import sys

from ..hooks import hookimpl
from ..platforms.base import Platform

__all__ = ["flash_notice", "flash_platform_chosen"]


@hookimpl
def flash_platform_chosen(platform: Platform) -> None:
    """Write which platform it is, and why."""
    if sys.stderr is not None:
        sys.stderr.write(f"flash-plugins: platform {platform.name} ({platform.reason})\n")


@hookimpl
def flash_notice(text: str, endpoint: str | None) -> None:
    """Write the line."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):  # closed: nobody reads it
        sys.stderr.write(f"flash-plugins: {text}\n")
        sys.stderr.flush()
