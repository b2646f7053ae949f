# SPDX-License-Identifier: Apache-2.0
"""The job loop of a queue worker: the official `runpod` SDK takes jobs, a runner process runs them.

    platform ◄─HTTP─► runpod.serverless (this process) ◄─socket─► runner process (users' code)

A runner that dies takes the worker with it: the platform sees a lost worker and gives its jobs to another,
a bounded number of times. A runner that ignores a cancelled call is killed after a grace period and replaced.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

from ..errors import MissingDependencyError
from ..platforms import api
from .lifeline import tie_forked_children
from .link import pack, read_frame
from .runner import CALL, CANCEL, CANCELLED_EXIT_CODE, DONE

__all__ = ["RunnerProcess", "declared_concurrency", "serve"]

logger = logging.getLogger(__name__)

#: Seconds a cancelled call may go on before its process is killed.
CANCEL_GRACE_S = 5.0
#: Seconds to wait for a runner that was told to end by closing its socket.
_EXIT_GRACE_S = 2.0


def declared_concurrency(concurrency: int) -> int:
    """Return what to declare to the SDK for `concurrency` calls at once.

    The SDK counts a job just taken twice and sleeps a second when it believes itself full: with the true
    number it does one job a second (measured with 1.12.0 and 2.0.0rc2). The real limit is kept by a
    semaphore here, and by the local platform's cap.
    """
    return 4 * concurrency + 4


class RunnerProcess:
    """The runner as the job loop sees it. Used from one event loop, except for `start`."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._jobs: dict[str, _Job] = {}
        self._occupations: set[asyncio.Task[None]] = set()
        self._attaching = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._is_replacing = False
        self.start()

    def start(self) -> None:
        """Start the process; it gets ready while the caller goes on."""
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flash_plugins.worker.runner", str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._socket = ours

    async def call(self, job_id: str, content: Any) -> Any:
        """Run one call and return its answer."""
        job, occupation = self._begin(job_id, content)
        try:
            while True:
                kind, answer = await job.answers.get()
                if kind == DONE:
                    return answer
        except asyncio.CancelledError:
            self._cancel(job_id, occupation)
            raise

    async def stream(self, job_id: str, content: Any) -> AsyncIterator[Any]:
        """Run one call; yields its chunks as they come, then its answer."""
        job, occupation = self._begin(job_id, content)
        is_done = False
        try:
            while not is_done:
                kind, answer = await job.answers.get()
                is_done = kind == DONE
                yield answer
        finally:
            if not is_done:
                self._cancel(job_id, occupation)

    def _begin(self, job_id: str, content: Any) -> tuple[_Job, asyncio.Task[None]]:
        job = _Job()
        occupation = asyncio.create_task(self._occupy(job_id, content, job))
        self._occupations.add(occupation)
        occupation.add_done_callback(self._occupations.discard)
        return job, occupation

    async def _occupy(self, job_id: str, content: Any, job: _Job) -> None:
        """Hold a slot from the start of a call until the runner is done with it, cancelled or not."""
        async with self._slots:
            self._jobs[job_id] = job
            try:
                writer = await self._attached()
                writer.write(pack((CALL, job_id, content)))
                await job.ended.wait()
            except Exception as error:
                job.deliver(DONE, {"error": f"flash_plugins.worker failed internally: {error!r}; please report it"})
                raise
            finally:
                del self._jobs[job_id]

    def _cancel(self, job_id: str, occupation: asyncio.Task[None]) -> None:
        if job_id not in self._jobs:
            occupation.cancel()  # still waiting for a slot
            return
        if self._concurrency == 1:
            self._process.send_signal(signal.SIGUSR2)
        elif self._writer is not None:
            self._writer.write(pack((CANCEL, job_id, None)))
        asyncio.get_running_loop().call_later(CANCEL_GRACE_S, self._kill_if_running, job_id)

    def _kill_if_running(self, job_id: str) -> None:
        if job_id not in self._jobs:
            return
        logger.error("job %s still runs %g s after it was cancelled; its process is killed", job_id, CANCEL_GRACE_S)
        if self._concurrency > 1:  # other calls are in there: the platform gives them to another worker
            self._end_worker("was killed for a cancelled call that did not stop", 1)
        self._is_replacing = True
        self._process.kill()

    async def _attached(self) -> asyncio.StreamWriter:
        """Return the way to the runner, opened by the first of however many calls ask at once."""
        async with self._attaching:
            if self._writer is None:
                reader, self._writer = await asyncio.open_connection(sock=self._socket)
                self._reading = asyncio.create_task(self._read(reader))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (frame := await read_frame(reader)) is not None:
            kind, job_id, content = frame
            if (job := self._jobs.get(job_id)) is not None:
                job.deliver(kind, content)
        await self._ended()

    async def _ended(self) -> None:
        code = await asyncio.get_running_loop().run_in_executor(None, self._wait_for_exit)
        was_cancelled = self._concurrency == 1 and code == CANCELLED_EXIT_CODE
        if not self._is_replacing and not was_cancelled:
            self._end_worker(_describe_exit(code), code)
        self._is_replacing = False
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self.start()
        for job in list(self._jobs.values()):
            job.deliver(DONE, {})

    def _wait_for_exit(self) -> int:
        try:
            return self._process.wait(_EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _end_worker(self, reason: str, code: int) -> None:
        running = ", ".join(self._jobs) or "none"
        print_line = f"flash_plugins.worker: the process that runs calls {reason}; running jobs: {running}\n"
        sys.stderr.write(print_line)
        sys.stderr.flush()
        os._exit(128 - code if code < 0 else code or 1)


class _Job:
    """What came back for one call so far."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.ended = asyncio.Event()

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


def serve() -> None:
    """Serve jobs until told to stop. Reads the worker's environment; blocks in the main thread.

    Raises:
        MissingDependencyError: The official SDK is not installed.
    """
    tie_forked_children()
    concurrency = int(os.environ.get(api.MAX_CONCURRENCY_ENV, "1"))
    runner = RunnerProcess(concurrency)  # first, so that it starts while the SDK is imported

    async def call(job: dict[str, Any]) -> Any:
        return await runner.call(job["id"], job["input"])

    async def stream(job: dict[str, Any]) -> AsyncIterator[Any]:
        async for answer in runner.stream(job["id"], job["input"]):
            yield answer

    try:
        import runpod.serverless
    except ImportError as error:
        raise MissingDependencyError(
            f"a worker needs the official runpod package, and it cannot be imported ({error}); "
            "install it with: pip install 'flash-plugins[worker]'"
        ) from error
    streams = os.environ.get(api.HANDLER_ENV) == api.HANDLER_STREAMS
    declared = declared_concurrency(concurrency)
    runpod.serverless.start({"handler": stream if streams else call, "concurrency_modifier": lambda _current: declared})
