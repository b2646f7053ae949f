# SPDX-License-Identifier: Apache-2.0
"""Tells webhooks about finished jobs. It never delays a job and gives up after the documented tries."""

from __future__ import annotations

import asyncio
import logging
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from .. import api
from .clock import Clock
from .jobs import Job

__all__ = ["Webhooks"]

_LOG = logging.getLogger(__name__)

#: Webhooks called at the same time, and waiting for that; one more is dropped with a warning.
_PARALLEL = 4
_BACKLOG_MAX = 10_000
#: Seconds one call may take.
_CALL_TIMEOUT_S = 10.0


class Webhooks:
    """Posts final jobs to the URLs their submitters gave. Belongs to one event loop.

    The standard library's blocking client in a few threads is enough: it is imported already, and no
    local developer is called back a thousand times a second.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._threads = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="webhook")
        self._calls: set[asyncio.Task[None]] = set()

    def job_ended(self, job: Job) -> None:
        """Call the job's webhook, if it has one."""
        if job.webhook is None:
            return
        if len(self._calls) >= _BACKLOG_MAX:
            _LOG.warning("webhook of job %s is not called: %d wait already", job.id, _BACKLOG_MAX)
            return
        call = asyncio.ensure_future(self._deliver(job.id, job.webhook, job.to_json()))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def close(self) -> None:
        """Drop the calls that have not been made."""
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _deliver(self, job_id: str, url: str, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        for attempt in range(1 + api.WEBHOOK_RETRIES):
            if attempt:
                await self._pause(api.WEBHOOK_RETRY_DELAY_S)
            outcome = await loop.run_in_executor(self._threads, _post, url, body)
            if outcome == "200":
                return
        _LOG.warning("webhook of job %s failed %d times: %s: %s", job_id, attempt + 1, url, outcome)

    async def _pause(self, seconds: float) -> None:
        done = asyncio.Event()
        self._clock.call_later(seconds, done.set)
        await done.wait()


def _post(url: str, body: bytes) -> str:
    """Return the status of one call, or why there is none."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=_CALL_TIMEOUT_S) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return str(error.code)
    except (OSError, ValueError) as error:
        return str(error)
