# SPDX-License-Identifier: Apache-2.0
"""The sockets that the dispatcher's event loop watches. In a forked child it watches none, and changes none."""

from __future__ import annotations

import os
import selectors
from collections.abc import Mapping
from typing import Any

__all__ = ["OwnSelector"]


class OwnSelector(selectors.DefaultSelector):
    """The system's selector, for the process that made it.

    A forked child shares the kernel's list of sockets (epoll) with its parent. When connections of the parent's
    client are garbage-collected there, asyncio takes their sockets off the list, and the parent never hears of
    an answer again. In a child there is no socket to take off.
    """

    def __init__(self) -> None:
        super().__init__()
        self._owner = os.getpid()

    # asyncio's own words: what `selectors` gives for a file, opaque to us.
    def get_map(self) -> Mapping[Any, Any]:
        """Return what is watched."""
        return super().get_map() if os.getpid() == self._owner else {}
