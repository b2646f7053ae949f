# SPDX-License-Identifier: Apache-2.0
"""The calls of a load-balanced worker: begun once each, however often they are sent, and kept until they are fetched.

    POST ──► begin ──► waits its turn ──► runner ──► chunks, outcome ──► kept ◄── answers to POST and GET
              │            └─ not begun when its request must be answered: given back, the caller sends it again
              └─ the caller goes away before the answer, or does not ask for a long time: cancelled

It knows no HTTP (see `callapp`) and runs nothing itself (see `runner`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from typing import Any, Final

from .. import binary
from ..exchange import CallAnswer, CallState
from .link import CALL, DONE, pack
from .running import RunningJob
from .supervisor import RunnerProcess

__all__ = ["CallRunner", "Calls", "Kept"]

logger = logging.getLogger(__name__)

#: Key of what a call ends with whose process has ended: how that was.
_LOST: Final = "lost"
#: Seconds that a call goes on, and its outcome is kept, while nobody asks.
ABSENT_S = 300.0
#: Seconds that an outcome is kept once it was sent, in case that answer got lost; and how many, of how many bytes.
_SENT_KEPT_S = 60.0
_SENT_KEPT = 1_000
_SENT_KEPT_BYTES = 64_000_000
#: Seconds between two looks at what is to be given up.
_SWEEP_S = 5.0
#: Yielded values that may wait to be fetched: how many, and bytes, beside one of any size.
_CHUNKS_AHEAD = 64
_CHUNKS_AHEAD_BYTES = 8_000_000


class CallRunner(RunnerProcess):
    """A runner whose end is the end of the calls in it, not of the worker: no platform would run them again."""

    async def call(self, job_id: str, content: Any) -> Any:
        """As `RunnerProcess.call`, for what is no batch: without a task and a queue, which take time of each call."""
        job = _RunningCall(job_id)
        await self._slots.acquire()
        self._jobs[job_id] = job
        try:
            writer = self._writer or await self._attached()
            writer.write(pack((CALL, job_id, content)))
            del content
            job.began_at = asyncio.get_running_loop().time()
            return await job.answer
        except asyncio.CancelledError:
            self._cancel(job)
            raise
        finally:
            if job.ended.is_set():
                self._release(job)
            else:  # its place is taken until it has stopped
                self._spawn(self._release_later(job))

    async def _release_later(self, job: RunningJob) -> None:
        await job.ended.wait()
        self._release(job)

    def _release(self, job: RunningJob) -> None:
        del self._jobs[job.id]
        self._slots.release()

    @property
    def _takes_steps(self) -> bool:
        return False  # nobody makes a call again from here: it may have done what must not be done twice

    def _end_worker(self, reason: str, code: int) -> None:
        logger.error("the process that runs calls %s; running calls: %s", reason, ", ".join(self._jobs) or "none")
        for job in list(self._jobs.values()):
            job.deliver(DONE, {_LOST: f"the process that ran it {reason}"})


class _RunningCall(RunningJob):
    """A call that runs, and what it is answered with."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, None, None)
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def deliver(self, kind: str, content: Any) -> None:
        """Take a frame of the runner."""
        if kind == DONE:
            if not self.answer.done():
                self.answer.set_result(content)
            self.ended.set()
            self.news.set()


class Kept:
    """One call."""

    def __init__(self, call_id: str, run_id: str, now: float) -> None:
        self.id = call_id
        self.run_id = run_id
        self.is_begun = False
        self.end: CallAnswer | None = None
        self.sent_at: float | None = None  # what ended it
        self.askers = 0
        self.asked_at = now
        self.task: asyncio.Task[None] | None = None
        self._chunks: deque[bytes] = deque()
        self._first = 0
        self._bytes = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._room = asyncio.Event()

    def has_news(self, after: int) -> bool:
        """Return whether there is something to answer to somebody who has what was yielded before the place `after`."""
        return self.end is not None or self._first + len(self._chunks) > after

    def forget_before(self, after: int) -> None:
        """Let go of the values before the place `after`, which have arrived."""
        while self._chunks and self._first < after:
            self._bytes -= len(self._chunks.popleft())
            self._first += 1
        self._room.set()

    def answer(self) -> CallAnswer:
        """Return what there is, as much as one answer should carry."""
        chunks: list[bytes] = []
        size = 0
        for chunk in self._chunks:
            if chunks and size + len(chunk) > _CHUNKS_AHEAD_BYTES:
                break
            chunks.append(chunk)
            size += len(chunk)
        end = self.end
        is_all = len(chunks) == len(self._chunks)
        if end is None or not is_all or (chunks and size + _size(end) > _CHUNKS_AHEAD_BYTES):
            return CallAnswer(CallState.ACCEPTED, first=self._first, chunks=chunks)
        return CallAnswer(end.state, end.reason, first=self._first, chunks=chunks, outcome=end.outcome)

    async def add(self, chunk: bytes) -> None:
        """Take a yielded value; waits while too many were not fetched."""
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self.notify()
        while len(self._chunks) >= _CHUNKS_AHEAD or (self._bytes > _CHUNKS_AHEAD_BYTES and len(self._chunks) > 1):
            self._room.clear()
            await self._room.wait()

    def finish(self, end: CallAnswer) -> None:
        """Take what ends the call; the first counts."""
        if self.end is None:
            self.end = end
            self.notify()

    def notify(self) -> None:
        """Wake whoever waits for news."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            _wake(waiter)

    async def changed(self, timeout_s: float) -> None:
        """Wait for news, or for as long as this."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiters.append(waiter)
        timer = loop.call_later(timeout_s, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()


class Calls:
    """The calls of one worker. Used from one event loop.

    Args:
        runner: Runs them.
        concurrency: How many run at once; further ones wait in order.
    """

    def __init__(self, runner: RunnerProcess, *, concurrency: int) -> None:
        self._runner = runner
        self._slots = asyncio.Semaphore(concurrency)
        self._kept: dict[str, Kept] = {}
        self._runs = itertools.count()
        self._sweeping: asyncio.TimerHandle | None = None
        self._sent: deque[Kept] = deque()  # the latest last
        self._sent_bytes = 0

    def begin(self, call_id: str, content: bytes, *, streams: bool, limit_s: float | None) -> Kept:
        """Return a call of this id, begun now unless there is one that was not cancelled."""
        loop = asyncio.get_running_loop()
        kept = self._kept.get(call_id)
        if kept is not None and (kept.end is None or kept.end.state is not CallState.CANCELLED):
            return kept
        kept = self._kept[call_id] = Kept(call_id, f"{call_id}.{next(self._runs)}", loop.time())
        kept.task = loop.create_task(self._run(kept, content, streams=streams, limit_s=limit_s))
        if self._sweeping is None:
            self._sweeping = loop.call_later(_SWEEP_S, self._sweep)
        return kept

    def find(self, call_id: str) -> Kept | None:
        """Return the call of an id."""
        return self._kept.get(call_id)

    def give_back(self, kept: Kept) -> bool:
        """Forget a call that was not begun; False if it was, or if somebody else asks for it."""
        if kept.is_begun or kept.end is not None or kept.askers:
            return False
        self.cancel(kept)
        self._drop(kept)
        return True

    def cancel(self, kept: Kept) -> None:
        """Stop a call, waiting or running; nothing if it has ended."""
        kept.finish(CallAnswer(CallState.CANCELLED))
        if kept.task is not None:
            kept.task.cancel()

    async def _run(self, kept: Kept, content: bytes, *, streams: bool, limit_s: float | None) -> None:
        try:
            async with self._slots:
                kept.is_begun = True
                async with asyncio.timeout(limit_s):
                    if not streams:
                        kept.finish(_end_of(await self._runner.call(kept.run_id, content)))
                        return
                    async with contextlib.aclosing(self._runner.stream(kept.run_id, content)) as answers:  # type: ignore[type-var]  # a generator
                        async for answer in answers:
                            if isinstance(answer, bytes) and "chunk" in binary.head_of(answer):
                                await kept.add(answer)
                            else:
                                kept.finish(_end_of(answer))
        except TimeoutError:
            kept.finish(CallAnswer(CallState.TIMED_OUT, f"it ran for {limit_s:g} s"))
        except Exception as error:  # a bug of ours: the caller must not wait for ever
            logger.exception("call %s failed in its worker", kept.id)
            kept.finish(CallAnswer(CallState.FAILED, f"{error!r} in flash_plugins.worker; please report it"))
        finally:
            kept.finish(CallAnswer(CallState.CANCELLED))

    def note_sent(self, kept: Kept) -> None:
        """Note that the caller was sent what ended a call: it is kept for a while, in case it did not arrive."""
        if kept.sent_at is not None or kept.end is None:
            return
        kept.sent_at = asyncio.get_running_loop().time()
        self._sent.append(kept)
        self._sent_bytes += _size(kept.end)
        while len(self._sent) > _SENT_KEPT or self._sent_bytes > _SENT_KEPT_BYTES:
            self._drop_oldest()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._sent and now - (self._sent[0].sent_at or 0.0) > _SENT_KEPT_S:
            self._drop_oldest()
        for kept in list(self._kept.values()):
            absent_s = 0.0 if kept.askers else now - kept.asked_at
            if absent_s > ABSENT_S and kept.sent_at is None:
                if kept.end is None:
                    logger.warning("call %s is stopped: nobody has asked for it for %.0f s", kept.id, absent_s)
                self.cancel(kept)
                self._drop(kept)
        self._sweeping = loop.call_later(_SWEEP_S, self._sweep) if self._kept else None

    def _drop_oldest(self) -> None:
        kept = self._sent.popleft()
        self._sent_bytes -= _size(kept.end)
        self._drop(kept)

    def _drop(self, kept: Kept) -> None:
        if self._kept.get(kept.id) is kept:
            del self._kept[kept.id]


def _size(end: CallAnswer | None) -> int:
    return 0 if end is None or end.outcome is None else len(end.outcome)


def _end_of(answer: Any) -> CallAnswer:
    """Return what a runner's answer means."""
    if isinstance(answer, bytes):
        return CallAnswer(CallState.DONE, outcome=answer)
    if isinstance(answer, dict) and _LOST in answer:
        return CallAnswer(CallState.LOST, str(answer[_LOST]))
    if isinstance(answer, dict) and "error" in answer:
        return CallAnswer(CallState.FAILED, str(answer["error"]))
    return CallAnswer(CallState.LOST, "the process that should have run it was replaced")  # a cancelled one has ended


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
