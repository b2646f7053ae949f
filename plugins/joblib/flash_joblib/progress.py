# SPDX-License-Identifier: Apache-2.0
"""What a progress display is told of a `Parallel` call: name and number of its tasks. It shows nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flash_plugins import Work

from .lengths import total_of
from .words import Task

__all__ = ["is_exhausted", "work_of"]

#: How many wrappers of a function are looked through for its name.
_MOST_WRAPPERS = 8


def work_of(parallel: Any, items: Sequence[Task]) -> Work:
    """Return the work that a call of a `Parallel` object is, by its first tasks."""
    total = getattr(parallel, "n_tasks", None)  # since joblib 1.5, for sized input
    if total is None:
        total = total_of(getattr(parallel, "_original_iterator", None))
    return Work(_name_of(items[0][0]), total=total)


def is_exhausted(parallel: Any) -> bool:
    """Return whether joblib has found that there are no more tasks; it looks whenever it takes a result."""
    return getattr(parallel, "_original_iterator", None) is None and not getattr(parallel, "_iterating", True)


def _name_of(function: Any) -> str:
    """Return the name of a task's function, as short as users know it."""
    for _ in range(_MOST_WRAPPERS):
        name = getattr(function, "__name__", None)
        if isinstance(name, str):
            return name
        inner = getattr(function, "func", None)  # of `partial`, and of `joblib.Memory`
        if inner is None:
            break
        function = inner
    return type(function).__name__
