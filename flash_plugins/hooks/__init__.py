# SPDX-License-Identifier: Apache-2.0
"""The arrows of the road: where plugins are told, or asked, what happens to a call."""

from .manager import HookManager
from .spec import CallEvent, CallStage, hookimpl

__all__ = ["CallEvent", "CallStage", "HookManager", "hookimpl"]
