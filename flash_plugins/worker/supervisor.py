# SPDX-License-Identifier: Apache-2.0
"""The runner process as the job loop sees it: calls in, answers out, cancelled and replaced when it must be.

    job loop's task ── call/stream ──► slot ──CALL──► runner        one slot per call that may run at once
         ▲  └ cancelled: SIGUSR2 or CANCEL, again and again, then SIGKILL
         └── answers queue ◄── CHUNK, DONE ──────────┘

A runner that dies takes the worker with it: the platform sees a lost worker and gives its jobs to another,
a bounded number of times. One that was killed, or ended itself, for a cancelled call is replaced, and so is one that
ran nothing but batches whose journals say what was done: those jobs are answered with that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from ..payload import Outcome, is_envelope
from ..platforms import api
from ..steps import Board
from .early import Early, Post
from .exits import CrashReport, Exit, Kills
from .handback import HandBack
from .journal import clean, path_of
from .link import CALL, CANCEL, CREDIT, DONE, NEWS, pack, read_frame
from .progress import Progress
from .runner import CANCELLED_EXIT_CODE
from .running import RunningJob, limit_of, worker_id

__all__ = ["RunnerProcess"]

logger = logging.getLogger(__name__)

#: Seconds a cancelled call may go on before its process is killed, and between two attempts to tell it.
CANCEL_GRACE_S = 5.0
_CANCEL_REPEAT_S = 0.2
#: Seconds in which an answer is sent before its worker ends.
_SENDING_S = 1.0
#: Why a call was stopped whose time is limited.
_OVER_LIMIT = "ran longer than its limit"
#: Seconds between looks at what has come of a batch.
_LOOK_S = 0.1
#: A batch that ends within so many seconds gives nothing back.
_SOON_S = 1.0
#: Seconds to wait for the last frames of a runner that has ended, in case somebody else holds its socket open.
_LAST_FRAMES_S = 0.5


class RunnerProcess:
    """Runs calls in a process beside the job loop. Used from one event loop; the constructor needs none.

    Args:
        concurrency: How many calls run at once.
        hand_back: When waiting work is given back to its caller.
    """

    def __init__(self, concurrency: int, *, hand_back: HandBack | None = None) -> None:
        self._concurrency = concurrency
        self._hand_back = hand_back or HandBack()
        self._cache_folder = Path(os.environ[api.CACHE_DIR_ENV])
        clean(self._cache_folder)
        #: Sends results of a batch before its end, once there is something that can.
        self.post: Post | None = None
        self._slots = asyncio.Semaphore(concurrency)
        self._jobs: dict[str, RunningJob] = {}
        #: Jobs that run or wait, where those may be given back.
        self._held: list[RunningJob] = []
        self._tasks: set[asyncio.Task[None]] = set()
        #: Those of the loop that have an answer which they may still be sending.
        self._answering: set[asyncio.Task[Any]] = set()
        self._attaching = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        #: What a process leaves behind that dies.
        self._board = Board()
        self._crash = CrashReport()
        self._kills = Kills()
        #: Why the process is being killed by us, None unless it is.
        self._killed_for: str | None = None
        self._start()

    async def call(self, job_id: str, content: Any) -> Any:
        """Run one call and return its answer. Cancelling the awaiting task cancels the call."""
        may_be_batch = not isinstance(content, bytes)
        progress = Progress.of(path_of(self._cache_folder, job_id), content) if may_be_batch else None
        if progress is not None and progress.has_begun:  # by a worker that died: what it did is not done again
            logger.warning("job %s was begun by a worker that is lost; it is answered with what that has done", job_id)
            _after_this_task(progress.close)
            return progress.answer_of_dead("the worker that ran it was lost")
        job = self._begin(job_id, content, progress)
        if progress is not None:  # kept until the SDK has sent the outcome; one that is cancelled is still needed
            _after_this_task(lambda: progress.close() if job.ended.is_set() else None)
        try:
            while True:
                kind, answer = await job.answers.get()
                if kind == DONE:
                    if job.early is not None:
                        await job.early.settle()
                    self._note_answering()
                    return answer
        except asyncio.CancelledError:
            self._cancel(job)
            raise

    def _note_answering(self) -> None:
        if (task := asyncio.current_task()) is not None:
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def stream(self, job_id: str, content: Any) -> AsyncIterator[Any]:
        """Run one call; yields its chunks as they come, then its answer if that is not None.

        Cancelling the task cancels the call.
        """
        job = self._begin(job_id, content, None)
        # The SDK is cancelled while it posts a chunk, outside this generator, which would then never hear of it.
        _after_this_task(lambda: self._cancel(job))
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
        fds = [theirs.fileno(), self._board.fd, self._crash.fd]
        # Blocked until the runner has its handler: a cancel that comes earlier must not kill it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flash_plugins.worker.runner", str(os.getpid()), *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._socket = ours

    def _begin(self, job_id: str, content: Any, progress: Progress | None) -> RunningJob:
        job = RunningJob(job_id, limit_of(content), progress)
        job.occupation = self._spawn(self._occupy(job, content))
        waiting_max, wait_s = self._hand_back.waiting_max, self._hand_back.wait_s
        if (waiting_max is None and wait_s is None) or not is_envelope(content):
            return job
        self._held = [one for one in self._held if not one.ended.is_set()]
        is_full = len(self._held) >= self._concurrency
        is_too_many = waiting_max is not None and len(self._held) >= self._concurrency + waiting_max
        self._held.append(job)
        if wait_s is not None:
            if is_full:
                asyncio.get_running_loop().call_later(wait_s, self._give_back_unbegun, job)
            return job
        if is_full and (is_too_many or self.is_held_up):
            self._give_back(job)
        elif is_full:
            self._spawn(self._watch_waiting(job))
        return job

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _occupy(self, job: RunningJob, content: Any) -> None:
        """Hold a slot from the start of a call until the runner is done with it, cancelled or not."""
        async with self._slots:
            self._jobs[job.id] = job
            try:
                writer = await self._attached()
                writer.write(pack((CALL, job.id, content)))
                job.began_at = asyncio.get_running_loop().time()
                if job.progress is not None:
                    job.early = Early(self.post, job.id, job.progress)
                    await self._attend(job, job.progress, job.early)
                await job.ended.wait()
            except Exception as error:  # a bug of ours: the job must end all the same
                job.deliver(DONE, {"error": f"flash_plugins.worker failed internally: {error!r}; please report it"})
                logger.exception("job %s could not be handed to the runner", job.id)
            finally:
                del self._jobs[job.id]
                if job.is_cancelled and job.progress is not None:
                    job.progress.close()  # made, maybe, after the cancelled task had ended

    async def _attend(self, job: RunningJob, progress: Progress, early: Early) -> None:
        """Follow a batch: send what comes of it, give back what waits too long, stop a call that takes too long."""
        while not job.ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.news.wait(), _LOOK_S)
            job.news.clear()
            if job.is_cancelled:
                return
            progress.look()
            running = progress.running
            if running is None:
                continue
            for_s = progress.running_for_s()
            if not progress.returned and running + 1 < progress.count and self._takes_long(progress):
                progress.stop()
            if progress.limit_s is not None and for_s > progress.limit_s and not progress.is_limited:
                progress.limit()
                if progress.is_limited:
                    self._spawn(self._insist(job, _has_passed(job, progress, running), _OVER_LIMIT))
            early.send_what_is_due()

    def _takes_long(self, progress: Progress) -> bool:
        """Return whether what a batch has not begun should go back."""
        rules = self._hand_back
        if progress.running_for_s() > rules.after_s:
            return True
        return progress.has_run_s() > rules.batch_s and progress.left_s() > _SOON_S

    @property
    def is_held_up(self) -> bool:
        """Whether all slots are taken by calls so long that what waits for one is given back."""
        running = self._jobs.values()
        is_full = len(running) >= self._concurrency
        return is_full and all(job.running_for_s() > self._hand_back.after_s for job in running)

    async def _watch_waiting(self, job: RunningJob) -> None:
        """Give a job back that waits for a slot, once everything that runs takes long."""
        while not job.ended.is_set() and not job.is_cancelled and job.id not in self._jobs:
            if self.is_held_up:
                self._give_back(job)
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.ended.wait(), _LOOK_S)

    def _give_back_unbegun(self, job: RunningJob) -> None:
        """Give a job back that has waited for long, unless what it waits for is being stopped: so it was handed out."""
        is_waiting = not job.ended.is_set() and not job.is_cancelled and job.id not in self._jobs
        if is_waiting and not any(one.is_cancelled for one in self._jobs.values()):
            self._give_back(job)

    def _give_back(self, job: RunningJob) -> None:
        assert job.occupation is not None
        job.occupation.cancel()
        count = 1 if job.progress is None else job.progress.count
        job.deliver(DONE, Outcome(returned=tuple(range(count)), worker=worker_id()).encode())

    async def _limit(self, job: RunningJob, limit_s: float) -> None:
        """Stop a call that is not one of a batch when it has run too long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(job.ended.wait(), limit_s)
        if not job.ended.is_set() and not job.is_cancelled:
            job.is_over_limit = True
            await self._insist(job, job.ended.is_set, _OVER_LIMIT)

    def _cancel(self, job: RunningJob) -> None:
        """Stop a call wherever it is; nothing if it has ended."""
        if job.ended.is_set() or job.is_cancelled:
            return
        job.is_cancelled = True
        if self._jobs.get(job.id) is not job:
            assert job.occupation is not None
            job.occupation.cancel()  # still waiting for a slot
            return
        self._spawn(self._insist(job, job.ended.is_set, "was cancelled"))

    async def _insist(self, job: RunningJob, has_stopped: Callable[[], bool], why: str) -> None:
        """Tell the runner until it has stopped the call: it may not even have read of it yet. Then kill it."""
        deadline = asyncio.get_running_loop().time() + CANCEL_GRACE_S
        while not has_stopped():
            if asyncio.get_running_loop().time() > deadline:
                if job.is_over_limit and not self._are_known(job):
                    job.deliver(DONE, {})  # the worker ends, and nobody should run it again
                    await asyncio.sleep(_SENDING_S)
                self._kill_for(job, why)
                return
            if job.is_cancelled and job.progress is not None:
                job.progress.cancel()
            if self._concurrency > 1 and self._writer is not None:
                self._writer.write(pack((CANCEL, job.id, None)))
            elif self._concurrency == 1 and self._process.poll() is None:
                self._process.send_signal(signal.SIGUSR2)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.ended.wait(), _CANCEL_REPEAT_S)

    def _kill_for(self, job: RunningJob, why: str) -> None:
        logger.error("job %s still runs %g s after it %s; its process is killed", job.id, CANCEL_GRACE_S, why)
        if not self._are_known(job):  # the platform gives the others to another worker
            self._end_worker(f"is killed for a call that {why} and did not stop", 1)
        self._killed_for = f"was killed, as a call of it {why} and did not stop"
        self._process.kill()

    def _are_known(self, job: RunningJob) -> bool:
        """Return whether all calls that run beside a job are of batches: what was done of them is known."""
        return all(one.survives for one in self._jobs.values() if one is not job)

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
        exited: asyncio.Future[Exit] = loop.create_future()

        def wait_for_exit() -> None:
            end = Exit.wait(process)
            if not loop.is_closed():
                loop.call_soon_threadsafe(exited.set_result, end)

        threading.Thread(target=wait_for_exit, name="flash-runner-exit", daemon=True).start()
        reading = asyncio.create_task(self._read(reader))
        waiting: set[asyncio.Future[Any]] = {reading, exited}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        is_cut_off = not exited.done()
        if is_cut_off:  # it has closed its end, or sent what nobody can read
            await asyncio.wait({exited}, timeout=_LAST_FRAMES_S)  # or it is about to end by itself
            is_cut_off = not exited.done()
            process.kill()
        end = await exited
        await asyncio.wait({reading}, timeout=_LAST_FRAMES_S)
        reading.cancel()
        if self._answering:  # what the process finished before: the end of the worker must not cost it
            await asyncio.wait(self._answering, timeout=_SENDING_S)
        reason = end.describe(was_out_of_memory=self._kills.were())
        if is_cut_off:
            reason = "closed its connection to the worker, as code that closes all files does, and was killed"
        self._replace(end.code, reason)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (frame := await read_frame(reader)) is not None:
            kind, job_id, content = frame
            if (job := self._jobs.get(job_id)) is None:
                continue
            if kind != NEWS:
                job.deliver(kind, content)
            elif job.progress is not None:
                job.news.set()
            elif job.limit_s is not None:
                self._spawn(self._limit(job, job.limit_s))

    def _replace(self, code: int, reason: str) -> None:
        jobs = list(self._jobs.values())
        if self._takes_steps:
            for job in jobs:
                job.last_step = self._board.read()
        was_told = all(job.is_cancelled or job.is_over_limit or job.survives for job in jobs)
        was_cancelled = self._concurrency == 1 and code == CANCELLED_EXIT_CODE and was_told
        reason, crash = self._killed_for or reason, self._crash.take()
        if crash:
            sys.stderr.write(f"{crash}\n")  # the worker's log has it, too
        if self._killed_for is None and not was_cancelled:
            if jobs and all(job.survives for job in jobs):
                self._say(reason, "another one is started")
            else:
                self._end_worker(reason, code)
        self._killed_for = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._start()
        for job in jobs:
            job.die(f"the process that runs calls {reason}", crash)

    @property
    def _takes_steps(self) -> bool:
        """Whether calls may say how far they are: more than one at once would write on one board."""
        return self._concurrency == 1

    def _end_worker(self, reason: str, code: int) -> None:
        self._say(reason)
        os._exit(128 - code if code < 0 else code or 1)

    def _say(self, *what: str) -> None:
        running = ", ".join(self._jobs) or "none"
        told = "; ".join(what)
        sys.stderr.write(f"flash_plugins.worker: the process that runs calls {told}; running jobs: {running}\n")
        sys.stderr.flush()


def _after_this_task(then: Callable[[], None]) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda _: then())


def _has_passed(job: RunningJob, progress: Progress, index: int) -> Callable[[], bool]:
    """Return what tells whether a call of a batch no longer runs."""

    def look() -> bool:
        progress.look()
        return job.ended.is_set() or progress.running != index

    return look
