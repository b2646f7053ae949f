# SPDX-License-Identifier: Apache-2.0
"""Requests about one call of a load-balanced endpoint, and what their answers mean. It decides nothing about retries of
what begins a call; asking is repeated, as that does nothing twice."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from ..errors import FlashPluginsError, PlatformUnavailable, WorkerLost
from ..exchange import CALLS_PATH, KEY_HEADER, CallAnswer, proof_of
from ..platforms import api
from .call import Call
from .readiness import says_no_worker, start_failure
from .window import Patience

if TYPE_CHECKING:
    from ..platforms.answer import Answer
    from ..platforms.runpod import EndpointHandle, RunpodClient, StatusError
    from .session import Session

__all__ = ["Courier", "Fate", "error_in", "fate_of", "gone", "refusal", "retry_after_s"]

logger = logging.getLogger(__name__)

#: Seconds that a question about a call is held where there is no news.
ASK_HOLD_S = 25.0
#: Seconds more than a request may be held, before it counts as dead.
_SLACK_S = 30.0
#: Seconds without any answer after which a call that a worker has is given up; between two questions that failed.
_GIVE_UP_AFTER_S = 300.0
_PAUSE_S = 0.5
#: Seconds that cancelling a call is tried.
_CANCEL_MAX_S = 10.0


class Fate(Enum):
    """What became of a request that begins a call or asks for one."""

    #: A worker has answered.
    ANSWERED = auto()
    #: No worker took it, as there is none.
    NO_WORKER = auto()
    #: No worker took it, as they end before they take anything.
    NOT_STARTING = auto()
    #: No worker took it, as the one that was to have it does not listen.
    UNREACHED = auto()
    #: The endpoint does not exist any more.
    ENDPOINT_GONE = auto()
    #: The one worker that was asked for is gone, or was not there in time.
    WORKER_GONE = auto()
    #: The worker that had it ended.
    WORKER_LOST = auto()
    #: The platform wants fewer requests, and took none.
    LIMITED = auto()
    #: A worker may have it or not.
    UNKNOWN = auto()
    #: It is refused for a reason that will not go away.
    REFUSED = auto()


def fate_of(response: Answer) -> Fate:
    """Return what an answer means. Texts: Runpod's load balancing documentation (2026-08), and the local platform's."""
    status = response.status_code
    if status == 200:
        return Fate.ANSWERED
    if says_no_worker(response):
        return Fate.NO_WORKER
    if start_failure(response) is not None:
        return Fate.NOT_STARTING
    error = error_in(response)
    if status in (400, 404) and error.startswith((api.AFFINITY_GONE_ERROR, api.AFFINITY_TIMEOUT_ERROR)):
        return Fate.WORKER_GONE
    if status == 429:
        return Fate.LIMITED
    if status == 404 and api.WORKER_ID_HEADER not in response.headers:
        return Fate.ENDPOINT_GONE
    if status < 500:
        return Fate.REFUSED
    if error.startswith(api.WORKER_LOST_PREFIX):
        return Fate.WORKER_LOST
    return Fate.UNREACHED if api.WORKER_UNREACHED_TEXT in error else Fate.UNKNOWN


def error_in(response: Answer) -> str:
    """Return the words of an answer that is an error, on one line."""
    try:
        answer: Any = json.loads(response.content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return response.text[:500]
    return ": ".join(str(answer[name]) for name in ("error", "detail") if answer.get(name))


def gone(call: Call[Any], worker: str | None, response: Answer) -> WorkerLost:
    """Return the error of a call whose worker is gone."""
    return WorkerLost(
        f"{call!r}: worker {worker} does not run any more, or did not answer for {api.BALANCED_AFFINITY_WAIT_S:g} s, "
        f"and no other one can stand in for it ({error_in(response)}); what it kept is lost. Workers end when they "
        "were idle for idle_timeout, when the endpoint changes, and when they crash: see `flash-plugins logs`",
        job_id=call.job_id,
    )


def retry_after_s(response: Answer) -> float:
    """Return how many seconds a platform asks to wait, 1 where it does not say."""
    try:
        return max(0.0, float(response.headers.get("Retry-After", "1")))
    except ValueError:  # a date: rare, and a second is a fair guess
        return 1.0


def refusal(client: RunpodClient, response: Answer) -> StatusError:
    """Return the error for an answer that is none."""
    return client.http.refusal(response)


class Courier:
    """Speaks to a worker about one call. Loop thread.

    Args:
        session: Of this process.
        handle: The endpoint.
        call: The call.
        worker: Id of the only worker that may answer; None for any.
        lost: Returns why the platform is gone, None while it lives or cannot tell.
    """

    def __init__(
        self,
        session: Session,
        handle: EndpointHandle,
        call: Call[Any],
        worker: str | None,
        lost: Callable[[], str | None],
    ) -> None:
        self._session = session
        self._url = f"{handle.base_url}{CALLS_PATH}"
        self._call = call
        self._worker = worker
        self._lost = lost

    async def begin(self, body: bytes, *, hold_s: float) -> Answer:
        """Send what begins the call, once.

        Raises:
            TransportFailure: No answer came.
        """
        wait_s = api.BALANCED_WORKER_WAIT_S if self._worker is None else api.BALANCED_AFFINITY_WAIT_S
        return await self._exchanged("POST", "", body, read_timeout_s=hold_s + wait_s + _SLACK_S)

    async def ask(self, call_id: str, *, after: int) -> CallAnswer:
        """Return how the call stands at its worker, held until there is news.

        Args:
            call_id: Names it there.
            after: How many of its values have arrived.

        Raises:
            WorkerLost: The worker is gone.
            PlatformUnavailable: Nobody answers.
            StatusError: The question is refused.
        """
        return await self._asked("GET", f"/{call_id}?after={after}&hold={ASK_HOLD_S:g}", ASK_HOLD_S, _GIVE_UP_AFTER_S)

    async def cancel(self, call_id: str) -> None:
        """Have the worker stop the call. What goes wrong is logged."""
        try:
            await self._asked("DELETE", f"/{call_id}", 0.0, _CANCEL_MAX_S)
        except WorkerLost:
            logger.debug("%r ended with its worker", self._call)
        except FlashPluginsError as error:
            logger.warning("%r could not be cancelled on its worker: %s", self._call, error)

    async def _asked(self, method: str, path: str, hold_s: float, limit_s: float) -> CallAnswer:
        """Ask until there is an answer: through errors of transport or server."""
        from ..platforms.runpod import TransportFailure

        answered_at, patience = time.monotonic(), Patience()
        while True:
            error: FlashPluginsError
            try:
                response = await self._exchanged(method, path, read_timeout_s=hold_s + _SLACK_S)
            except TransportFailure as failure:
                error = failure
            else:
                match fate_of(response):
                    case Fate.ANSWERED:
                        return CallAnswer.parse(response.content)
                    case Fate.WORKER_GONE | Fate.ENDPOINT_GONE:
                        raise gone(self._call, self._worker, response)
                    case Fate.REFUSED:
                        raise refusal(self._session.client, response)
                    case Fate.LIMITED if await patience.pause(retry_after_s(response)):
                        answered_at = time.monotonic()
                        continue
                error = refusal(self._session.client, response)
            is_over = time.monotonic() - answered_at > limit_s
            if is_over or self._lost() is not None:
                raise PlatformUnavailable(
                    f"{self._call!r} was accepted by worker {self._worker}, and then nobody answered: {error}"
                ) from error
            await asyncio.sleep(_PAUSE_S)

    async def _exchanged(self, method: str, path: str, body: bytes | None = None, *, read_timeout_s: float) -> Answer:
        client = self._session.client
        headers = [(KEY_HEADER, proof_of(client.connection.key)), ("Content-Type", "application/octet-stream")]
        if self._worker is not None:
            headers.append((api.WORKER_ID_HEADER, f"strict {self._worker}"))
        return await client.http.answer(method, self._url + path, body, headers=headers, read_timeout_s=read_timeout_s)
