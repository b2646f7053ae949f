# SPDX-License-Identifier: Apache-2.0
"""A call that was made: a `concurrent.futures.Future` that can also be awaited and cancelled while it runs."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .. import code
from ..errors import JobCancelled, PlatformUnavailable, WaitTimeout
from ..failure import decode_exception
from ..payload import Outcome

if TYPE_CHECKING:
    from .lane import Submission

__all__ = ["Call", "StreamCall"]

T = TypeVar("T")


class Call(Future[T], Generic[T]):
    """One call of a decorated function.

    Wait with `result(timeout)`, `await`, `concurrent.futures.wait`/`as_completed` or `asyncio.gather`. The
    value is unpickled in the thread that asks for it first.

    Attributes:
        endpoint_name: Name of the endpoint that runs it.
        function_name: Qualified name of the called function.
        number: Number of the call in this process, from 1.
        job_id: The platform's id of its job, None until known.
        worker_id: The worker that ran it, None until done.
        worker_pid: Process id, on that worker, of the process that ran it.
        execution_s: Seconds of the worker's own compute time, None until done.
        payload_bytes: Size of its pickled arguments.
    """

    def __init__(self, *, endpoint_name: str, function_name: str, number: int, payload_bytes: int = 0) -> None:
        super().__init__()
        self.endpoint_name = endpoint_name
        self.function_name = function_name
        self.number = number
        self.payload_bytes = payload_bytes
        self.job_id: str | None = None
        self.worker_id: str | None = None
        self.worker_pid: int | None = None
        self.execution_s: float | None = None
        self._process = os.getpid()
        self._submission: Submission | None = None
        self._decoding = threading.Lock()
        self._cancelling = threading.RLock()  # its holder runs callbacks, which may cancel again
        self._outcome: Outcome | None = None  # as it arrived, until somebody asks for the value
        self._decoded: tuple[bool, Any] | None = None
        self._needs_delivery_thread = False
        self._last_outcome: Outcome | None = None  # of a stream: what came after its last value

    def __repr__(self) -> str:
        job = f" job {self.job_id}" if self.job_id else ""
        return f"<Call {self.number} of {self.function_name}() on {self.endpoint_name!r}{job}: {self._state_word()}>"

    def result(self, timeout: float | None = None) -> T:
        """Wait for the outcome and return the value, or raise what the function raised.

        Args:
            timeout: Seconds to wait; None waits until the platform has an outcome.

        Raises:
            WaitTimeout: `timeout` passed; the call goes on.
            JobCancelled: It was cancelled.
            FlashPluginsError: The call did not reach its end; the classes of `errors` tell how.
            BaseException: Whatever the function raised, of its own class, the remote traceback as its cause.
        """
        self._wait(timeout)
        is_value, outcome = self._decode()
        if is_value:
            return outcome  # type: ignore[no-any-return]
        raise outcome

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the outcome and return what the function raised, None if it returned.

        Raises:
            WaitTimeout: `timeout` passed; the call goes on.
            JobCancelled: It was cancelled.
        """
        self._wait(timeout)
        is_value, outcome = self._decode()
        return None if is_value else outcome

    def cancel(self) -> bool:
        """Cancel the call, queued or running; returns at once, False if it had another outcome already.

        The platform is told in the background: running code sees `CallCancelled`, and is killed if it goes on.
        """
        with self._cancelling:
            if self.done():
                return self.cancelled()
            if not super().cancel():
                return False
            self.set_running_or_notify_cancel()  # wakes `concurrent.futures.wait` too
        if (submission := self._submission) is not None:  # taken once: the loop may let go of it meanwhile
            submission.cancel()
        return True

    def running(self) -> bool:
        """Return whether the call was sent and is not done."""
        submission = self._submission
        return not self.done() and submission is not None and submission.is_sent

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(call)` once the call is done, in a thread that runs nothing but such callbacks.

        At once and here if it is done already. A callback may take its time and may make calls, but must not
        wait for one.
        """
        self._needs_delivery_thread = True
        super().add_done_callback(fn)

    def __await__(self) -> Generator[Any, None, T]:
        return self._awaited().__await__()

    async def settled(self) -> None:
        """Wait in a coroutine until the call is done, however it ended. Cancelling the wait cancels the call."""
        self._check_process()
        if self.done():
            return
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        def wake(_: object) -> None:
            try:
                loop.call_soon_threadsafe(finish)
            except RuntimeError:
                if not loop.is_closed():
                    raise  # the awaiting loop is gone: nobody waits any more

        super().add_done_callback(wake)
        try:
            await done
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def _awaited(self) -> T:
        await self.settled()
        return self.result()

    def _run_here(self, function: Callable[[], T]) -> None:
        """Give the call its outcome by running it now, in this thread."""
        try:
            value = function()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the outcome of the call
            self._decoded = (False, error)
        else:
            self._decoded = (True, value)
        self.set_result(cast(T, None))

    def _check_process(self) -> None:
        """Refuse to wait in a forked child: the outcome arrives in the process that made the call."""
        # Without the lock: the thread that held it when this process was forked does not exist here.
        if os.getpid() != self._process and self._state not in ("FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED"):
            raise PlatformUnavailable(
                f"{self._words()} was made by process {self._process}, from which this process {os.getpid()} was "
                "forked; its outcome arrives only there: wait for it there, or make the call again here"
            )

    def _wait(self, timeout: float | None) -> None:
        self._check_process()
        try:
            super().exception(timeout)
        except CancelledError:
            raise JobCancelled(f"{self._words()} was cancelled", job_id=self.job_id) from None
        except TimeoutError:
            raise WaitTimeout(
                f"{self._words()} had no outcome after {timeout:g} s ({self._state_word()}); it goes on: wait longer "
                "or .cancel() it"
            ) from None
        except KeyboardInterrupt:
            if (submission := self._submission) is not None:
                submission.interrupt()
            raise

    def _decode(self) -> tuple[bool, Any]:
        """Return (True, value) or (False, exception), made once."""
        with self._decoding:
            if self._decoded is None:
                error = super().exception()
                outcome, self._outcome = self._outcome, None
                if error is None and outcome is not None:
                    self._decoded = self._decode_outcome(outcome)
                else:
                    self._decoded = (False, error)
            return self._decoded

    def _settle(self, outcome: Outcome | BaseException) -> None:
        """Give the call its outcome, unless it was cancelled meanwhile. What it was sent with is let go."""
        with self._cancelling:
            self._submission = None
            if self.done():
                return
            if isinstance(outcome, BaseException):
                self.set_exception(outcome)
            else:
                self._outcome = outcome
                self.set_result(cast(T, None))  # `result` is ours: it unpickles

    def _decode_outcome(self, outcome: Outcome) -> tuple[bool, Any]:
        if outcome.failure is not None:
            return False, decode_exception(outcome.failure)
        try:
            return True, code.loads(outcome.result or b"")
        except Exception as error:  # noqa: BLE001 - unpickling runs the user's classes; it becomes the outcome
            error.add_note(f"raised here while the result of {self.function_name}() was unpickled")
            return False, error

    def _words(self) -> str:
        job = f" (job {self.job_id})" if self.job_id else ""
        return f"call {self.number} of {self.function_name}() on endpoint {self.endpoint_name!r}{job}"

    def _state_word(self) -> str:
        if self.cancelled():
            return "cancelled"
        if self.done():
            return "done"
        return "sent to the platform" if self.running() else "waiting here to be sent"


class StreamCall(Call[list[T]], Generic[T]):
    """A call of a generator function: iterate it, or `async for`, to get values as the worker yields them.

    One consumer. `result()` waits for the end and returns all values as a list.
    """

    def __init__(self, *, endpoint_name: str, function_name: str, number: int, payload_bytes: int = 0) -> None:
        super().__init__(
            endpoint_name=endpoint_name, function_name=function_name, number=number, payload_bytes=payload_bytes
        )
        self._chunks: deque[bytes] = deque()
        self._values: list[T] = []
        self._changed = threading.Condition()
        self._on_chunk: Callable[[], object] | None = None
        Future.add_done_callback(self, lambda _: self._notice_change())

    def __iter__(self) -> Iterator[T]:
        self._check_process()
        position = 0
        try:
            while True:
                with self._changed:
                    while not self._chunks and position == len(self._values) and not self.done():
                        self._changed.wait()
                self._unpickle_chunks()
                if position == len(self._values):
                    break
                yield self._values[position]
                position += 1
        except GeneratorExit:
            self.cancel()  # nobody will look at the rest
            raise
        except KeyboardInterrupt:
            if (submission := self._submission) is not None:
                submission.interrupt()
            raise
        self.result()

    async def __aiter__(self) -> AsyncIterator[T]:
        self._check_process()
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        self._on_chunk = lambda: loop.call_soon_threadsafe(changed.set)
        position = 0
        try:
            while True:
                while not self._chunks and position == len(self._values) and not self.done():
                    await changed.wait()
                    changed.clear()
                self._unpickle_chunks()
                if position == len(self._values):
                    break
                yield self._values[position]
                position += 1
        except (asyncio.CancelledError, GeneratorExit):
            self.cancel()
            raise
        finally:
            self._on_chunk = None
        self.result()

    def _add_chunk(self, chunk: bytes) -> None:
        """Take a yielded value that arrived. Loop thread."""
        self._chunks.append(chunk)
        self._notice_change()

    def _notice_change(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if (on_chunk := self._on_chunk) is not None:
            on_chunk()

    def _unpickle_chunks(self) -> None:
        with self._decoding:
            self._unpickle_locked()

    def _unpickle_locked(self) -> None:
        while self._chunks:
            self._values.append(code.loads(self._chunks.popleft()))  # type: ignore[arg-type]

    def _decode_outcome(self, outcome: Outcome) -> tuple[bool, Any]:
        if outcome.failure is not None:
            return False, decode_exception(outcome.failure)
        self._unpickle_locked()
        return True, list(self._values)
