# SPDX-License-Identifier: Apache-2.0
"""Results of a batch that go to the platform before the batch has ended, as chunks of its job.

The outcome of the job has all of them again, so a chunk may be lost without harm; hence nothing here fails a job. A
batch of many short calls ends before its first chunk is due, or costs few.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

from ..payload import Outcome, encode_bytes, encoded_size
from ..platforms import api
from .progress import Progress, records_of

__all__ = ["Early", "Post", "SdkPost"]

logger = logging.getLogger(__name__)

#: Seconds until the first chunk of a job is due, and between two: a held request brings each to the caller.
_FIRST_S, _EVERY_S = 0.25, 0.4
#: A job that seems to end within this many seconds sends no more chunks.
_SOON_S = 0.2
#: Bytes of a chunk, with room for what JSON adds.
_CHUNK_BYTES = int(api.STREAM_CHUNK_MAX_BYTES * 0.9)
#: Longest time that the end of a job waits for its last chunk: an order that the service may count on.
_LAST_CHUNK_S = 1.0

#: Sends a chunk of a job: its id, and the outcome so far.
Post = Callable[[str, dict[str, Any]], Awaitable[None]]


class Early:
    """Sends what is new of one batch, paced. Used from one event loop.

    Args:
        post: What sends a chunk; None where nothing does.
    """

    def __init__(self, post: Post | None, job_id: str, progress: Progress) -> None:
        self._post = post
        self._job_id = job_id
        self._progress = progress
        self._sent = 0
        self._is_return_sent = False
        self._next_at = asyncio.get_running_loop().time() + _FIRST_S
        self._posting: asyncio.Task[None] | None = None

    def send_what_is_due(self) -> None:
        """Begin to send a chunk if there is something new and it is time. What is given back goes at once."""
        if self._post is None or (self._posting is not None and not self._posting.done()):
            return
        progress = self._progress
        is_return_new = bool(progress.returned) and not self._is_return_sent
        is_new = is_return_new or len(progress.entries) > self._sent
        now = asyncio.get_running_loop().time()
        if progress.running is None or not is_new or (now < self._next_at and not is_return_new):
            return  # where no call runs the outcome of the job is about to go
        if not is_return_new and progress.left_s() < _SOON_S:
            return
        self._next_at = now + _EVERY_S
        chunk = self._chunk()
        self._is_return_sent = bool(progress.returned)
        self._posting = asyncio.create_task(self._send(chunk))

    async def settle(self) -> None:
        """Wait until a chunk that is on its way has been taken."""
        if self._posting is not None and not self._posting.done():
            await asyncio.wait({self._posting}, timeout=_LAST_CHUNK_S)

    async def _send(self, chunk: dict[str, Any]) -> None:
        assert self._post is not None
        try:
            await self._post(self._job_id, chunk)
        except Exception as error:  # noqa: BLE001 - whatever somebody else's client raises, the outcome has it again
            logger.warning("results of job %s could not be sent before its end: %s", self._job_id, error)

    def _chunk(self) -> dict[str, Any]:
        """Return what is new as far as it fits; what is too large alone comes with the end of the job."""
        packed: list[bytes] = []
        records: list[dict[str, Any]] = []
        size = 0
        for entry in self._progress.entries[self._sent :]:
            more = encoded_size(len(entry.packed)) + len(entry.records)
            if size + more > _CHUNK_BYTES and size > 0:
                break
            self._sent += 1
            if more <= _CHUNK_BYTES:
                size += more
                packed.append(entry.packed)
                records += records_of(entry)
        outcome = Outcome(records=records, returned=self._progress.returned, worker=os.environ.get("RUNPOD_POD_ID"))
        return {**outcome.encode(), **({"results": encode_bytes(b"".join(packed))} if packed else {})}


class SdkPost:
    """Sends chunks by the official SDK's own function, which an endpoint of generator functions uses, too.

    The one that the SDK calls for those exists in 1.12 and in 2.0; it tries three times, and logs a failure.

    Raises:
        ImportError: This SDK has no such function; results then come with the end of a job.
        LookupError: The platform named no address for chunks.
    """

    def __init__(self) -> None:
        from runpod.http_client import AsyncClientSession
        from runpod.serverless.modules.rp_http import stream_result

        if "RUNPOD_WEBHOOK_POST_STREAM" not in os.environ:
            raise LookupError("RUNPOD_WEBHOOK_POST_STREAM is not set")
        self._new_session = AsyncClientSession
        self._stream_result = stream_result
        self._session: asyncio.Future[Any] | None = None
        self._holding: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def __call__(self, job_id: str, chunk: dict[str, Any]) -> None:
        """Send one chunk."""
        async with self._turn:  # the SDK puts the job's id into the headers of the session
            if self._holding is None or self._holding.done():
                self._session = asyncio.get_running_loop().create_future()
                self._holding = asyncio.create_task(self._hold(self._session))
            assert self._session is not None
            await self._stream_result(await self._session, {"output": chunk}, {"id": job_id})

    async def _hold(self, opened: asyncio.Future[Any]) -> None:
        """Keep one session until the loop ends, which cancels this and so closes it."""
        try:
            async with self._new_session() as session:
                opened.set_result(session)
                await asyncio.Event().wait()
        except Exception as error:  # noqa: BLE001 - whatever somebody else's client raises: who waits is told
            if not opened.done():
                opened.set_exception(error)
