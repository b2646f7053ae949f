# SPDX-License-Identifier: Apache-2.0
"""What passing on a request and passing on a WebSocket have in common: see `proxy` and `sockets`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import aiohttp

from .. import api
from .affinity import Affinity, Refusal, Waiting, parse_affinity
from .asgi import Message, Send
from .balanced import BalancedFleet
from .clock import Clock, Timer
from .wire import dump
from .workers import BalancedWorker

__all__ = [
    "CLIENT_GONE",
    "WORKER_ID",
    "Interruptible",
    "Routed",
    "read_affinity",
    "send_refusal",
    "unreachable",
    "wait_for_worker",
    "why_lost",
]

#: The header that names a worker, as ASGI has it.
WORKER_ID: Final = api.WORKER_ID_HEADER.lower().encode()
#: How long a broken connection waits for the news that its worker has ended, seconds.
_EXIT_NEWS_S = 0.5


@dataclass(frozen=True, slots=True)
class Routed:
    """A request and where it goes: `target` is its raw path at the worker, `prefix` what stood before that."""

    fleet: BalancedFleet
    scope: Message
    headers: list[tuple[bytes, bytes]]
    target: bytes
    prefix: bytes


class Interruptible:
    """Something that can be cut short from outside, for one reason. Awaits happen inside `limits`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._limits = asyncio.timeout(None)
        self._timer: Timer | None = None
        self.cut_because: Refusal | None = None
        self.is_over = False

    async def __aenter__(self) -> None:
        await self._limits.__aenter__()

    async def __aexit__(self, *error: object) -> bool:
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._limits.__aexit__(*error)  # type: ignore[arg-type]  # passed on as they came
        except TimeoutError:
            return True
        return False

    def cut(self, reason: Refusal) -> None:
        """End what is awaited now. Only the first reason counts, and none once it is over."""
        if self.cut_because is None and not self.is_over:
            self.cut_because = reason
            self._limits.reschedule(asyncio.get_running_loop().time())

    def limit_to(self, seconds: float) -> None:
        """Cut it when it takes longer from now on."""
        refusal = Refusal(504, "request timed out", f"it took longer than {seconds:g} s")
        self._timer = self._clock.call_later(seconds, lambda: self.cut(refusal))


#: The reason for a cut that nobody is there to be told.
CLIENT_GONE = Refusal(499, "the client has gone")


async def wait_for_worker(fleet: BalancedFleet, affinity: Affinity | None) -> BalancedWorker | Refusal:
    """Wait for a worker, which the caller has to release, or for the reason why there is none."""
    found: asyncio.Future[BalancedWorker | Refusal] = asyncio.get_running_loop().create_future()
    waiting: Waiting = fleet.wait(affinity, found.set_result)
    try:
        return await asyncio.shield(found)
    except asyncio.CancelledError:
        if not found.done():
            fleet.withdraw(waiting)
        elif isinstance(worker := found.result(), BalancedWorker):
            fleet.release(worker)
        raise


async def why_lost(worker: BalancedWorker, error: Exception) -> Refusal:
    """Return what to say about a worker whose connection broke; how it ended, if it did, is known a moment later."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_EXIT_NEWS_S):
            await worker.is_gone.wait()
    if worker.end is not None:
        return Refusal(502, api.WORKER_LOST_PREFIX + worker.end)
    return Refusal(502, f"worker {worker.id} broke the connection: {str(error) or type(error).__name__}")


def unreachable(worker: BalancedWorker, error: aiohttp.ClientConnectorError) -> Refusal:
    """Return what to say about a worker that does not listen."""
    reason = error.os_error.strerror or str(error.os_error)
    return Refusal(
        502,
        f"worker {worker.id} {api.WORKER_UNREACHED_TEXT} {worker.port}: {reason}",
        f"it must listen on the port that the environment variable {api.PORT_ENV} names",
    )


def read_affinity(headers: list[tuple[bytes, bytes]]) -> Affinity | None:
    """Return which worker a request asks for.

    Raises:
        ValueError: It asks in no known form.
    """
    for name, value in headers:
        if name == WORKER_ID:
            return parse_affinity(value.decode("latin-1"))
    return None


async def send_refusal(send: Send, refusal: Refusal, worker: BalancedWorker | None = None) -> None:
    """Answer with an error of the balancer's own."""
    detail = {} if refusal.detail is None else {"detail": refusal.detail}
    body = dump({"error": refusal.error, **detail})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if worker is not None:
        headers.append((WORKER_ID, worker.id.encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
