# SPDX-License-Identifier: Apache-2.0
"""Calls that wait here, by function, so that those which can travel together are found. Nothing in it ever waits.

The oldest call is always next. Those that travel with it are of the same function and may overtake others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lane import Submission

__all__ = ["Backlog", "FunctionKey"]

#: What calls that travel in one job have in common: code, method, bundle, instance, level of the log, Python.
FunctionKey = tuple[object, ...]


class Backlog:
    """The queue of a lane. Dispatcher's loop only."""

    def __init__(self) -> None:
        self._groups: dict[FunctionKey, _Group] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Submission]:
        for group in self._groups.values():
            yield from (one for one in group.calls if one.is_queued)

    def add(self, submission: Submission) -> None:
        """Put a call at the end."""
        self._group_of(submission).calls.append(submission)

    def put_back(self, submissions: Iterable[Submission]) -> None:
        """Put calls that were taken, in their order, in front of all others of their function."""
        for submission in reversed(list(submissions)):
            self._group_of(submission).calls.appendleft(submission)

    def discard(self, submission: Submission) -> bool:
        """Remove a call; False if it does not wait here."""
        if not submission.is_queued:
            return False
        self._leaves(submission)
        group = self._groups[submission.function_key]
        if not group.waiting:
            del self._groups[submission.function_key]
        return True

    def oldest(self) -> tuple[Submission, int]:
        """Return the call that is next, and how many of its function wait."""
        group = min((group for group in self._groups.values()), key=_Group.age)
        return group.first(), group.waiting

    def take(self, first: Submission, most: int, most_bytes: int) -> list[Submission]:
        """Remove the call that is next and others that may travel with it, in their order.

        Args:
            first: As `oldest` returned it.
            most: Most calls.
            most_bytes: Most bytes of their arguments, unless the first has more.
        """
        group = self._groups[first.function_key]
        taken: list[Submission] = []
        size = 0
        most = min(most, group.waiting)
        while len(taken) < most:
            following = group.first()
            most = min(most, following.mates_max)
            size += following.size_bytes
            if taken and (size > most_bytes or len(taken) >= most):
                break
            self._leaves(group.calls.popleft())
            taken.append(following)
        if not group.waiting:
            del self._groups[first.function_key]
        return taken

    def clear(self) -> list[Submission]:
        """Remove all and return them, the oldest first."""
        waiting = sorted(self, key=lambda submission: submission.call.number)
        for submission in waiting:
            submission.is_queued = False
        self._groups.clear()
        self._count = 0
        return waiting

    def _group_of(self, submission: Submission) -> _Group:
        """Return the group that a call comes into, having counted it."""
        group = self._groups.get(submission.function_key)
        if group is None:
            group = self._groups[submission.function_key] = _Group()
        group.waiting += 1
        self._count += 1
        submission.is_queued = True
        return group

    def _leaves(self, submission: Submission) -> None:
        submission.is_queued = False
        self._groups[submission.function_key].waiting -= 1
        self._count -= 1


class _Group:
    """Calls of one function. Those that were discarded stay in `calls` until it is their turn."""

    __slots__ = ("calls", "waiting")

    def __init__(self) -> None:
        self.calls: deque[Submission] = deque()
        self.waiting = 0

    def first(self) -> Submission:
        while not self.calls[0].is_queued:
            self.calls.popleft()
        return self.calls[0]

    def age(self) -> int:
        return self.first().call.number
