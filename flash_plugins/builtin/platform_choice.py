# SPDX-License-Identifier: Apache-2.0
"""The built-in answer to `flash_choose_platform`: local or Runpod, by setting or by whether there is a key."""

from __future__ import annotations

from ..hooks import hookimpl
from ..platforms.base import Platform
from ..platforms.choice import choose
from ..settings import Settings

__all__ = ["flash_choose_platform"]


@hookimpl(trylast=True)
def flash_choose_platform(settings: Settings) -> Platform:
    """Choose by `platforms.choice.choose`."""
    return choose(settings)
