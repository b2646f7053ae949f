# SPDX-License-Identifier: Apache-2.0
"""Functions cached with `joblib.Memory`: the caller's cache is asked and filled, whoever computes. It never sends.

    look_up (submit)                                                 complete (delivery thread)
    ─ hit: joblib loads the result, nothing is sent ────────────────────────────────────────────────────┐
    ─ miss: the plain function is sent ──▶ worker ──▶ its result ──▶ joblib stores it in the caller's ──┴▶ results

What is found, stored, printed and warned is decided by joblib's own code, with one trick: joblib has cached functions
of two kinds, plain and `async`, with one cache. A look-up calls the asynchronous twin of a plain one; it stops where
the function's result is awaited, and goes on when that has come from the worker. Arguments are hashed once and inside
`submit`, so what is stored belongs to the arguments as they were sent.
"""

from __future__ import annotations

import functools
import inspect
import logging
import types
import warnings
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any

from joblib import memory as joblib_memory

from .words import Task

__all__ = ["CallerCache", "Lookup"]

_log = logging.getLogger(__name__)

#: What a twin yields where it needs the function's result.
_NEEDED = object()

#: Ways to call a cached function that give what its `async` twin gives; the first is the call itself.
_CALLS = frozenset({"__call__", "call_and_shelve", "call"})

#: What a cached function does without calling the function: it happens here.
_HERE = frozenset({"check_call_in_cache", "clear"})

_told: set[str] = set()


class CallerCache:
    """What one `Parallel` object knows of cached functions. For one thread at a time."""

    def __init__(self) -> None:
        # Not for the whole process: a twin of a cached method refers to the object that refers to the cached method.
        self._twins: weakref.WeakKeyDictionary[Any, tuple[object, Any]] = weakref.WeakKeyDictionary()

    def look_up(
        self, items: Sequence[Task], indexes: Sequence[int]
    ) -> tuple[Sequence[Task], Sequence[int], Lookup | None]:
        """Ask the caches of `items`, tasks as joblib makes them. Hashes their arguments (2 ms a megabyte), as
        joblib does for a call that runs here.

        Returns:
            Those of the tasks that are to be sent, and of their `indexes`; what was found, None if no task has a cache.

        Raises:
            Exception: Whatever a cached function raises for such arguments before it calls the function.
        """
        if not any(_calls_cached(function) for function, _, _ in items):
            return items, indexes, None
        lookup = Lookup()
        try:
            for function, args, kwargs in items:
                self._add(lookup, function, args, kwargs)
        except BaseException:
            lookup.abandon()
            raise
        missing, places = lookup.take_missing()
        return missing, [indexes[place] for place in places], lookup

    def _add(self, lookup: Lookup, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        plain = (function, args, kwargs)
        if not _calls_cached(function):
            lookup.send(plain)
            return
        while type(function) is functools.partial:
            function, args, kwargs = function.func, (*function.args, *args), {**function.keywords, **kwargs}
        is_method = type(function) is types.MethodType
        cached, way = (function.__self__, function.__name__) if is_method else (function, "__call__")
        if way in _HERE:
            lookup.found(getattr(cached, way)(*args, **kwargs))
        elif way not in _CALLS or (twin := self._twin(cached)) is None:
            lookup.send(plain)
        else:
            lookup.ask(getattr(twin, way)(*args, **kwargs), (cached.func, args, kwargs), otherwise=plain)

    def _twin(self, cached: Any) -> Any:
        code = getattr(cached.func, "__code__", None)  # joblib allows for another one being put there
        known = self._twins.get(cached)
        if known is None or known[0] is not code:
            known = self._twins[cached] = (code, _twin_of(cached))
        return known[1]


def _calls_cached(function: Any) -> bool:
    while type(function) is functools.partial:
        function = function.func
    owner = function.__self__ if type(function) is types.MethodType else function
    return isinstance(owner, joblib_memory.MemorizedFunc)


class Lookup:
    """What was found for the tasks of a batch."""

    def __init__(self) -> None:
        self._missing: list[Task] = []
        self._places: list[int] = []  # of these among all
        self._found: list[tuple[int, Any]] = []  # with their places among all
        self._stopped: dict[int, Coroutine[Any, Any, Any]] = {}  # by their places among those that are missing

    def take_missing(self) -> tuple[list[Task], list[int]]:
        """Return the tasks to send and their places among all, and forget them."""
        missing, self._missing = self._missing, []
        return missing, self._places

    def send(self, task: Task) -> None:
        """Add a task that is to be sent."""
        self._places.append(len(self._found) + len(self._missing))
        self._missing.append(task)

    def found(self, value: Any) -> None:
        """Add a task that has its result."""
        self._found.append((len(self._found) + len(self._missing), value))

    def ask(self, asking: Any, task: Task, *, otherwise: Task) -> None:
        """Add a task by the call `asking` of a twin; it is sent as `task` if its result is not there.

        Raises:
            Exception: Whatever the call raises before it needs the result.
        """
        if not inspect.iscoroutine(asking):
            return self._give_up(otherwise, "a call of its twin is no coroutine")
        try:
            needed = asking.send(None)
        except StopIteration as stop:
            return self.found(stop.value)
        if needed is not _NEEDED:
            asking.close()
            return self._give_up(otherwise, f"its twin waits for {needed!r}")
        self._stopped[len(self._missing)] = asking
        return self.send(task)

    def complete(self, results: list[Any]) -> list[Any]:
        """Store the `results` of what was missing and return those of all tasks, in order.

        A result that cannot be stored is returned all the same, with the warning that joblib has for it.

        Raises:
            Warning: The caller's filters turn such a warning into an error.
        """
        stopped, self._stopped = self._stopped, {}
        try:
            for place in list(stopped):
                results[place] = _stored(stopped.pop(place), results[place])
        finally:
            for asking in stopped.values():
                asking.close()
        for place, value in self._found:
            results.insert(place, value)
        return results

    def abandon(self) -> None:
        """Store nothing: there are no results."""
        stopped, self._stopped = self._stopped, {}
        for asking in stopped.values():
            asking.close()

    def _give_up(self, task: Task, reason: str) -> None:
        _tell(task[0], reason)
        self.send(task)


def _stored(asking: Coroutine[Any, Any, Any], result: Any) -> Any:
    """Return what a call gives whose function returned `result`, having stored that."""
    try:
        asking.send(result)
    except StopIteration as stop:
        return stop.value
    except Warning:
        raise
    except Exception as error:  # noqa: BLE001 - a store may be anything; the result is there and must not be lost
        warnings.warn(f"Unable to cache to disk. Exception: {error!r}.", joblib_memory.CacheWarning, stacklevel=2)
        return result
    asking.close()
    return result


class _Result:
    """What a twin awaits: the result that `send` brings."""

    def __await__(self) -> Generator[object, Any, Any]:
        return (yield _NEEDED)


def _twin_of(cached: Any) -> Any:
    """Return the asynchronous twin of a cached function, None if this version of joblib has none.

    The only place that relies on more than joblib documents: that the class of cached coroutine functions
    differs from that of others by nothing but its methods, and that both keep their state in `__dict__`.
    """
    if type(cached) not in (joblib_memory.MemorizedFunc, getattr(joblib_memory, "AsyncMemorizedFunc", None)):
        return _tell(cached, f"its class is {type(cached).__qualname__}")
    try:
        twin = object.__new__(joblib_memory.AsyncMemorizedFunc)
        vars(twin).update(cached.__getstate__())
        twin.timestamp = cached.timestamp
        twin.func = _awaiting(cached.func)
        _pass_on_what_is_known(cached, twin)
    except (AttributeError, TypeError) as error:
        return _tell(cached, f"joblib has changed: {error}")
    return twin


def _pass_on_what_is_known(cached: Any, twin: Any) -> None:
    """Have joblib take the code of a function that it knows in this process for unchanged, as for calls without us.

    It remembers that by function for all caches at once, and then neither reads nor writes the code that a cache
    keeps. Without this the first look-up in such a cache would be a miss.
    """
    known = getattr(joblib_memory, "_FUNCTION_HASHES", {})
    try:
        if known.get(cached.func) == cached._hash_func():
            known[twin.func] = twin._hash_func()
    except TypeError:  # not every callable can be hashed: joblib reads the code of such a one each time
        return


def _awaiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what looks like `function` to joblib, and awaits the result instead of computing it.

    joblib binds arguments by the signature of functions and methods, and takes those of other callables as
    they come.
    """

    async def awaiting(*_args: Any, **_kwargs: Any) -> Any:
        return await _Result()

    if code := getattr(function, "__code__", None):  # a function of the program itself is named after its file
        awaiting.__code__ = awaiting.__code__.replace(co_filename=code.co_filename)
    if isinstance(function, types.MethodType):
        return types.MethodType(functools.update_wrapper(awaiting, function.__func__), function.__self__)
    if isinstance(function, types.FunctionType):
        return functools.update_wrapper(awaiting, function)
    other = functools.partial(awaiting)
    functools.update_wrapper(other, function)
    del other.__wrapped__  # type: ignore[attr-defined]  # or its signature would be looked at
    return other


def _tell(cached: Any, reason: str) -> None:
    """Say once why a cached function uses a cache on the worker."""
    if reason not in _told:
        _told.add(reason)
        _log.warning("%r runs with its cache on the worker, not with the one here: %s", cached, reason)
