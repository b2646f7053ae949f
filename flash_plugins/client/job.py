# SPDX-License-Identifier: Apache-2.0
"""`EndpointJob`: a submitted job, and the last that was heard of it; `JobStream`: what one yields."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..errors import ConfigError, JobCancelled, JobFailed, JobTimeout, WaitTimeout
from ..job import JobStatus
from ..pending import Pending

if TYPE_CHECKING:
    from ..dispatcher import Session
    from .endpoint import EndpointClient

__all__ = ["EndpointJob", "JobStream"]

logger = logging.getLogger(__name__)

#: Seconds until the first look at a job, the factor from one pause to the next, and the longest pause: those of
#: `runpod_flash` 1.21.
_FIRST_POLL_S = 0.25
_POLL_FACTOR = 1.5
_MAX_POLL_S = 5.0
#: Looks in a row that may get no answer.
_MAX_TRANSPORT_ERRORS = 5
#: A platform that answers `/stream` sooner than this, with nothing to say, does not hold it: seconds to wait then.
_UNHELD_PAUSE_S = 0.5
#: Seconds that the platform may hold `/stream`: the official 2.0 client allows 90, and a bit.
_STREAM_HOLD_S = 120.0

_pause = asyncio.sleep


class _HasClient(Protocol):
    @property
    def client(self) -> EndpointClient: ...


class EndpointJob:
    """A submitted job. What is known of it is what the platform said last: `status()` and `wait()` ask again.

        job = await Endpoint(id="abc123").run({"prompt": "hello"})
        await job.wait()                   # in a script without asyncio: job.wait().result()
        job.output

    Args:
        data: A job answer of the platform.
        endpoint: The endpoint that it was submitted to, or its client.
    """

    def __init__(self, data: Mapping[str, Any], endpoint: EndpointClient | _HasClient) -> None:
        self._data = dict(data)
        self._client = cast("EndpointClient", getattr(endpoint, "client", endpoint))

    def __repr__(self) -> str:
        return f"EndpointJob(id={self.id!r}, status={self._status!r})"

    @property
    def id(self) -> str:
        """The platform's id of it, empty if it gave none."""
        return str(self._data.get("id", ""))

    @property
    def output(self) -> Any:
        """What the handler returned, None until `status()` or `wait()` have seen the end."""
        return self._data.get("output")

    @property
    def error(self) -> Any:
        """The platform's words on why it failed, None while there are none."""
        return self._data.get("error")

    @property
    def done(self) -> bool:
        """Whether it was over when it was last looked at: completed, failed, cancelled or timed out."""
        return self._status in _TERMINAL

    def status(self) -> Pending[str]:
        """Ask about it; the outcome is its state, such as `IN_PROGRESS`, and `UNKNOWN` where the platform names none.

        Raises:
            ApiError: The platform refused; also a `httpx.HTTPStatusError` where httpx is imported.
        """
        return Pending(self._fetched, f"status() of job {self.id!r}")

    def cancel(self) -> Pending[EndpointJob]:
        """Cancel it, queued or running; the outcome is this job, brought up to date."""

        async def cancel(session: Session) -> EndpointJob:
            self._data.update(await self._client._job_answer(session, "cancel", self._known_id()))
            return self

        return Pending(cancel, f"cancel() of job {self.id!r}")

    def wait(self, timeout: float | None = None) -> Pending[EndpointJob]:
        """Wait until it is over, looked at after 0.25 s and then in pauses that grow to 5 s; the outcome is this job.

        Looks that get no answer are repeated. Whether the job succeeded, `error` and `status()` tell.

        Args:
            timeout: Seconds to wait; None waits until the platform says that it is over.

        Raises:
            TimeoutError: `timeout` passed, also while a look was under way; the job goes on.
            ApiError: The platform refused a look; also a `httpx.HTTPStatusError` where httpx is imported.
            PlatformError: Five looks in a row got no answer.
        """
        return Pending(lambda session: self._waited(session, timeout), f"wait() for job {self.id!r}")

    @property
    def _status(self) -> str:
        return str(self._data.get("status", "UNKNOWN"))

    def _known_id(self) -> str:
        if not self.id:
            raise ConfigError(f"{self!r}: the platform gave this job no id, so it cannot be asked about")
        return self.id

    async def _fetched(self, session: Session) -> str:
        self._data = await self._client._job_answer(session, "status", self._known_id())
        return self._status

    async def _waited(self, session: Session, timeout_s: float | None) -> EndpointJob:
        from ..platforms.runpod import TransportFailure

        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        interval_s, failures = _FIRST_POLL_S, 0
        while not self.done:
            left_s = None if ends_at is None else ends_at - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise self._late(timeout_s)
            try:
                async with asyncio.timeout(left_s) as limit:
                    await _pause(interval_s)
                    await self._fetched(session)
                failures = 0
            except TransportFailure as error:  # its class for a late answer is a TimeoutError too
                failures += 1
                if failures >= _MAX_TRANSPORT_ERRORS:
                    raise
                level = logging.INFO if failures == 1 else logging.DEBUG
                logger.log(level, "%r could not be looked at and will be again: %s", self, error)
            except TimeoutError:
                if limit.expired():
                    raise self._late(timeout_s) from None
                raise
            interval_s = min(interval_s * _POLL_FACTOR, _MAX_POLL_S)
        return self

    def _late(self, timeout_s: float | None) -> WaitTimeout:
        return WaitTimeout(
            f"job {self.id} did not complete within {timeout_s:g} s (last status: {self._status}); it goes on: wait "
            "longer or cancel() it"
        )


class JobStream:
    """What one job yields, as it comes: iterate it with `async for`, or with `for` where there is no loop.

    The platform gives out each value once, whoever asks.
    """

    def __init__(self, client: EndpointClient, job_id: str) -> None:
        self._client = client
        self._job_id = job_id
        self._values: list[Any] = []
        self._is_over = False

    def __repr__(self) -> str:
        return f"<JobStream of job {self._job_id!r}>"

    async def __aiter__(self) -> AsyncIterator[Any]:
        while self._values or not self._is_over:
            if not self._values:
                await self._next_values()
                continue
            yield self._values.pop(0)

    def __iter__(self) -> Iterator[Any]:
        while self._values or not self._is_over:
            if not self._values:
                self._next_values().result()
                continue
            yield self._values.pop(0)

    def _next_values(self) -> Pending[None]:
        return Pending(self._asked, f"stream() of job {self._job_id!r}")

    async def _asked(self, session: Session) -> None:
        """Ask for more values, held by the platform until there are some.

        Raises:
            JobFailed: The job did not end well, and all that it yielded was given out.
        """
        asked_at = time.monotonic()
        answer = await self._client._job_answer(session, "stream", self._job_id, read_timeout_s=_STREAM_HOLD_S)
        self._values += [entry.get("output") for entry in answer.get("stream") or ()]
        if self._values:
            return
        if not JobStatus.parse(answer.get("status")).is_terminal:
            if time.monotonic() - asked_at < _UNHELD_PAUSE_S:
                await _pause(_UNHELD_PAUSE_S)
            return
        self._is_over = True
        if answer["status"] != JobStatus.COMPLETED:
            job = await self._client._job(session, "status", self._job_id)
            raise _ending(job, str(answer["status"]))


def _ending(job: EndpointJob, status: str) -> Exception:
    reason = f": {job.error}" if job.error else ""
    match status:
        case JobStatus.CANCELLED:
            return JobCancelled(f"job {job.id} was cancelled while it was streamed", job_id=job.id)
        case JobStatus.TIMED_OUT:
            return JobTimeout(f"job {job.id} passed a time limit while it was streamed{reason}", job_id=job.id)
        case _:
            return JobFailed(f"job {job.id} failed while it was streamed{reason or ': no reason given'}", job_id=job.id)


_TERMINAL = frozenset(status.value for status in JobStatus if status.is_terminal)
