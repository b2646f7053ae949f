# SPDX-License-Identifier: Apache-2.0
"""The process of a worker that runs users' code: `python -m flash_plugins.worker.runner PARENT FDS`.

It is apart from the official job loop (see `queue`), so that user code has a main thread of its own
(signals, nested loky and `asyncio.run` work there), may block without stopping the loop, and can be killed.

    job loop ──frames──► main thread ─┬─ one call at a time: runs it right here
                                      └─ several: a pool of threads, one event loop for coroutines
    job loop ◄──frames── outcome (call, chunk, end)

Cancelling a call in the main thread is a SIGUSR2 that raises `CallCancelled` there; cancelling one of
several is a frame that cancels its coroutine, and threads cannot be interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import inspect
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import FrameType
from typing import Any

from .. import binary, code
from ..code import cargo
from ..errors import EnvelopeError
from ..failure import encode_exception
from ..payload import CallEnvelope, Outcome, check_size
from ..platforms import api
from ..steps import begin_call, open_board
from . import calling, capture, journal
from .batch import Batch
from .calling import CallCancelled, Drive
from .deployed import Deployed, is_plain
from .forms import CHUNK_REMEDY, Form, form_of
from .handshake import Handshake
from .lifeline import die_with_parent
from .link import CALL, CANCEL, CHUNK, CREDIT, DONE, NEWS, STREAMS, BlockingLink
from .plainjobs import PlainJobs
from .run import MissingBlobs, Prepared, Preparer
from .store import result_sink

__all__ = ["CANCELLED_EXIT_CODE", "Runner", "main"]

#: Exit code of a runner that was cancelled where its state would not survive an exception: it is to be replaced.
CANCELLED_EXIT_CODE = 75
#: Chunks of one call that may be on their way to the platform before the generator has to wait.
CHUNKS_AHEAD = 16
#: Seconds between looks at whether a call that waits was cancelled.
_LOOK_S = 0.1


class Runner:
    """Runs calls as they arrive.

    Args:
        link: Where calls come from and outcomes go to.
        preparer: What turns an envelope into a call.
        deployed: What turns plain JSON into a call.
        concurrency: How many calls run at once.
        worker_id: Named in every outcome.
        streams: Whether the job loop passes chunks on (endpoints of generator functions).
    """

    def __init__(
        self,
        link: BlockingLink,
        preparer: Preparer,
        deployed: Deployed,
        *,
        concurrency: int,
        worker_id: str | None,
        streams: bool,
    ) -> None:
        self._link = link
        self._preparer = preparer
        self._handshake = Handshake.of(os.environ)
        self._plain_jobs = PlainJobs(deployed, self._handshake, self._preparing)
        self._concurrency = concurrency
        self._worker_id = worker_id
        self._streams = streams
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        # One call at a time: what the signal handler must know of it.
        self._inline_job: str | None = None
        self._inline_task: asyncio.Task[Any] | None = None
        self._is_preparing = False
        self._is_at_link = False
        self._is_cancel_due = False
        self._cancelled: set[str] = set()
        self._batches: dict[str, Batch] = {}
        # Several at once.
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._credits: dict[str, threading.Semaphore] = {}

    def serve(self) -> None:
        """Run calls until the other end is gone. Must be called in the main thread."""
        signal.signal(signal.SIGUSR2, self._on_cancel_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        if self._concurrency == 1:
            while (frame := self._link.receive()) is not None:
                if frame[0] == CALL:
                    self._run_inline(frame[1], frame[2])
            return
        threading.Thread(target=self._loop.run_forever, name="flash-coroutines", daemon=True).start()
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="flash-call") as pool:
            while (frame := self._link.receive()) is not None:
                kind, job_id, content = frame
                if kind == CALL:
                    self._credits[job_id] = threading.Semaphore(CHUNKS_AHEAD)
                    pool.submit(self._run_in_thread, job_id, content)
                elif kind == CREDIT and (credit := self._credits.get(job_id)) is not None:
                    credit.release()
                elif kind == CANCEL and job_id in self._credits:
                    self._loop.call_soon_threadsafe(self._cancel_in_loop, job_id)
            os._exit(0)  # the worker is gone: nobody waits for what still runs

    def _run_inline(self, job_id: str, content: Any) -> None:
        def drive(coroutine: Any) -> Any:
            self._inline_task = self._loop.create_task(coroutine)
            try:
                return self._loop.run_until_complete(self._inline_task)
            finally:
                self._inline_task = None

        self._inline_job, self._is_cancel_due = job_id, False
        self._chunks_ahead = 0
        try:
            answer = self._answer(job_id, content, drive, inline=True)
        except CallCancelled:
            answer = {}  # the platform has ended the job already; nobody reads this
        finally:
            self._inline_job = None
            self._cancelled.discard(job_id)
            begin_call()  # what it said of its steps is not said of the next
        self._report(job_id, answer)

    def _run_in_thread(self, job_id: str, content: Any) -> None:
        def drive(coroutine: Any) -> Any:
            async def tracked() -> Any:
                task = asyncio.current_task()
                assert task is not None
                self._tasks[job_id] = task
                try:
                    return await coroutine
                finally:
                    del self._tasks[job_id]

            return asyncio.run_coroutine_threadsafe(tracked(), self._loop).result()

        try:
            answer = self._answer(job_id, content, drive, inline=False)
        except CallCancelled:
            answer = {}
        finally:
            del self._credits[job_id]
            self._cancelled.discard(job_id)
        self._report(job_id, answer)

    def _cancel_in_loop(self, job_id: str) -> None:
        batch = self._batches.get(job_id)
        if job_id not in self._credits:
            return  # it has ended meanwhile
        if batch is None:
            self._cancelled.add(job_id)
        elif not batch.shall_stop():
            return
        task = self._tasks.get(job_id)
        if task is not None and not task.cancelling():  # told again: what it does to tidy up is not disturbed
            task.cancel()

    def _report(self, job_id: str, answer: Any) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the call forked came back here: the call is its parent's
        self._link.send((DONE, job_id, answer))

    def _answer(self, job_id: str, content: Any, drive: Drive, *, inline: bool) -> Any:
        """Run one call and return what the job loop reports for it."""
        form, streams, is_job = form_of(content), self._streams, not isinstance(content, bytes)
        if isinstance(content, bytes):
            content = binary.unpack(content)
            streams = bool(content.get(STREAMS))
        elif is_plain(content):
            with capture.recording(inline=inline):
                send = functools.partial(self._send_chunk, job_id) if self._streams else None
                return self._plain_jobs.answer(job_id, content, drive, send=send)
        started = time.perf_counter()
        outcome = Outcome(worker=self._worker_id, pid=os.getpid())
        packages: Mapping[str, str] = {}
        is_batch = False
        prepared: Prepared | None = None
        with capture.recording(inline=inline) as recorder:
            try:
                envelope = CallEnvelope.decode(content)
                capture.follow_log_level(envelope.log_level)
                packages = envelope.packages
                begin_call(envelope.suspect)
                with self._preparing():
                    function = self._preparer.target(envelope)
                    if not envelope.batch:
                        prepared = Prepared(function, *self._preparer.arguments(envelope.args))
                self._handshake.warn(packages)
                if prepared is None:
                    outcome = self._run_batch(job_id, envelope, function, outcome, drive, inline=inline, is_job=is_job)
                    is_batch = True
                else:
                    if envelope.limit_s is not None:
                        self._tell(job_id)  # the limit is one of the call: it counts from here
                    outcome = self._make(job_id, prepared, outcome, drive, form, streams=streams)
            except MissingBlobs as missing:
                outcome = replace(outcome, missing=missing.digests)
            except CallCancelled:
                raise
            except BaseException as error:  # user code may raise anything, SystemExit included
                if isinstance(error, calling.CANCELLATIONS) and job_id in self._cancelled:
                    raise CallCancelled from error
                self._handshake.explain(error, packages, is_loading=prepared is None)
                outcome = replace(outcome, failure=encode_exception(error))
        records = [*recorder.records, *outcome.records]
        outcome = outcome.changed(records=records, seconds=time.perf_counter() - started)
        if is_batch and is_job:
            return outcome  # the job loop adds what is in the journal
        return form.encode(outcome)

    @contextlib.contextmanager
    def _preparing(self) -> Iterator[None]:
        """Have a cancel end the process: a module, or what is kept between calls, would be left half made."""
        self._is_preparing = True
        try:
            yield
        finally:
            self._is_preparing = False

    def _run_batch(
        self,
        job_id: str,
        envelope: CallEnvelope,
        function: Callable[..., Any],
        outcome: Outcome,
        drive: Drive,
        *,
        inline: bool,
        is_job: bool,
    ) -> Outcome:
        batch = Batch(
            envelope,
            function,
            preparer=self._preparer,
            handshake=self._handshake,
            journal_path=journal.path_of(self._preparer.folder, job_id) if is_job and not self._streams else None,
            drive=drive,
            inline=inline,
            tell=lambda: self._tell(job_id),
        )
        self._batches[job_id] = batch
        try:
            batch.run()
        finally:
            self._inline_job = None  # a signal that still comes is none for what follows
            del self._batches[job_id]
        return replace(
            outcome, results=batch.results, records=batch.records, returned=batch.returned, missing=batch.missing
        )

    def _make(
        self, job_id: str, call: Prepared, outcome: Outcome, drive: Drive, form: Form, *, streams: bool
    ) -> Outcome:
        value = calling.value_of(call.function, call.args, call.kwargs, drive)
        if calling.is_stream(value) and not streams:
            calling.refuse_stream(call.function)
        if inspect.isgenerator(value):
            return self._send_chunks(job_id, value, outcome, form)
        if inspect.isasyncgen(value):
            return self._send_chunks(job_id, calling.drained(value, drive), outcome, form)
        limit = form.chunk_max_bytes if streams else form.result_max_bytes
        return outcome.changed(result=calling.pickled(value, call.function, limit, size=form.size))

    def _send_chunks(self, job_id: str, values: Iterator[Any], outcome: Outcome, form: Form) -> Outcome:
        """Send what is yielded, no faster than it is taken; returns the outcome that ends the stream."""
        count, run = 0, secrets.token_hex(4)  # the caller tells a run of the job from another by its token
        for value in values:
            chunk = code.dumps(value, what="a yielded value", sink=result_sink()).data
            check_size(form.size(len(chunk)), form.chunk_max_bytes, "a yielded value", CHUNK_REMEDY)
            self._send_chunk(job_id, form.encode_chunk(Outcome(chunk=chunk, index=count, run=run)))
            count += 1
        return replace(outcome, ended=True, count=count, run=run)

    def _tell(self, job_id: str) -> None:
        """Say that there is something to be seen of a job."""
        if os.getpid() == self._pid:
            with self._at_link():
                self._link.send((NEWS, job_id, None))

    def _send_chunk(self, job_id: str, content: Any) -> None:
        if os.getpid() != self._pid:
            os._exit(0)
        self._await_credit(job_id)
        with self._at_link():
            self._link.send((CHUNK, job_id, content))

    def _await_credit(self, job_id: str) -> None:
        if self._concurrency > 1:
            while not self._credits[job_id].acquire(timeout=_LOOK_S):
                if job_id in self._cancelled:
                    raise CallCancelled
            return
        while self._chunks_ahead >= CHUNKS_AHEAD:
            with self._at_link():
                if self._link.receive_within(_LOOK_S) is not None:  # nothing but a credit comes amid a call
                    self._chunks_ahead -= 1
        self._chunks_ahead += 1

    @contextlib.contextmanager
    def _at_link(self) -> Iterator[None]:
        """Put a cancel off: raised amid a frame, it would leave half of it on the line."""
        self._is_at_link = True
        try:
            yield
        finally:
            self._is_at_link = False
        if self._is_cancel_due:
            self._is_cancel_due = False
            raise CallCancelled

    def _on_cancel_signal(self, _number: int, frame: FrameType | None) -> None:
        if self._inline_job is None or os.getpid() != self._pid:
            return  # it ended while the signal was on its way
        batch = self._batches.get(self._inline_job)
        if batch is not None and not batch.shall_stop():
            return  # meant for a call that has ended, or between two: what comes next is looked up there
        if self._is_preparing or _is_importing(frame):
            sys.stderr.flush()
            os._exit(CANCELLED_EXIT_CODE)
        if self._inline_task is not None:
            self._cancelled.add(self._inline_job)
            self._loop.call_soon_threadsafe(self._inline_task.cancel)
            return
        if batch is not None:
            raise CallCancelled
        self._inline_job = None  # once is enough: what it does to tidy up is not disturbed
        if self._is_at_link:
            self._is_cancel_due = True
            return
        raise CallCancelled


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _give_children_default_signals() -> None:
    """Let a child that user code forks be terminated, from its first moment: our handlers are not for it."""
    ours = {signal.SIGTERM, signal.SIGUSR2}
    masks: list[set[int]] = []

    def restore() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

    def reset_and_restore() -> None:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        restore()

    os.register_at_fork(
        before=lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ours)),
        after_in_parent=restore,
        after_in_child=reset_and_restore,
    )


def _deployed_here(preparer: Preparer) -> Deployed:
    """Return what was deployed with this worker's endpoint, and take it out of the environment of what calls start."""
    try:
        return Deployed(preparer, cargo.read(os.environ))
    except EnvelopeError as error:
        return Deployed(preparer, None, problem=str(error))
    finally:
        cargo.discard(os.environ)


def main() -> None:
    """Serve calls, as the environment says. Arguments: the parent's process, and file descriptors that it shares."""
    parent, fd, board, crash = map(int, sys.argv[1:])
    die_with_parent(parent)
    link = BlockingLink(socket.socket(fileno=fd))
    signal.signal(signal.SIGTERM, lambda *_: None)  # the job loop decides when to end: it closes the socket
    capture.install(native=True)
    faulthandler.enable(crash)  # the error of a lost worker shows where it crashed
    _give_children_default_signals()
    environ = os.environ
    preparer = Preparer.of(environ)
    concurrency = int(environ.get(api.MAX_CONCURRENCY_ENV, "1"))
    if concurrency == 1:
        open_board(board)
    runner = Runner(
        link,
        preparer,
        _deployed_here(preparer),
        concurrency=concurrency,
        worker_id=environ.get("RUNPOD_POD_ID"),
        streams=environ.get(api.HANDLER_ENV) == api.HANDLER_STREAMS,
    )
    runner.serve()


if __name__ == "__main__":
    main()
