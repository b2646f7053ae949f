# SPDX-License-Identifier: Apache-2.0
"""Time as the local platform sees it. Nothing else here reads the time."""

from __future__ import annotations

from ...clock import Clock, FakeClock, SystemClock, Timer

__all__ = ["Clock", "FakeClock", "SystemClock", "Timer"]
