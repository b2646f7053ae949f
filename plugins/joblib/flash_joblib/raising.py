# SPDX-License-Identifier: Apache-2.0
"""What the caller raises: warnings that are errors there, and exceptions that joblib could not raise again as they are.

It decides nothing about what a task does.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Sequence
from typing import Any

__all__ = ["RaisingWarnings", "WarningFilter", "raisable", "raising_filters"]

#: Action, message, category, module and line, as `warnings.filterwarnings` takes them.
WarningFilter = tuple[str, str, type[Warning], str, int]


def raising_filters() -> tuple[WarningFilter, ...]:
    """Return the filters of this process if some of them make an error of a warning, else none.

    Those that do not are changed to show every warning: what is shown is decided where it is shown.
    """
    if not any(one[0] == "error" for one in warnings.filters):
        return ()
    return tuple(
        ("error" if action == "error" else "always", _pattern(message), category, _pattern(module), line)
        for action, message, category, module, line in warnings.filters
        if isinstance(category, type)
    )


def _pattern(given: Any) -> str:
    if given is None:
        return ""
    return re.escape(given) + r"\Z" if isinstance(given, str) else str(given.pattern)


class RaisingWarnings:
    """Context in which warnings are errors where the caller has them so: a task may count on it, or catch them.

    Not by `contextlib`, which sets the traceback of what is raised inside, and that some exceptions refuse.
    """

    def __init__(self, filters: Sequence[WarningFilter]) -> None:
        # Filters are the process's: calls side by side would put back each other's.
        is_alone = threading.current_thread() is threading.main_thread()
        self._filters = filters if is_alone else ()
        self._before = warnings.catch_warnings()

    def __enter__(self) -> None:
        if not self._filters:
            return
        self._before.__enter__()
        warnings.resetwarnings()
        for action, message, category, module, line in self._filters:
            warnings.filterwarnings(action, message, category, module, line, append=True)  # type: ignore[arg-type]

    def __exit__(self, *_: object) -> None:
        if self._filters:
            self._before.__exit__(None, None, None)


def raisable(error: BaseException) -> BaseException:
    """Return `error` so that joblib can raise it: it sets the traceback of what it is given, and if that fails, as with
    a frozen dataclass, its call never ends. Such an exception becomes one of a subclass that allows for it.
    """
    try:
        error.__traceback__ = error.__traceback__
    except Exception as refused:  # noqa: BLE001 - the user's class may raise anything
        cls = type(error)
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        try:
            opened: Any = type(cls.__name__, (cls,), {**names, "__slots__": (), "__setattr__": object.__setattr__})
            object.__setattr__(error, "__class__", opened)
        except Exception:  # noqa: BLE001 - nor need it allow for subclasses
            stand_in = RuntimeError(f"a task raised {cls.__qualname__}, which cannot be raised again ({refused})")
            stand_in.__cause__ = error
            return stand_in
    return error
