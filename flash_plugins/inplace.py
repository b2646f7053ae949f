# SPDX-License-Identifier: Apache-2.0
"""A call made on a worker of the very endpoint that it is for: it runs right there, and is sent nowhere.

It looks like any other call. A function that returns has its outcome at once. A coroutine runs as a task of the
loop in which the call was made, and to its end where there is none. A generator runs as far as it is iterated.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from types import AsyncGeneratorType, GeneratorType
from typing import Any, TypeVar, cast

from . import code, process
from .dispatcher import Call, StreamCall
from .errors import ConfigError
from .objects.handles import ObjectRef

__all__ = ["call_here", "instance_here"]

T = TypeVar("T")

#: Calls whose coroutine is under way: a loop itself keeps no task alive.
_under_way: set[_CallHere[Any]] = set()

#: Instances of decorated classes made in this process, by class and pickled constructor arguments.
_instances: weakref.WeakKeyDictionary[type, dict[bytes, Any]] = weakref.WeakKeyDictionary()
_making = threading.RLock()  # one class may make another

_of_thread = threading.local()


def call_here(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    endpoint_name: str,
    function_name: str,
) -> Call[Any]:
    """Return the call, which has run already as far as it can. What the function raises is its outcome.

    Raises:
        BaseException: `KeyboardInterrupt` and others that are no `Exception` come out here: they end the caller too.
    """
    call: _CallHere[Any] = _CallHere(endpoint_name=endpoint_name, function_name=function_name, number=0)
    try:
        args, kwargs = _with_values(args, kwargs)
        value = function(*args, **kwargs)
        if inspect.isgenerator(value) or inspect.isasyncgen(value):
            return _StreamHere(value, endpoint_name=endpoint_name, function_name=function_name)
        if inspect.isawaitable(value):
            if (loop := _running_loop()) is not None:
                call._follow(loop.create_task(_awaited(value)))
                return call
            value = _drive(_awaited(value))
    except Exception as error:  # noqa: BLE001 - user code may raise anything, and that is the outcome
        _end(call, error, is_value=False)
    else:
        _end(call, value, is_value=True)
    return call


def _with_values(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return arguments with values in place of handles, as if they had travelled; the very same if there is none."""
    if not ObjectRef.made:
        return args, kwargs
    try:
        if not code.has_handles((args, kwargs)):
            return args, kwargs
    except Exception:  # noqa: BLE001 - in place it need not travel: then only the arguments themselves are looked at
        values = {name: _value_of(value) for name, value in kwargs.items()}
        return [_value_of(value) for value in args], values
    sink = process.object_sink()
    data = code.dumps((args, kwargs), what="the arguments", sink=sink).data
    lease = sink.lease()
    try:
        found = code.loads(data, fetch=None if lease is None else lease.space)
    finally:
        if lease is not None:
            lease.release()
    return cast("tuple[Sequence[Any], Mapping[str, Any]]", found)


def _value_of(argument: Any) -> Any:
    return argument.get() if isinstance(argument, ObjectRef) else argument


def instance_here(cls: Callable[..., T], arguments: bytes) -> T:
    """Return the instance of a decorated class for these pickled constructor arguments, made on the first ask."""
    with _making:
        made = _instances.setdefault(cast("type", cls), {})
        if arguments not in made:
            args, kwargs = cast("tuple[Any, Any]", code.loads(arguments))
            made[arguments] = cls(*args, **kwargs)
        return cast("T", made[arguments])


class _CallHere(Call[T]):
    """A call that returns one value."""

    _task: asyncio.Task[T] | None = None

    def cancel(self) -> bool:
        """As `Call.cancel`; a coroutine is cancelled."""
        if not super().cancel():
            return False
        if (task := self._task) is not None:
            task.get_loop().call_soon_threadsafe(task.cancel)
        return True

    def _follow(self, task: asyncio.Task[T]) -> None:
        self._task = task
        _under_way.add(self)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[T]) -> None:
        _under_way.discard(self)
        error = None if task.cancelled() else task.exception()
        if self.done():
            return
        if task.cancelled():
            super().cancel()
        elif error is not None:
            _end(self, error, is_value=False)
        else:
            _end(self, task.result(), is_value=True)

    def _wait(self, timeout: float | None) -> None:
        if self._task is not None and not self.done() and _running_loop() is self._task.get_loop():
            raise _would_block(self, "await it")
        super()._wait(timeout)


class _StreamHere(StreamCall[T]):
    """A call that yields values, which are made when they are asked for."""

    def __init__(
        self, source: GeneratorType[T, Any, Any] | AsyncGeneratorType[T, Any], *, endpoint_name: str, function_name: str
    ) -> None:
        super().__init__(endpoint_name=endpoint_name, function_name=function_name, number=0)
        self._source = source
        self._made: list[T] = []

    def __iter__(self) -> Iterator[T]:
        position = 0
        try:
            while position < len(self._made) or self._pull():
                yield self._made[position]
                position += 1
        except GeneratorExit:
            self.cancel()  # nobody will look at the rest
            raise
        self.result()

    async def __aiter__(self) -> AsyncIterator[T]:
        position = 0
        try:
            while position < len(self._made) or await self._pull_later():
                yield self._made[position]
                position += 1
        except (asyncio.CancelledError, GeneratorExit):
            self.cancel()
            raise
        self.result()

    async def settled(self) -> None:
        """As `Call.settled`."""
        try:
            while await self._pull_later():
                continue
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> bool:
        """As `Call.cancel`; the generator is closed."""
        if not super().cancel():
            return False
        if isinstance(self._source, GeneratorType):
            if not self._source.gi_running:
                self._source.close()
        elif not self._source.ag_running:
            closing = self._source.aclose()
            if (loop := _running_loop()) is not None:
                loop.create_task(_awaited(closing)).add_done_callback(lambda task: task.cancelled() or task.exception())
            else:
                _drive(_awaited(closing))
        return True

    def _wait(self, timeout: float | None) -> None:
        while self._pull():
            continue
        super()._wait(timeout)

    def _pull(self) -> bool:
        """Have one more value made; False if that was the end."""
        if self.done():
            return False
        source = self._source
        if not isinstance(source, GeneratorType) and _running_loop() is not None:
            raise _would_block(self, "`async for` over it, or await it")
        try:
            value = next(source) if isinstance(source, GeneratorType) else _drive(_awaited(anext(source)))
        except (StopIteration, StopAsyncIteration):
            _end(self, list(self._made), is_value=True)
        except Exception as error:  # noqa: BLE001 - user code may raise anything, and that is the outcome
            _end(self, error, is_value=False)
        else:
            self._made.append(value)
            return True
        return False

    async def _pull_later(self) -> bool:
        """As `_pull`, in a coroutine."""
        if isinstance(self._source, GeneratorType) or self.done():
            return self._pull()
        try:
            value = await anext(self._source)
        except StopAsyncIteration:
            _end(self, list(self._made), is_value=True)
        except Exception as error:  # noqa: BLE001 - user code may raise anything, and that is the outcome
            _end(self, error, is_value=False)
        else:
            self._made.append(value)
            return True
        return False


def _end(call: Call[Any], outcome: Any, *, is_value: bool) -> None:
    if not call.done():
        call._decoded = (is_value, outcome)
        call.set_result(None)


def _would_block(call: Call[Any], remedy: str) -> ConfigError:
    return ConfigError(
        f"{call!r} runs on this worker, in the event loop of the coroutine that asks for its outcome, which it would "
        f"hold up for ever: {remedy}"
    )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _drive(coroutine: Any) -> Any:
    """Run a coroutine to its end in this thread's own loop, kept so that what is bound to a loop can be reused."""
    loop: asyncio.AbstractEventLoop | None = getattr(_of_thread, "loop", None)
    if loop is None:
        loop = _of_thread.loop = asyncio.new_event_loop()
    return loop.run_until_complete(coroutine)


async def _awaited(value: Awaitable[T]) -> T:
    return await value
