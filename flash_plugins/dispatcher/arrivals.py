# SPDX-License-Identifier: Apache-2.0
"""Calls between the threads that make them and their lanes: those of a burst reach the loop together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..options import CallOptions
from ..payload import CallEnvelope
from .call import Call
from .lane import Lane, Submission

if TYPE_CHECKING:
    from .threads import BackgroundLoop

__all__ = ["Arrivals"]


class Arrivals:
    """Takes calls from any thread.

    Args:
        loop: Where lanes live.
        lane_of: Returns the lane of an endpoint's name. Called on the loop.
    """

    def __init__(self, loop: BackgroundLoop, lane_of: Callable[[str], Lane]) -> None:
        self._loop = loop
        self._lane_of = lane_of
        self._waiting: deque[tuple[Call[Any], CallEnvelope, CallOptions, bytes]] = deque()
        self._is_posted = False

    def add(self, call: Call[Any], envelope: CallEnvelope, options: CallOptions, args: bytes) -> None:
        """Take a call, as `Submission` has it."""
        self._waiting.append((call, envelope, options, args))
        if not self._is_posted:  # else it is taken together with those before it
            self._is_posted = True
            self._loop.post(self._pass_on)

    def _pass_on(self) -> None:
        self._is_posted = False  # first: what arrives from here on is posted again
        by_lane: dict[Lane, list[Submission]] = {}
        while self._waiting:
            call, envelope, options, args = self._waiting.popleft()
            lane = self._lane_of(call.endpoint_name)
            submission = Submission(lane, call, envelope, options, args)
            call._submission = submission
            if not call.done():  # cancelled between the lines
                by_lane.setdefault(lane, []).append(submission)
        for lane, submissions in by_lane.items():
            lane.enqueue(submissions)
