# SPDX-License-Identifier: Apache-2.0
"""A call that was made: a `concurrent.futures.Future` that can also be awaited and cancelled while it runs.

The thread that ends a call, by its outcome or by cancelling, only changes its state and wakes who waits. No lock
is held meanwhile, and users' callbacks run elsewhere: neither can a callback hold up a `cancel()`, nor two
callbacks that cancel one another's calls each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .. import code
from ..errors import (
    FlashPluginsError,
    JobCancelled,
    PayloadError,
    PlatformUnavailable,
    ResultLost,
    UnpicklableError,
    WaitTimeout,
)
from ..failure import decode_exception
from ..objects.codec import is_packed
from ..payload import Outcome
from .threads import wake

if TYPE_CHECKING:
    from ..objects.space import Lease, ObjectSpace
    from ..work import Work
    from .lane import Submission

__all__ = ["Call"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: States in which a call has its outcome, as `concurrent.futures` names them.
_DONE = frozenset({"CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED"})

#: Held for a moment to make the condition of a call, or to end one that has none.
_making = threading.Lock()

#: Seconds of waiting after which it is worth a request to find out why there is no outcome.
_PATIENT_S = 1.0


class Call(Future[T], Coroutine[Any, Any, T], Generic[T]):
    """One call of a decorated function.

    Wait with `result(timeout)`, `await`, `concurrent.futures.wait`/`as_completed`, `asyncio.gather` or
    `asyncio.create_task`. The value is unpickled in the thread that asks for it first.

    Attributes:
        endpoint_name: Name of the endpoint that runs it.
        function_name: Qualified name of the called function.
        number: Number of the call in this process, from 1.
        job_id: The platform's id of its job, None until known.
        worker_id: The worker that ran it, None until done.
        worker_pid: Process id, on that worker, of the process that ran it.
        execution_s: Seconds of the worker's own compute time, None until done.
        payload_bytes: Size of its pickled arguments.
        attempts: How many there were so far, from 1; job and worker are those of the last one.
        work: What it is part of, None for a call on its own.
        tasks: How many tasks of the user's it carries.
        name: What messages call it, by its `str`; None for its number and function.
    """

    work: Work | None = None
    tasks = 1
    name: object = None

    def __init__(self, *, endpoint_name: str, function_name: str, number: int, payload_bytes: int = 0) -> None:
        # What `Future` begins with, but for the condition: that takes longer than all else, and few calls need one.
        self._made_condition: threading.Condition | None = None
        self._state = "PENDING"
        self._result = None
        self._exception = None
        self._waiters = []
        self._done_callbacks: list[Any] = []
        self.endpoint_name = endpoint_name
        self.function_name = function_name
        self.number = number
        self.payload_bytes = payload_bytes
        self.attempts = 1
        self.job_id: str | None = None
        self.worker_id: str | None = None
        self.worker_pid: int | None = None
        self.execution_s: float | None = None
        self._process = os.getpid()
        self._waits: dict[object, Coroutine[Any, Any, T]] = {}  # by task
        self._submission: Submission | None = None
        self._decoding = threading.Lock()
        self._cancelled_once = threading.Lock()  # taken by the first who cancels, for good
        self._outcome: Outcome | None = None  # as it arrived, until somebody asks for the value
        self._decoded: tuple[bool, Any] | None = None
        self._run_callback: Callable[[Callable[[], object]], object] = _at_once  # a session has a thread for them
        self._release: Callable[[str], object] | None = None  # the name of its endpoint, once it is done
        self._held: Lease | None = None  # the objects that it was sent with
        self._objects: Callable[[], ObjectSpace] | None = None  # where those of its result are
        self._result_lease: Lease | None = None  # those of its result, until it is decoded
        self._streamed: Outcome | None = None  # on an endpoint that streams: the result, or the end of the values

    if not TYPE_CHECKING:  # to type checkers it is the attribute that `Future` has

        @property
        def _condition(self) -> threading.Condition:
            """What those who wait need, made for the first of them."""
            if (made := self._made_condition) is None:
                with _making:
                    if (made := self._made_condition) is None:
                        made = self._made_condition = threading.Condition()
            return made

    def done(self) -> bool:
        """Return whether the call has its outcome, or was cancelled."""
        return self._state in _DONE

    def cancelled(self) -> bool:
        """Return whether the call was cancelled."""
        return self._state in ("CANCELLED", "CANCELLED_AND_NOTIFIED")

    def set_result(self, result: Any) -> None:
        """As `Future.set_result`; nobody is woken where nobody waits."""
        with _making:
            is_alone = self._made_condition is None and self._state == "PENDING"
            if is_alone:
                self._result, self._state = result, "FINISHED"
        if not is_alone:
            super().set_result(result)
        self._give_back_name()

    def set_exception(self, exception: BaseException | None) -> None:
        """As `Future.set_exception`."""
        super().set_exception(exception)
        self._give_back_name()

    def _give_back_name(self) -> None:
        """Let the endpoint's name go: the call is done."""
        release, self._release = self._release, None
        if release is not None:
            release(self.endpoint_name)

    def __repr__(self) -> str:
        job = f" job {self.job_id}" if self.job_id else ""
        name = f"Call {self.number} of {self.function_name}()" if self.name is None else self.name
        return f"<{name} on {self.endpoint_name!r}{job}: {self._state_word()}>"

    @property
    def title(self) -> str:
        """What messages say was called: its name, or its function."""
        return f"{self.function_name}()" if self.name is None else str(self.name)

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
        if not super().cancel():
            return False
        if self._cancelled_once.acquire(blocking=False):
            self._give_back_name()
            self.set_running_or_notify_cancel()  # wakes `concurrent.futures.wait` too
            if (submission := self._submission) is not None:  # taken once: the loop may let go of it meanwhile
                submission.cancel()
            else:
                self._let_go()  # no lane has it, and none will
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
        if self.done():
            super().add_done_callback(fn)
            return

        def run() -> None:
            try:
                fn(self)
            except BaseException:  # users' code, which may raise SystemExit: other callbacks must run nevertheless
                logger.exception("a done-callback of %r failed", self)

        super().add_done_callback(lambda _: self._run_callback(run))

    def send(self, value: Any) -> Any:
        """Part of the coroutine protocol, so that `asyncio.create_task(f(x))` and `TaskGroup` take a call."""
        return self._drive(lambda coroutine: coroutine.send(value))

    def throw(self, *error: Any) -> Any:
        """Part of the coroutine protocol, as `send`."""
        kind = error[0] if isinstance(error[0], type) else type(error[0])
        if issubclass(kind, asyncio.CancelledError) and _running_task() not in self._waits:
            self.cancel()  # its task was cancelled before it took a step
        return self._drive(lambda coroutine: coroutine.throw(*error))

    def close(self) -> None:
        """Part of the coroutine protocol, as `send`: ends a wait, not the call."""
        if (coroutine := self._waits.pop(_running_task(), None)) is not None:
            coroutine.close()

    def _drive(self, step: Callable[[Coroutine[Any, Any, T]], Any]) -> Any:
        """Take a step of the wait that the running task has on this call: several tasks may wait for one call."""
        task = _running_task()
        if task not in self._waits:
            self._waits[task] = self._awaited()
        try:
            return step(self._waits[task])
        except BaseException:  # StopIteration with the value among them: this wait is over
            self._waits.pop(task, None)
            raise

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

        super().add_done_callback(lambda _: wake(loop, finish))
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
        if self._state == "FINISHED":
            return
        self._check_process()
        try:
            super().exception(timeout)
        except CancelledError:
            raise JobCancelled(f"{self._words()} was cancelled", job_id=self.job_id) from None
        except TimeoutError:
            raise WaitTimeout(
                f"{self._words()} had no outcome after {timeout:g} s ({self._state_word()}{self._delay(timeout)}); it "
                "goes on: wait longer or .cancel() it"
            ) from None
        except KeyboardInterrupt:
            self._interrupt()
            raise
        except BaseException as error:
            if not isinstance(error, Exception):  # the waiting code itself is ended, as on a worker: nobody waits now
                self.cancel()
            raise

    def _interrupt(self) -> None:
        """Ctrl-C was pressed while somebody waited for this call."""
        if (submission := self._submission) is not None:
            submission.interrupt()

    def _decode(self) -> tuple[bool, Any]:
        """Return (True, value) or (False, exception), made once; what arrived is kept until that has succeeded."""
        with self._decoding:
            if self._decoded is None:
                error = self._exception
                if error is None and self._outcome is not None:
                    self._decoded = self._decode_outcome(self._outcome)
                else:
                    self._decoded = (False, error)
                self._outcome = None
            return self._decoded

    def _settle(self, outcome: Outcome | BaseException) -> None:
        """Give the call its outcome, unless it was cancelled meanwhile. What it was sent with is let go."""
        self._submission = None
        self._let_go()
        if self.done():
            if isinstance(outcome, Outcome):
                self._drop_objects(outcome.result)
            return
        try:
            if isinstance(outcome, Outcome) and outcome.result is not None:
                self._result_lease = self._take_objects(outcome.result)
        except PayloadError as missing:  # they are not there any more
            outcome = self._gone_objects(missing)
        except FlashPluginsError as error:
            outcome = error
        try:
            if isinstance(outcome, BaseException):
                self.set_exception(outcome)
            else:
                self._outcome = outcome
                self.set_result(cast(T, None))  # `result` is ours: it unpickles
        except InvalidStateError:  # cancelled in this moment
            self._outcome = None

    def _let_go(self) -> None:
        """Let go of the objects that it was sent with, or would have been."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def _restart(self) -> bool:
        """Get ready for another attempt; False if what the last one brought was seen. Loop thread."""
        return True

    def _begin_job(self) -> None:
        """Forget what an earlier job of this call sent. Loop thread."""
        self._streamed = None

    def _receive(self, outcome: Outcome) -> None:
        """Take what an endpoint that streams sent: of this call one thing, its result. Loop thread."""
        if outcome.chunk is None:
            self._streamed = outcome

    def _complete(self, collected: Iterable[Outcome]) -> Outcome:
        """Return what ends the call, with the help of what the platform collected of it. Loop thread.

        Raises:
            ResultLost: It did not arrive.
        """
        if self._streamed is None:
            for outcome in collected:
                self._receive(outcome)
        if self._streamed is None:
            raise self._lost("the result")
        return self._streamed

    def _decode_outcome(self, outcome: Outcome) -> tuple[bool, Any]:
        if outcome.failure is not None:
            return False, decode_exception(outcome.failure)
        if outcome.ended:
            return False, UnpicklableError(
                f"{self.title} returned a generator, which cannot travel; make it a generator function "
                "itself (a `yield` in its own body) to stream, or return a list"
            )
        taken, self._result_lease = self._result_lease, None
        try:
            return True, code.loads(outcome.result or b"", fetch=None if taken is None else taken.space)
        except Exception as error:  # noqa: BLE001 - unpickling runs the user's classes; it becomes the outcome
            return False, self._not_unpickled(error, "the result")
        finally:
            if taken is not None:
                taken.release()  # what is mapped stays

    def _take_objects(self, data: bytes) -> Lease | None:
        """Hold the objects of what arrived, None if it has none.

        Raises:
            PayloadError: One is not there.
            StoreError: The store cannot be used.
        """
        if not is_packed(data) or self._objects is None:
            return None
        return self._objects().take(data)

    def _drop_objects(self, data: bytes | None) -> None:
        """Let the objects of something that arrived go: nobody wants it."""
        if data is not None and is_packed(data) and self._objects is not None:
            self._objects().drop(data)

    def _gone_objects(self, missing: PayloadError) -> ResultLost:
        lost = ResultLost(
            f"the result of {self._words()} is not in the store of large objects any more ({missing}): too much was "
            "stored since, or the store was emptied; repeat the call",
            job_id=self.job_id,
        )
        lost.__cause__ = missing
        return lost

    def _not_unpickled(self, error: Exception, what: str) -> Exception:
        with contextlib.suppress(Exception):  # the user's class may refuse attributes
            error.add_note(f"raised here while {what} of {self.title} was unpickled")
        return error

    def _lost(self, what: str) -> ResultLost:
        return ResultLost(
            f"{what} of {self._words()} was lost on the way: the platform gives out once what is streamed, and an "
            "answer of it did not arrive; repeat the call",
            job_id=self.job_id,
        )

    def _words(self) -> str:
        job = f" (job {self.job_id})" if self.job_id else ""
        name = f"call {self.number} of {self.function_name}()" if self.name is None else self.name
        return f"{name} on endpoint {self.endpoint_name!r}{job}"

    def _delay(self, waited_s: float | None) -> str:
        """Return why it waits, as part of a sentence; asked only for somebody who was patient."""
        submission = self._submission
        if submission is None or waited_s is None or waited_s < _PATIENT_S:
            return ""
        reason = submission.delay()
        return "" if reason is None else f"; {reason}"

    def _state_word(self) -> str:
        if self.cancelled():
            return "cancelled"
        if self.done():
            return "done"
        return "sent to the platform" if self.running() else "waiting here to be sent"


def _start_anew() -> None:
    """In a forked child whoever held the lock does not exist."""
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_start_anew)


def _at_once(action: Callable[[], object]) -> None:
    action()


def _running_task() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None
