# SPDX-License-Identifier: Apache-2.0
"""Many calls from lazy inputs, results in order or as they come, with back-pressure and clean endings."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, Literal, TypeVar, get_args

from .dispatcher import Call
from .errors import ConfigError

__all__ = ["MapIterator", "Order"]

T = TypeVar("T")

#: Order of results: that of the inputs, or that of completion.
Order = Literal["input", "completed"]

#: Calls ahead of the consumer: twice what the dispatcher keeps in flight, so that it never runs dry.
DEFAULT_WINDOW = 400
#: Pickled arguments ahead of the consumer, bytes: fewer calls are ahead when they are large, but never below this many.
_WINDOW_BYTES = 100_000_000
_LARGE_WINDOW = 16


class MapIterator(Generic[T]):
    """Results of a `map`; iterate it once, with `for` or `async for`.

    An exception of a call ends the iteration and cancels the rest, unless `return_exceptions`.
    """

    def __init__(
        self,
        function: Callable[..., Call[Any]],
        iterables: Iterable[Iterable[Any]],
        *,
        order: Order,
        return_exceptions: bool,
        window: int | None,
    ) -> None:
        if order not in get_args(Order):
            raise ConfigError(f"map(order={order!r}): give one of {', '.join(get_args(Order))}")
        if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
            raise ConfigError(f"map(window={window!r}): give a whole number of calls, at least 1")
        columns = tuple(iterables)
        if not columns:
            raise ConfigError("map() needs at least one iterable of arguments, as the built-in map does")
        self._inputs = zip(*columns, strict=False)
        self._function = function
        self._is_ordered = order == "input"
        self._returns_exceptions = return_exceptions
        self._window = window or DEFAULT_WINDOW
        self._is_exhausted = False
        self._pending: dict[Call[Any], None] = {}  # a set in the order of the inputs
        self._pending_bytes = 0
        self._arrivals = _Arrivals()
        self._top_up()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if not self._pending:
            raise StopIteration
        try:
            call = next(iter(self._pending)) if self._is_ordered else self._arrivals.wait()
            outcome = self._outcome_of(call, call.result)
        except BaseException:
            self.close()
            raise
        self._took(call)
        return outcome

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if not self._pending:
            raise StopAsyncIteration
        try:
            call = next(iter(self._pending)) if self._is_ordered else await self._arrivals.arrived()
            await call.settled()
            outcome = self._outcome_of(call, call.result)
        except BaseException:
            self.close()
            raise
        self._took(call)
        return outcome

    def close(self) -> None:
        """Cancel what is queued and running; the iteration is over."""
        self._is_exhausted = True
        pending, self._pending = self._pending, {}
        for call in pending:
            call.cancel()

    def __del__(self) -> None:
        if "_pending" in self.__dict__:  # else the constructor refused its arguments
            self.close()

    def _top_up(self) -> None:
        try:
            self._take_inputs()
        except BaseException:  # the inputs, or pickling one of them, failed
            self.close()
            raise

    def _take_inputs(self) -> None:
        while not self._is_exhausted and len(self._pending) < self._window:
            if self._pending_bytes > _WINDOW_BYTES and len(self._pending) >= _LARGE_WINDOW:
                return
            try:
                arguments = next(self._inputs)
            except StopIteration:
                self._is_exhausted = True
                return
            call = self._function(*arguments)
            self._pending[call] = None
            self._pending_bytes += call.payload_bytes
            if not self._is_ordered:
                # Not a method of ours: calls that fly would keep this iterator, which ends them when it is dropped.
                Future.add_done_callback(call, self._arrivals.note)

    def _took(self, call: Call[Any]) -> None:
        del self._pending[call]
        self._pending_bytes -= call.payload_bytes
        self._top_up()

    def _outcome_of(self, call: Call[Any], result: Callable[[], T]) -> T:
        try:
            return result()
        except Exception as error:  # whatever the function raised
            if self._returns_exceptions:
                return error  # type: ignore[return-value]
            if isinstance(error, (StopIteration, StopAsyncIteration)):  # would end the iteration as if it were over
                raise RuntimeError(f"{call!r} raised {type(error).__name__}") from error
            raise


class _Arrivals:
    """Calls in the order in which they end, for one consumer in a thread or in a coroutine."""

    def __init__(self) -> None:
        self._ended: deque[Call[Any]] = deque()
        self._changed = threading.Condition()
        self._wake_consumer: Callable[[], object] | None = None

    def note(self, call: Future[Any]) -> None:
        """Take a call that ended. Any thread."""
        with self._changed:
            self._ended.append(call)  # type: ignore[arg-type]
            self._changed.notify_all()
        if (wake := self._wake_consumer) is not None:
            wake()

    def wait(self) -> Call[Any]:
        """Return the next call that ends."""
        with self._changed:
            while not self._ended:
                self._changed.wait()
        return self._ended.popleft()

    async def arrived(self) -> Call[Any]:
        """As `wait`, in a coroutine."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        self._wake_consumer = lambda: loop.call_soon_threadsafe(changed.set)
        try:
            while not self._ended:
                await changed.wait()
                changed.clear()
        finally:
            self._wake_consumer = None
        return self._ended.popleft()
