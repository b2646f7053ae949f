# SPDX-License-Identifier: Apache-2.0
"""How messages name the tasks of a `Parallel` call: by their place in its iterable and their own function.

What the core calls an argument of a function of ours is an argument of one of the user's tasks.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flash_plugins import (
    EndpointConfig,
    FlashPluginsError,
    PayloadTooLarge,
    UnpicklableError,
    WorkerLost,
    WorkerStartFailed,
)

__all__ = [
    "Task",
    "TaskNames",
    "called",
    "name_of",
    "noted",
    "reworded_argument",
    "reworded_loss",
    "reworded_result",
]

#: One task as joblib makes it: function, positional and keyword arguments. All three are the user's.
Task = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]

#: Characters of one value, and of all arguments of a call.
_VALUE_CHARS = 32
_CALL_CHARS = 160
#: Values that are shown as they are; of others only the type, since their `repr` may take long or raise.
_PLAIN = (int, float, complex, bool, str, type(None))

#: Words for how a process ended of which memory may be the reason.
_MEMORY = re.compile("SIGKILL|memory|exit code 137")


class TaskNames:
    """The name of a batch: "joblib task at index 3, f()". Keeps no argument alive.

    Args:
        items: The tasks.
        indexes: Their places in the iterable of the `Parallel` call.
    """

    __slots__ = ("_functions", "_indexes")

    def __init__(self, items: Sequence[Task], indexes: Sequence[int]) -> None:
        self._indexes = indexes
        function = items[0][0]
        is_same = all(item[0] is function for item in items)
        self._functions = (name_of(function),) if is_same else tuple(name_of(item[0]) for item in items)

    def __str__(self) -> str:
        if len(self._indexes) == 1:
            return self.of(0)
        names = ", ".join(f"{name}()" for name in list(dict.fromkeys(self._functions))[:3])
        return f"{len(self._indexes)} joblib tasks at index {self._indexes[0]} to {self._indexes[-1]}, {names}"

    def __len__(self) -> int:
        return len(self._indexes)

    def of(self, place: int) -> str:
        """Return the name of the task at a place of the batch."""
        function = self._functions[place if len(self._functions) > 1 else 0]
        return f"joblib task at index {self._indexes[place]}, {function}()"


def name_of(function: object) -> str:
    """Return the name of what a task calls, whatever kind of callable that is."""
    if (inner := getattr(function, "func", None)) is not None and type(function).__name__ == "partial":
        return f"partial of {name_of(inner)}"
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def called(function: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return a call as in source code, such as `fit(<ndarray>, alpha=0.1)`; never runs code of the user's."""
    words = [_short(value) for value in args] + [f"{key}={_short(value)}" for key, value in kwargs.items()]
    listed = ", ".join(words)
    return f"{name_of(function)}({listed if len(listed) <= _CALL_CHARS else listed[: _CALL_CHARS - 3] + '...'})"


def _short(value: object) -> str:
    kind = type(value)
    if kind not in _PLAIN or (isinstance(value, int) and value.bit_length() > 64):
        return f"<{kind.__qualname__}>"
    if isinstance(value, str) and len(value) > _VALUE_CHARS:
        return f"{value[:_VALUE_CHARS]!r}..."
    return repr(value)


def reworded_argument(error: UnpicklableError, items: Sequence[Task], indexes: Sequence[int]) -> UnpicklableError:
    """Return the error of a batch that cannot be sent in words about the task that is why."""
    path = error.path
    place = _index_in(path[:1])
    if place is None or place >= len(items) or len(path) < 2:  # too deep, or what is wrong is not in a task
        return _again(error, f"{TaskNames(items, indexes)}, cannot be sent to a worker: {_subject(error)}", path)
    function, args, kwargs = items[place]
    task = f"joblib task at index {indexes[place]}, {called(function, args, kwargs)},"
    rest = path[2:]
    match path[1]:
        case "[1]" if rest:
            culprit = f"its argument {_parameter(function, _index_in(rest[:1]))} ({_joined(('args', *rest))})"
        case "[2]" if rest:
            culprit = f"its argument {rest[0][1:-1]} ({_joined(('kwargs', *rest))})"
        case "[0]":
            culprit = f"its function ({_joined(rest)})" if rest else "its function"
        case _:
            culprit = "one of its arguments"
    return _again(error, f"{task} cannot be sent to a worker: {culprit} {error.problem}", rest)


def reworded_result(error: BaseException, names: TaskNames) -> BaseException:
    """Return the error of a batch in words about its tasks, if it is that its results cannot be sent back."""
    if isinstance(error, UnpicklableError) and error.problem:
        # Results are the first field of a `BatchReport`.
        places = [at for at, label in enumerate(error.path) if label.startswith("[")][:2]
        place = _index_in(error.path[places[1] :][:1]) if len(places) == 2 else 0 if len(names) == 1 else None
        if place is None:
            return _again(error, f"a result of the {names}, cannot be sent back: {_subject(error)}", ())
        rest = error.path[places[1] + 1 :] if len(places) == 2 else ()
        where = _joined(("result", *rest)) if rest else "it"
        return _again(error, f"the result of the {names.of(place)}, cannot be sent back: {where} {error.problem}", rest)
    if isinstance(error, PayloadTooLarge):
        text = str(error).replace("the result of run_batch()", f"the result of the {names},")
        return PayloadTooLarge(text, size_bytes=error.size_bytes, limit_bytes=error.limit_bytes)
    return error


def reworded_loss(error: BaseException, names: TaskNames, config: EndpointConfig) -> BaseException:
    """Return the error of a batch in words about its tasks, if it is that their worker died.

    Args:
        names: Of the batch.
        config: What its worker is.
    """
    if not isinstance(error, WorkerLost) or isinstance(error, WorkerStartFailed) or not error.reason:
        return error
    place = 0 if len(names) == 1 else error.step
    task = f"the {names.of(place)}," if place is not None and place < len(names) else f"one of the {names},"
    reason = error.reason.rstrip().replace("with_options(idempotent=True)", "idempotent=True")
    advice = "With retries= it is tried again."
    if _MEMORY.search(reason.partition("\n")[0]):
        advice = (
            f"If it needs more memory, ask for larger workers (now {_hardware(config)}) or run less at once. {advice}"
        )
    if config.max_concurrency > 1:
        advice = f"Its worker ran up to {config.max_concurrency} tasks at once: another may be to blame. {advice}"
    return WorkerLost(
        f"{task} lost its worker: {reason}\n{advice}",
        job_id=error.job_id,
        reason=error.reason,
        step=error.step,
    )


def noted(error: BaseException, names: TaskNames) -> None:
    """Add to an exception whose task it is, unless it says so: raised before the task began, or after its end."""
    notes = getattr(error, "__notes__", ())
    if not isinstance(error, FlashPluginsError) and not any("joblib task" in str(note) for note in notes):
        with contextlib.suppress(Exception):  # the user's class may refuse attributes
            error.add_note(f"of {'the ' if len(names) == 1 else ''}{names}")


def _hardware(config: EndpointConfig) -> str:
    """Return what workers are asked for, as the user would write it."""
    name, kinds = ("cpu", config.cpu) if config.cpu else ("gpu", config.gpu)
    asked = [str(kind) for kind in kinds]
    return f"{name}={asked[0] if len(asked) == 1 else asked!r}"


def _again(error: UnpicklableError, message: str, path: tuple[str, ...]) -> UnpicklableError:
    made = UnpicklableError(message, path=path, problem=error.problem)
    made.__cause__ = error.__cause__
    return made


def _subject(error: UnpicklableError) -> str:
    return f"{_joined(error.path) or 'it'} {error.problem}" if error.problem else str(error)


def _joined(path: tuple[str, ...]) -> str:
    return UnpicklableError.joined(path)


def _index_in(labels: Sequence[str]) -> int | None:
    """Return the number in a label like `[3]`."""
    number = labels[0][1:-1] if labels else ""
    return int(number) if number.isdigit() else None


def _parameter(function: Any, position: int | None) -> str:
    """Return the name of a positional argument, else its number from 1."""
    if position is None:
        return "list"
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # made in C, and tells none
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    return repr(names[position]) if position < len(names) else str(position + 1)
