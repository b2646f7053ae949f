# SPDX-License-Identifier: Apache-2.0
"""Things that go wrong, on purpose, between a session and a real platform: requests that break, workers that die.

    faults = Faults()
    faults.lose_answer("runsync")                    # the next one is accepted, and nobody hears of it
    faults.refuse("stream", count=20)                # 429
    with faulty_platform(faults):                    # calls of this process go to a local platform of their own
        call = f(1)
        kill_runner(worker_id)

Faults act below our own client, where a broken connection is what aiohttp makes of one; each is used up by so many
requests of its operation: `run`, `runsync`, `status`, `stream`, `cancel`, `health`, or `rest` for REST v2.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import psutil
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict

import flash_plugins
from flash_plugins import Connection, Platform, hookimpl
from flash_plugins.platforms import api
from flash_plugins.platforms.answer import Answer, Sent
from flash_plugins.platforms.carrier import Carrier, Streamed, broken
from flash_plugins.platforms.choice import LocalPlatform
from flash_plugins.settings import Settings

__all__ = ["Faults", "faulty_platform", "kill_runner", "kill_worker", "runner_of", "worker_processes"]

_Send = Callable[[], Awaitable[Answer]]
_Fault = Callable[[Sent, _Send], Awaitable[Answer]]

#: How long `kill_runner` and others look for a process, seconds: generous, because machines are busy.
_PATIENCE_S = 30.0


class Faults:
    """What happens to the next requests, and how many there were. Thread-safe.

    Attributes:
        seen: Requests by operation, those that a fault kept away from the platform among them.
        accepted: Those that the platform answered.
    """

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self._due: defaultdict[str, deque[_Fault]] = defaultdict(deque)
        self._changed = threading.Condition()

    def unreachable(self, operation: str, count: int = 1) -> None:
        """Let no connection come about: the request was surely not sent."""

        async def fault(request: Sent, send: _Send) -> Answer:
            key = ConnectionKey(request.url.host or "", request.url.port, False, True, None, None, None)
            raise broken(request, aiohttp.ClientConnectorError(key, OSError(111, "Connection refused on purpose")))

        self._add(operation, count, fault)

    def lose_request(self, operation: str, count: int = 1) -> None:
        """Break the connection before the platform has the request; the client cannot tell it from `lose_answer`."""

        async def fault(request: Sent, send: _Send) -> Answer:
            raise broken(request, aiohttp.ServerDisconnectedError("broken on purpose"))

        self._add(operation, count, fault)

    def lose_answer(self, operation: str, count: int = 1) -> None:
        """Have the platform take the request, and break the connection instead of handing its answer on."""

        async def fault(request: Sent, send: _Send) -> Answer:
            await send()
            raise broken(request, aiohttp.ServerDisconnectedError("broken on purpose"))

        self._add(operation, count, fault)

    def refuse(self, operation: str, count: int = 1, *, retry_after_s: float | None = 0.01) -> None:
        """Answer 429 in the platform's place."""
        headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s:g}"}
        self.answer(operation, count, status=429, headers=headers)

    def answer(
        self, operation: str, count: int = 1, *, status: int, content: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        """Answer in the platform's place, which hears nothing of the request."""

        async def fault(request: Sent, send: _Send) -> Answer:
            body = json.dumps(content or {"error": "on purpose"}).encode()
            return Answer(request, status, CIMultiDict(headers or {}), body)

        self._add(operation, count, fault)

    def delay(self, operation: str, seconds: float, count: int = 1) -> None:
        """Hold what the platform answers back for so long."""

        async def fault(request: Sent, send: _Send) -> Answer:
            answer = await send()
            await asyncio.sleep(seconds)
            return answer

        self._add(operation, count, fault)

    def hold(self, operation: str) -> Callable[[], None]:
        """Hold the next answer back until the returned function is called."""
        is_open = threading.Event()

        async def fault(request: Sent, send: _Send) -> Answer:
            answer = await send()
            while not is_open.is_set():  # noqa: ASYNC110 - the event is another thread's
                await asyncio.sleep(0.01)
            return answer

        self._add(operation, 1, fault)
        return is_open.set

    def wait_for(self, operation: str, count: int = 1) -> None:
        """Wait until so many requests of an operation were begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.seen[operation] >= count, _PATIENCE_S), self.seen

    def wrap(self, carrier: Carrier) -> Carrier:
        """Return what `Connection.wrap` is to make of a carrier."""
        return _FaultyCarrier(carrier, self)

    def _add(self, operation: str, count: int, fault: _Fault) -> None:
        self._due[operation].extend([fault] * count)

    def _next(self, operation: str) -> _Fault | None:
        with self._changed:
            self.seen[operation] += 1
            self._changed.notify_all()
        return self._due[operation].popleft() if self._due[operation] else None


class _FaultyCarrier:
    def __init__(self, inner: Carrier, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    async def whole(self, sent: Sent, headers: Mapping[str, str], content: bytes | None, read_s: float) -> Answer:
        operation = _operation(sent.url.path)

        async def send() -> Answer:
            answer = await self._inner.whole(sent, headers, content, read_s)
            self._faults.accepted[operation] += answer.status_code < 400
            return answer

        fault = self._faults._next(operation)
        return await send() if fault is None else await fault(sent, send)

    def streamed(self, sent: Sent, headers: Mapping[str, str], read_s: float) -> AbstractAsyncContextManager[Streamed]:
        return self._inner.streamed(sent, headers, read_s)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _operation(path: str) -> str:
    parts = path.split("/")
    if len(parts) > 3 and parts[1] == "v2" and parts[2] not in api.RESERVED_ENDPOINT_IDS:
        return parts[3]
    return "rest"


class _FaultyPlatform:
    """The local platform, with faults on the way to it."""

    def __init__(self, inner: Platform, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults
        self.name, self.reason, self.outlives_us = inner.name, inner.reason, inner.outlives_us

    def connect(self) -> Connection:
        return replace(self._inner.connect(), wrap=self._faults.wrap)

    def lost_reason(self) -> str | None:
        return self._inner.lost_reason()

    def close(self) -> None:
        self._inner.close()


class _Choice:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    @hookimpl
    def flash_choose_platform(self, settings: Settings) -> Platform:
        return _FaultyPlatform(LocalPlatform("a test disturbs it"), self._faults)


@contextmanager
def faulty_platform(faults: Faults) -> Iterator[None]:
    """Have calls of this process go to a local platform of their own, through `faults`."""
    choice = _Choice(faults)
    flash_plugins.close()
    flash_plugins.register(choice)
    try:
        yield
    finally:
        flash_plugins.close()
        flash_plugins.unregister(choice)


# -- worker control: by the platform's id of a worker, which `Call.worker_id` is, or all of them --------------------


def worker_processes() -> dict[str, psutil.Process]:
    """Return the job loops of all workers below this process, by the platform's id of each."""
    found: dict[str, psutil.Process] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            if "flash_plugins.worker" in process.cmdline():
                found.setdefault(process.environ()["RUNPOD_POD_ID"], process)
        except (psutil.Error, KeyError):  # it has just ended, or is none of ours
            continue
    return found


def runner_of(worker_id: str) -> psutil.Process:
    """Return the process of a worker that runs calls; waits until there is one."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        loop = worker_processes().get(worker_id)
        for process in loop.children(recursive=True) if loop is not None else ():
            if "flash_plugins.worker.runner" in process.cmdline():
                return process
        time.sleep(0.05)
    raise AssertionError(f"worker {worker_id} has no runner; workers: {worker_processes()}")


def kill_runner(worker_id: str) -> None:
    """Kill the process of a worker that runs calls, as the kernel does when memory is short."""
    os.kill(runner_of(worker_id).pid, signal.SIGKILL)


def kill_worker(worker_id: str) -> None:
    """Kill a worker's job loop."""
    os.kill(worker_processes()[worker_id].pid, signal.SIGKILL)
