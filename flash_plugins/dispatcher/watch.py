# SPDX-License-Identifier: Apache-2.0
"""Watching calls that wait: why nothing moves is told to the user, and ends the calls where waiting is in vain."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from ..clock import sleep
from ..errors import FlashPluginsError
from .delay import is_working

if TYPE_CHECKING:
    from ..platforms.diagnosis import Cause, Diagnosis, Watcher
    from .lane import Lane

__all__ = ["Watch"]

logger = logging.getLogger(__name__)

#: Seconds without progress before the first look, and between two: each costs a few requests of sixty a minute.
LOOK_AFTER_S = 15.0
LOOK_EVERY_S = 15.0
#: Seconds until the same reason is told again.
_TOLD_EVERY_S: Final = 600.0


class Watch:
    """Looks after the calls of one lane for as long as some wait. Loop thread.

    Args:
        lane: Whose calls.

    Attributes:
        reason: Why they wait, as the last look told; None while they do not, or nobody has looked.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._clock = lane.session.clock
        self._is_watching = False
        self._progress_at = 0.0
        self._watcher: Watcher | None = None
        self.reason: str | None = None
        self._told: tuple[Cause | None, float] = (None, 0.0)

    def begin(self) -> None:
        """Watch, from now on, a call that no worker has taken yet."""
        if not self._is_watching:
            self._is_watching = True
            self.note_progress()
            self._lane.session.loop.spawn(self._run())

    def note_progress(self) -> None:
        """A call ended, or runs: the endpoint works."""
        self.reason = None
        self._progress_at = self._clock.monotonic()

    async def _run(self) -> None:
        try:
            while self._lane.waits:
                due_s = self._progress_at + LOOK_AFTER_S - self._clock.monotonic()
                if due_s <= 0:
                    await self._look()
                    due_s = LOOK_EVERY_S
                await sleep(self._clock, due_s)
        finally:
            self._is_watching = False
            self._watcher = None

    async def _look(self) -> None:
        try:
            diagnosis = await self._diagnosis()
        except FlashPluginsError as error:  # the calls themselves will tell of it
            logger.debug("why calls of endpoint %r wait is unknown: %s", self._lane.config.name, error)
            return
        self.reason = None if diagnosis is None else diagnosis.text
        if diagnosis is None:
            return
        if diagnosis.is_fatal:
            self._lane.give_up(diagnosis.text)
            return
        cause, told_at = self._told
        if diagnosis.cause is not cause or self._clock.monotonic() - told_at > _TOLD_EVERY_S:
            self._told = (diagnosis.cause, self._clock.monotonic())
            name = str(self._lane.config.name)
            self._lane.session.tell(f"calls of endpoint {name!r} wait: {diagnosis.text}", name)

    async def _diagnosis(self) -> Diagnosis | None:
        from ..platforms.diagnosis import Watcher

        handle = self._lane.handle
        if handle is None:
            return None
        client = self._lane.session.client
        health = None
        with contextlib.suppress(FlashPluginsError):  # a cheaper question than those below, no more
            health = await client.health(handle)
        if health is not None and is_working(health):
            self._watcher = None
            return None
        if self._watcher is None:
            self._watcher = Watcher(client.rest, handle.id, handle.name)
        return await self._watcher.look()
