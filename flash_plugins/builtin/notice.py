# SPDX-License-Identifier: Apache-2.0
"""One line on stderr that says which platform runs the calls of this process, and why."""

from __future__ import annotations

import sys

from ..hooks import hookimpl
from ..platforms.base import Platform

__all__ = ["flash_platform_chosen"]


@hookimpl
def flash_platform_chosen(platform: Platform) -> None:
    """Write the line."""
    if sys.stderr is not None:
        sys.stderr.write(f"flash-plugins: platform {platform.name} ({platform.reason})\n")
