# SPDX-License-Identifier: Apache-2.0
"""Many calls from lazy inputs, results in order or as they come, with back-pressure and clean endings.

Inputs are read in the consumer's own thread, when it asks for the next result: so they may depend on the results
before. Once a result is ready, no more than the one input that makes up for it is read first, however slow they come.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, Literal, TypeVar, get_args

from .dispatcher import Call
from .dispatcher.threads import wake
from .errors import ConfigError, FlashPluginsError, PayloadError
from .work import Work, part

__all__ = ["MapIterator", "Mappable", "Order"]

T = TypeVar("T")

#: Order of results: that of the inputs, or that of completion.
Order = Literal["input", "completed"]

#: Calls ahead of the consumer, unless they end faster: twice the jobs that the dispatcher keeps in flight at most.
DEFAULT_WINDOW = 400
#: Then it is as many as ended in a second, which is some round trips: many small calls share a job. And the most.
_AHEAD_S = 1.0
_MOST_WINDOW = 5_000
#: Seconds over which the rate is measured.
_PACE_S = 0.25
#: Pickled arguments ahead of the consumer, bytes: fewer calls are ahead when they are large, but never below this many.
_WINDOW_BYTES = 100_000_000
_LARGE_WINDOW = 16
#: Seconds for which inputs are read before anybody iterates: a source that takes longer is read between results.
_FIRST_READING_S = 0.1


class MapIterator(Generic[T]):
    """Results of a `map`; iterate it once, with `for` or `async for`.

    An exception of a call ends the iteration and cancels the rest, unless `return_exceptions`. One that the
    inputs raise ends it after the results of the inputs before.
    """

    def __init__(
        self,
        function: Callable[..., Call[Any]],
        iterables: Iterable[Iterable[Any]],
        *,
        order: Order,
        return_exceptions: bool,
        window: int | None,
        label: str = "map",
    ) -> None:
        if order not in get_args(Order):
            raise ConfigError(f"map(order={order!r}): give one of {', '.join(get_args(Order))}")
        if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
            raise ConfigError(f"map(window={window!r}): give a whole number of calls, at least 1")
        columns = tuple(iterables)
        if not columns:
            raise ConfigError("map() needs at least one iterable of arguments, as the built-in map does")
        self._work = Work(label, total=_least_length(columns))
        self._part: tuple[Work | None, int, object] = (self._work, 1, None)
        self._inputs = zip(*columns, strict=False)
        self._function = function
        self._is_ordered = order == "input"
        self._returns_exceptions = return_exceptions
        self._window = window or DEFAULT_WINDOW
        self._is_window_given = window is not None
        self._paced_at = time.monotonic()
        self._given_out = 0  # results since then
        self._is_exhausted = False
        self._input_error: Exception | None = None
        self._pending: set[Call[Any]] = set()
        self._pending_bytes = 0
        self._in_order: deque[Call[Any]] = deque()
        self._arrivals = _Arrivals()
        self._process = os.getpid()
        self._begin()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            for _ in self._reading():
                continue
            if not self._pending:
                self._raise_input_error()
                raise StopIteration
            if not self._is_ordered:
                self._check_process()
                self._arrivals.wait()
            return self._outcome_of(self._due())
        except KeyboardInterrupt:
            for call in self._pending:
                call._interrupt()
                break
            self.close()
            raise
        except BaseException:
            self.close()
            raise

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            for _ in self._reading():
                await asyncio.sleep(0)  # other tasks, and whatever arrives, get their turn between two inputs
            if not self._pending:
                self._raise_input_error()
                raise StopAsyncIteration
            if self._is_ordered:
                await self._in_order[0].settled()
            else:
                self._check_process()
                await self._arrivals.arrived()
            return self._outcome_of(self._due())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancel what is queued and running; the iteration is over."""
        self._is_exhausted = True
        self._work.complete()
        self._input_error = None
        pending, self._pending = self._pending, set()
        self._in_order.clear()
        for call in pending:
            call.cancel()

    def __del__(self) -> None:
        if "_arrivals" in self.__dict__:  # else the constructor refused its arguments
            self.close()

    def _begin(self) -> None:
        """Begin calls before anybody iterates, unless the inputs take long."""
        ends_at = time.monotonic() + _FIRST_READING_S
        try:
            while self._has_room():
                self._read_input()
                if time.monotonic() >= ends_at:
                    break
        except BaseException:  # settings that allow no call at all; or Ctrl-C
            self.close()
            raise

    def _reading(self) -> Iterator[None]:
        """Read inputs, one a step, until the window is full or a result is ready."""
        has_read = False
        while self._has_room() and not (has_read and self._is_ready()):
            self._read_input()
            has_read = True
            yield

    def _check_process(self) -> None:
        """Refuse to wait, in a forked child, for calls that arrive in its parent only."""
        if os.getpid() != self._process and not self._arrivals.are_some():
            for call in self._pending:
                call._check_process()

    def _is_ready(self) -> bool:
        if self._is_ordered:
            return bool(self._in_order) and self._in_order[0].done()
        return self._arrivals.are_some()

    def _has_room(self) -> bool:
        if self._is_exhausted or len(self._pending) >= self._window:
            return False
        return self._pending_bytes <= _WINDOW_BYTES or len(self._pending) < _LARGE_WINDOW

    def _read_input(self) -> None:
        try:
            arguments = next(self._inputs)
        except StopIteration:
            self._is_exhausted = True
            self._work.complete()
            return
        except Exception as error:  # noqa: BLE001 - the user's own inputs; results of those before come first
            self._is_exhausted, self._input_error = True, error
            self._work.complete()
            return
        token = part.set(self._part)
        try:
            call = self._function(*arguments)
        except Exception as error:  # noqa: BLE001 - pickling runs the user's classes
            if isinstance(error, FlashPluginsError) and not isinstance(error, PayloadError):
                self._is_exhausted, self._input_error = True, error  # no other input would fare better
                if not self._pending:
                    self._raise_input_error()
                return
            call = Call(endpoint_name="", function_name="", number=0)
            call._settle(error)  # takes its place among the results
        finally:
            part.reset(token)
        self._pending.add(call)
        self._pending_bytes += call.payload_bytes
        if self._is_ordered:
            self._in_order.append(call)
        else:
            # Not a method of ours: calls that fly would keep this iterator, which ends them when it is dropped.
            Future.add_done_callback(call, self._arrivals.note)

    def _due(self) -> Call[Any]:
        """Return the call whose result is next, which has ended or will be waited for."""
        return self._in_order[0] if self._is_ordered else self._arrivals.first()

    def _outcome_of(self, call: Call[Any]) -> T:
        try:
            outcome: T = call.result()
        except Exception as error:  # whatever the function raised
            if not self._returns_exceptions:
                if isinstance(error, (StopIteration, StopAsyncIteration)):  # would end the iteration as if it were over
                    raise RuntimeError(f"{call!r} raised {type(error).__name__}") from error
                raise
            outcome = error  # type: ignore[assignment]
        self._pending.remove(call)
        self._pending_bytes -= call.payload_bytes
        if self._is_ordered:
            self._in_order.popleft()
        else:
            self._arrivals.take()
        if not self._is_window_given:
            self._keep_pace()
        return outcome

    def _keep_pace(self) -> None:
        """Fit the window to how fast results are taken."""
        self._given_out += 1
        seconds = time.monotonic() - self._paced_at
        if seconds >= _PACE_S:
            self._window = min(max(DEFAULT_WINDOW, int(self._given_out / seconds * _AHEAD_S)), _MOST_WINDOW)
            self._paced_at += seconds
            self._given_out = 0

    def _raise_input_error(self) -> None:
        error, self._input_error = self._input_error, None
        if error is not None:
            raise error


class Mappable(Generic[T]):
    """Something that is called once for each item: what `map` of functions, bound functions and methods share."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Call[Any]:
        """Make one call."""
        raise NotImplementedError

    def _repeated(self) -> Callable[..., Call[Any]]:
        """Return what makes many calls, one after another."""
        return self

    def _label(self) -> str:
        """Return the name of what is called, for progress displays."""
        return str(getattr(self, "__name__", type(self).__name__))

    def map(
        self,
        *iterables: Iterable[Any],
        order: Order = "input",
        return_exceptions: bool = False,
        window: int | None = None,
    ) -> MapIterator[T]:
        """Call the function for each item, as the built-in `map` does, and iterate the results.

        The function is taken as it is at the first call, with all that it refers to; arguments as they are when they
        are taken. Calls begin at once; inputs are taken lazily, never more than `window` ahead of what was consumed, so
        they may be endless. Leaving the iteration early cancels what is queued and running.

        Args:
            iterables: One for each positional parameter; the shortest ends the map.
            order: `input`, or `completed`: as results come.
            return_exceptions: Yield exceptions in place of results instead of raising the first.
            window: Most calls ahead; default 400, or as many as ended in the last second, up to 5,000.

        Raises:
            ConfigError: An option has no such value, or there is no iterable.
        """
        return MapIterator(
            self._repeated(),
            iterables,
            order=order,
            return_exceptions=return_exceptions,
            window=window,
            label=self._label(),
        )


def _least_length(iterables: Iterable[Iterable[Any]]) -> int | None:
    """Return how many items the shortest has, as far as all of them tell."""
    try:
        return min(len(iterable) for iterable in iterables)  # type: ignore[arg-type]
    except TypeError:
        return None


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
        if (wake_consumer := self._wake_consumer) is not None:
            wake_consumer()

    def are_some(self) -> bool:
        """Return whether a call has ended."""
        return bool(self._ended)

    def first(self) -> Call[Any]:
        """Return the first of the calls that have ended."""
        return self._ended[0]

    def take(self) -> None:
        """Remove the first."""
        self._ended.popleft()

    def wait(self) -> None:
        """Wait until some call has ended."""
        with self._changed:
            while not self._ended:
                self._changed.wait()

    async def arrived(self) -> None:
        """As `wait`, in a coroutine."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        self._wake_consumer = lambda: wake(loop, changed.set)
        try:
            while not self._ended:
                await changed.wait()
                changed.clear()
        finally:
            self._wake_consumer = None
