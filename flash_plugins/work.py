# SPDX-License-Identifier: Apache-2.0
"""Calls that belong together: what they are called, how many tasks they carry, and how many there will be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Work", "part"]

_numbers = itertools.count(1)


class Work:
    """Some work that many calls do, as a progress display shows it: under one name, with one total.

    What is known of it may change while its calls run; whoever is told of them may look at any time, from any thread.

    Args:
        label: What one of its tasks is: the name of a function, say.
        total: How many tasks there will be, None while nobody knows.

    Attributes:
        number: Its number in this process, from 1.
        label: As given.
        total: As given, or as it was learnt since. It may turn out to be wrong.
        is_complete: Whether all of its calls were made: then its total is what they carry.
    """

    __slots__ = ("is_complete", "label", "number", "total")

    def __init__(self, label: str, *, total: int | None = None) -> None:
        self.number = next(_numbers)
        self.label = label
        self.total = total
        self.is_complete = False

    def __repr__(self) -> str:
        return f"<Work {self.number} {self.label!r} total={self.total}{' complete' if self.is_complete else ''}>"

    @contextmanager
    def calls(self, *, tasks: int = 1, name: object = None) -> Iterator[None]:
        """Make the calls that this thread, or this coroutine, makes within the context part of this work.

        Args:
            tasks: How many tasks each of them carries.
            name: What errors and other messages call them, by its `str`, which is taken when it is needed; None for the
                number and the function of a call.
        """
        token = part.set((self, tasks, name))
        try:
            yield
        finally:
            part.reset(token)

    def complete(self) -> None:
        """Note that no more calls of it will be made."""
        self.is_complete = True


#: The work that calls are part of which are made here, how many tasks each of them carries, and its name in messages.
part: ContextVar[tuple[Work | None, int, object]] = ContextVar("flash_plugins_part", default=(None, 1, None))
