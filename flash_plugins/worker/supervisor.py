# SPDX-License-Identifier: Apache-2.0
"""The runner process as the job loop sees it: calls in, answers out, cancelled and replaced when it must be.

    job loop's task ── call/stream ──► slot ──CALL──► runner        one slot per call that may run at once
         ▲  └ cancelled: SIGUSR2 or CANCEL, again and again, then SIGKILL
         └── answers queue ◄── CHUNK, DONE ──────────┘

A runner that dies takes the worker with it: the platform sees a lost worker and gives its jobs to another,
a bounded number of times. One that was killed, or ended itself, for a cancelled call is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

from .link import CALL, CANCEL, CREDIT, DONE, pack, read_frame
from .runner import CANCELLED_EXIT_CODE

__all__ = ["RunnerProcess"]

logger = logging.getLogger(__name__)

#: Seconds a cancelled call may go on before its process is killed, and between two attempts to tell it.
CANCEL_GRACE_S = 5.0
_CANCEL_REPEAT_S = 0.2
#: Seconds to wait for the last frames of a runner that has ended, in case somebody else holds its socket open.
_LAST_FRAMES_S = 0.5


class RunnerProcess:
    """Runs calls in a process beside the job loop. Used from one event loop; the constructor needs none.

    Args:
        concurrency: How many calls run at once.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._jobs: dict[str, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._attaching = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._is_replacing = False
        self._start()

    async def call(self, job_id: str, content: Any) -> Any:
        """Run one call and return its answer. Cancelling the awaiting task cancels the call."""
        job = self._begin(job_id, content)
        try:
            while True:
                kind, answer = await job.answers.get()
                if kind == DONE:
                    return answer
        except asyncio.CancelledError:
            self._cancel(job)
            raise

    async def stream(self, job_id: str, content: Any) -> AsyncIterator[Any]:
        """Run one call; yields its chunks as they come, then its answer if that is not None.

        Cancelling the task cancels the call.
        """
        job = self._begin(job_id, content)
        task = asyncio.current_task()
        assert task is not None
        # The SDK is cancelled while it posts a chunk, outside this generator, which would then never hear of it.
        task.add_done_callback(lambda _: self._cancel(job))
        try:
            is_done = False
            while not is_done:
                kind, answer = await job.answers.get()
                is_done = kind == DONE
                if is_done and answer is None:
                    return  # a stream of plain values has nothing more to say
                yield answer
                if not is_done and self._writer is not None:
                    self._writer.write(pack((CREDIT, job_id, None)))
        finally:
            self._cancel(job)

    def _start(self) -> None:
        """Start the process; it gets ready while the caller goes on."""
        ours, theirs = socket.socketpair()
        # Blocked until the runner has its handler: a cancel that comes earlier must not kill it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flash_plugins.worker.runner", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._socket = ours

    def _begin(self, job_id: str, content: Any) -> _Job:
        job = _Job(job_id)
        job.occupation = self._spawn(self._occupy(job, content))
        return job

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _occupy(self, job: _Job, content: Any) -> None:
        """Hold a slot from the start of a call until the runner is done with it, cancelled or not."""
        async with self._slots:
            self._jobs[job.id] = job
            try:
                writer = await self._attached()
                writer.write(pack((CALL, job.id, content)))
                await job.ended.wait()
            except Exception as error:  # a bug of ours: the job must end all the same
                job.deliver(DONE, {"error": f"flash_plugins.worker failed internally: {error!r}; please report it"})
                logger.exception("job %s could not be handed to the runner", job.id)
            finally:
                del self._jobs[job.id]

    def _cancel(self, job: _Job) -> None:
        """Stop a call wherever it is; nothing if it has ended."""
        if job.ended.is_set() or job.is_cancelled:
            return
        job.is_cancelled = True
        if self._jobs.get(job.id) is not job:
            assert job.occupation is not None
            job.occupation.cancel()  # still waiting for a slot
            return
        self._spawn(self._insist(job))

    async def _insist(self, job: _Job) -> None:
        """Tell the runner until it has stopped the call: it may not even have read of it yet. Then kill it."""
        if self._concurrency > 1 and self._writer is not None:
            self._writer.write(pack((CANCEL, job.id, None)))
        deadline = asyncio.get_running_loop().time() + CANCEL_GRACE_S
        while not job.ended.is_set():
            if asyncio.get_running_loop().time() > deadline:
                self._kill_for(job)
                return
            if self._concurrency == 1 and self._process.poll() is None:
                self._process.send_signal(signal.SIGUSR2)
            try:
                await asyncio.wait_for(job.ended.wait(), _CANCEL_REPEAT_S)
            except TimeoutError:
                continue

    def _kill_for(self, job: _Job) -> None:
        logger.error("job %s still runs %g s after it was cancelled; its process is killed", job.id, CANCEL_GRACE_S)
        if self._concurrency > 1:  # other calls are in there: the platform gives them to another worker
            self._end_worker("is killed for a cancelled call that did not stop", 1)
        self._is_replacing = True
        self._process.kill()

    async def _attached(self) -> asyncio.StreamWriter:
        """Return the way to the runner, opened by the first of however many calls ask at once."""
        async with self._attaching:
            if self._writer is None:
                reader, self._writer = await asyncio.open_connection(sock=self._socket)
                self._spawn(self._follow(reader))
            return self._writer

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        """Pass answers on until the process has ended. The socket alone would not tell: others may hold it."""
        process = self._process
        loop = asyncio.get_running_loop()
        exited: asyncio.Future[int] = loop.create_future()

        def wait_for_exit() -> None:
            code = process.wait()
            if not loop.is_closed():
                loop.call_soon_threadsafe(exited.set_result, code)

        threading.Thread(target=wait_for_exit, name="flash-runner-exit", daemon=True).start()
        reading = asyncio.create_task(self._read(reader))
        waiting: set[asyncio.Future[Any]] = {reading, exited}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not exited.done():  # it has closed its end, or sent what nobody can read
            process.kill()
        code = await exited
        await asyncio.wait({reading}, timeout=_LAST_FRAMES_S)
        reading.cancel()
        self._replace(code)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (frame := await read_frame(reader)) is not None:
            kind, job_id, content = frame
            if (job := self._jobs.get(job_id)) is not None:
                job.deliver(kind, content)

    def _replace(self, code: int) -> None:
        was_cancelled = self._concurrency == 1 and code == CANCELLED_EXIT_CODE
        if not self._is_replacing and not was_cancelled:
            self._end_worker(_describe_exit(code), code)
        self._is_replacing = False
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._start()
        for job in list(self._jobs.values()):
            job.deliver(DONE, {})

    def _end_worker(self, reason: str, code: int) -> None:
        running = ", ".join(self._jobs) or "none"
        sys.stderr.write(f"flash_plugins.worker: the process that runs calls {reason}; running jobs: {running}\n")
        sys.stderr.flush()
        os._exit(128 - code if code < 0 else code or 1)


class _Job:
    """What came back for one call so far."""

    def __init__(self, job_id: str) -> None:
        self.id = job_id
        self.answers: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.is_cancelled = False
        self.occupation: asyncio.Task[None] | None = None

    def deliver(self, kind: str, content: Any) -> None:
        """Pass on a frame of the runner."""
        self.answers.put_nowait((kind, content))
        if kind == DONE:
            self.ended.set()


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    hint = " (killed from outside, most often for using too much memory)" if code == -signal.SIGKILL else ""
    return f"ended with signal {name}{hint}"
