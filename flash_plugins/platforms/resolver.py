# SPDX-License-Identifier: Apache-2.0
"""Addresses of hosts, also while the interpreter is ending.

The event loop's own lookups run in a thread pool that takes nothing more once the main thread has ended, which
is exactly when running jobs must be cancelled. This one asks the same `getaddrinfo` in a daemon thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = ["LastingResolver"]

#: What `getaddrinfo` returns for each address; the last entry depends on the family.
_Found = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]  # Any: see above

#: Lookups at once: a name server that does not answer for one host must not hold up another one for long.
_THREADS = 2


class LastingResolver(AbstractResolver):
    """Looks hosts up until the very end of the process; where a lookup fails, the last good answer holds.

    Its threads are started by the first lookup and end with `close`.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._remembered: dict[tuple[str, int, socket.AddressFamily], list[ResolveResult]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            OSError: There are none, and there never were any.
        """
        key = (host, port, family)
        try:
            self._remembered[key] = _results(host, await self._looked_up(host, port, family))
        except (OSError, RuntimeError):  # RuntimeError: no thread can be started any more
            if key not in self._remembered:
                raise
        return self._remembered[key]

    async def close(self) -> None:
        """Let the threads end; a lookup that runs is not waited for."""
        for _ in self._threads:
            self._asked.put(None)
        self._threads.clear()

    async def _looked_up(self, host: str, port: int, family: socket.AddressFamily) -> _Found:
        while len(self._threads) < _THREADS:
            thread = threading.Thread(target=self._run, name="flash-resolver", daemon=True)
            thread.start()
            self._threads.append(thread)
        answer: Future[_Found] = Future()

        def look() -> None:
            with contextlib.suppress(asyncio.InvalidStateError):  # nobody waits any more
                try:
                    found = socket.getaddrinfo(
                        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
                    )
                except OSError as error:
                    answer.set_exception(error)
                else:
                    answer.set_result(found)

        self._asked.put(look)
        return await asyncio.wrap_future(answer)

    def _run(self) -> None:
        while (look := self._asked.get()) is not None:
            look()


def _results(host: str, found: _Found) -> list[ResolveResult]:
    results: list[ResolveResult] = []
    for family, _, protocol, _, address in found:
        name = str(address[0])
        if family is socket.AF_INET6 and len(address) > 3 and address[3] and "%" not in name:
            name = f"{name}%{address[3]}"  # a link-local address means nothing without its interface
        results.append(
            ResolveResult(
                hostname=host,
                host=name,
                port=int(address[1]),
                family=family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
        )
    if not results:
        raise OSError(f"no address of {host!r} was found")
    return results
