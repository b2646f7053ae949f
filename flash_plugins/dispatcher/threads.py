# SPDX-License-Identifier: Apache-2.0
"""The two background threads of the dispatcher: an event loop, and deliveries that may run users' callbacks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from queue import SimpleQueue
from typing import Any, TypeVar

from .selector import OwnSelector

__all__ = ["BackgroundLoop", "DeliveryThread", "in_thread", "wake"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds to wait for a background thread to end.
_JOIN_TIMEOUT_S = 5.0


def wake(loop: asyncio.AbstractEventLoop, action: Callable[[], object]) -> None:
    """Run `action` on somebody's loop, soon. Any thread; nothing happens if the loop is gone: nobody waits there."""
    try:
        loop.call_soon_threadsafe(action)
    except RuntimeError:
        if not loop.is_closed():
            raise


def in_thread(work: Callable[[], T]) -> tuple[asyncio.Future[T], threading.Thread]:
    """Run `work` in a thread of its own; the loop's pool takes nothing once the main thread has ended. Loop thread."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            with contextlib.suppress(InvalidStateError):  # nobody waits any more
                done.set_exception(error)

    thread = threading.Thread(target=run, name="flash-connect", daemon=True)
    thread.start()
    return asyncio.wrap_future(done), thread


class BackgroundLoop:
    """An event loop in a daemon thread. `post` may be called from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.SelectorEventLoop(OwnSelector())
        self._posted: deque[Callable[[], object]] = deque()
        self._is_woken = False
        self._is_stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="flash-dispatcher", daemon=True)
        self._thread.start()

    def post(self, action: Callable[[], object]) -> None:
        """Run `action` on the loop, after all that were posted before. A burst costs one wake-up."""
        self._posted.append(action)
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._drain)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine as a task that nobody awaits. Loop thread only; an exception of it is logged."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def call(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        """Run a coroutine on the loop and wait for it here.

        Raises:
            TimeoutError: It took longer; it is cancelled.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise

    async def cancel_tasks(self, *, grace_s: float = 0.0) -> None:
        """Give what `spawn` started some time to end, cancel the rest and wait until it has ended. Loop thread."""
        if self._tasks and grace_s > 0:
            await asyncio.wait(self._tasks, timeout=grace_s)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # each one's exception is logged by _forget

    def stop(self) -> None:
        """End the loop and its thread; tasks are cancelled first."""
        if not self._thread.is_alive():
            return
        self._is_stopping = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_JOIN_TIMEOUT_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            while not self._is_stopping:
                try:
                    self._loop.run_forever()
                except BaseException:  # asyncio lets SystemExit of a plugin out; every call of the process lives here
                    logger.exception("a task of flash_plugins ended its event loop, which goes on")
            self._loop.run_until_complete(self.cancel_tasks())
        finally:
            self._loop.close()

    def _drain(self) -> None:
        self._is_woken = False  # first: what is posted from here on wakes the loop again
        while self._posted:
            action = self._posted.popleft()
            try:
                action()
            except BaseException:  # whatever one action raised, the calls that were posted after it must not hang
                logger.exception("an action of flash_plugins failed")

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a background task of flash_plugins failed", exc_info=error)


class DeliveryThread:
    """Runs actions one after another in a daemon thread, so that users' callbacks hold up nobody.

    `post` may be called from any thread, also from a finalizer that interrupts another `post`.
    """

    def __init__(self) -> None:
        self._actions: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def post(self, action: Callable[[], object]) -> None:
        """Run `action` after all that were posted before; right here once the thread was stopped."""
        if self._is_stopped:
            _run_guarded(action)
            return
        self._actions.put(action)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="flash-delivery", daemon=True)
                    self._thread.start()

    def stop(self) -> None:
        """End the thread after what is queued."""
        self._is_stopped = True
        if self._thread is None or self._thread is threading.current_thread():
            return
        self._actions.put(None)
        self._thread.join(_JOIN_TIMEOUT_S)

    def _run(self) -> None:
        while (action := self._actions.get()) is not None:
            _run_guarded(action)


def _run_guarded(action: Callable[[], object]) -> None:
    try:
        action()
    except BaseException:  # users' code, which may raise SystemExit: the outcomes after it must be delivered
        logger.exception("delivering the outcome of a call failed")
