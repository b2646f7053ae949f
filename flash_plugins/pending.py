# SPDX-License-Identifier: Apache-2.0
"""`Pending`: a request that is sent once somebody asks for its outcome, in a coroutine or not.

The work runs on the dispatcher's background loop, whoever asks, so `result()` holds up no loop that it needs itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import process
from .dispatcher.threads import wake
from .errors import ConfigError, PlatformUnavailable, WaitTimeout

if TYPE_CHECKING:
    from .dispatcher import Session

__all__ = ["Pending"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Pending(Coroutine[Any, Any, T], Generic[T]):
    """An operation that begins when its outcome is asked for: `await` it, or call `result()`.

    It is a coroutine for `asyncio.create_task`, `gather`, `wait_for` and `asyncio.run`. Asked for several times it
    runs once. Cancelling the task that awaits it cancels the request.

    Args:
        work: Does it, on the dispatcher's loop, with the process's connection to its platform.
        what: What it is, for messages, such as `run() of endpoint 'abc123'`.
        misuse: The message for somebody who uses it as a decorator, None where nobody would.
    """

    def __init__(self, work: Callable[[Session], Awaitable[T]], what: str, *, misuse: str | None = None) -> None:
        self._work = work
        self._what = what
        self._misuse = misuse
        self._beginning = threading.Lock()
        self._future: Future[T] | None = None
        self._process: int | None = None  # that began it
        self._is_closed = False
        self._wait: Coroutine[Any, Any, T] | None = None

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "not sent yet"
        if self._future is not None:
            state = "done" if self._future.done() else "under way"
        return f"<Pending {self._what}: {state}>"

    def result(self, timeout: float | None = None) -> T:
        """Do it, if nobody did yet, and return its outcome. For code without asyncio; works beside a running loop too.

        Args:
            timeout: Seconds to wait; None waits as long as the operation takes by its own limits.

        Raises:
            WaitTimeout: `timeout` passed; the operation goes on, and may be asked for again.
            CancelledError: It was cancelled, by `close()` or by a task that awaited it (`concurrent.futures`).
            Exception: Whatever the operation raises.
        """
        future = self._begin()
        if threading.current_thread().name == "flash-dispatcher":
            raise ConfigError(
                f"{self._what}: result() in the thread that does the work would wait for itself; await it"
            )
        try:
            future.exception(timeout)  # raises no outcome, so a TimeoutError is of this wait
        except CancelledError:
            raise CancelledError(f"{self._what} was cancelled") from None
        except TimeoutError:
            raise WaitTimeout(
                f"{self._what} has no outcome after {timeout:g} s; it goes on: ask again, or close() it"
            ) from None
        except KeyboardInterrupt:
            future.cancel()
            raise
        return future.result()

    def close(self) -> None:
        """Do not send it, or cancel it; also part of the coroutine protocol."""
        self._is_closed = True
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.close()
        if self._future is not None:
            self._future.cancel()

    def send(self, value: Any) -> Any:
        """Part of the coroutine protocol, so that `asyncio.create_task` takes one."""
        if self._wait is None:
            self._wait = self._awaited()
        return self._wait.send(value)

    def throw(self, *error: Any) -> Any:
        """Part of the coroutine protocol, as `send`."""
        if self._wait is None:
            self._wait = self._awaited()
            if self._future is None:
                self._is_closed = True  # its task was cancelled before the first step: nothing is to be sent
        return self._wait.throw(*error)

    def __await__(self) -> Generator[Any, None, T]:
        return self._awaited().__await__()

    def __call__(self, function: F) -> F:
        """Refuse to be a decorator. Its type says otherwise, as that of `Endpoint.get` is both this and a decorator.

        Raises:
            TypeError: Always; nothing is sent.
        """
        self.close()
        raise TypeError(self._misuse or f"{self._what} is a request, not a function: await it or call .result()")

    def __del__(self) -> None:
        if getattr(self, "_future", None) is None and not getattr(self, "_is_closed", True):
            if sys.is_finalizing():
                return
            warnings.warn(
                f"{self._what} was never awaited: await it or call .result()", RuntimeWarning, stacklevel=2, source=self
            )

    def _begin(self) -> Future[T]:
        if self._process not in (None, os.getpid()) and not (self._future is not None and self._future.done()):
            raise PlatformUnavailable(
                f"{self._what} was begun by process {self._process}, from which this process {os.getpid()} was forked; "
                "its outcome arrives only there: wait for it there, or make a new one here"
            )
        with self._beginning:
            if self._future is None:
                if self._is_closed:
                    raise RuntimeError(f"{self._what} was closed before it was sent; make a new one")
                session = process.session()
                self._future = session.perform(lambda: self._work(session))
                self._process = os.getpid()
            return self._future

    async def _awaited(self) -> T:
        future = self._begin()
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        future.add_done_callback(lambda _: wake(loop, finish))
        try:
            await done
        except asyncio.CancelledError:
            future.cancel()
            raise
        if future.cancelled():
            raise asyncio.CancelledError(f"{self._what} was cancelled")
        return future.result(0)
