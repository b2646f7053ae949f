# SPDX-License-Identifier: Apache-2.0
"""Hosts are found as the system finds them, and remembered for when it does not."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from flash_plugins.platforms.resolver import LastingResolver


def addresses(found: list[Any]) -> set[tuple[str, int]]:
    return {(one["host"], one["port"]) for one in found}


def test_a_host_is_found() -> None:
    async def look() -> list[Any]:
        resolver = LastingResolver()
        try:
            return await resolver.resolve("localhost", 80, socket.AF_INET)
        finally:
            await resolver.close()

    assert addresses(asyncio.run(look())) == {("127.0.0.1", 80)}


def test_a_host_that_does_not_exist_is_an_error_for_aiohttp() -> None:
    async def look() -> None:
        resolver = LastingResolver()
        try:
            await resolver.resolve("no-such-host.invalid", 80)
        finally:
            await resolver.close()

    with pytest.raises(OSError, match=r"."):
        asyncio.run(look())


@pytest.mark.parametrize("trouble", [socket.gaierror("no name server"), RuntimeError("can't start new thread")])
def test_where_a_lookup_fails_the_last_answer_holds(monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    async def look() -> tuple[list[Any], list[Any]]:
        resolver = LastingResolver()
        good = await resolver.resolve("localhost", 80)
        await resolver.close()

        def fail(*args: object, **kwargs: object) -> Any:
            raise trouble

        if isinstance(trouble, RuntimeError):
            monkeypatch.setattr(threading.Thread, "start", fail)
        else:
            monkeypatch.setattr(socket, "getaddrinfo", fail)
        try:
            return good, await resolver.resolve("localhost", 80)
        finally:
            await resolver.close()

    good, later = asyncio.run(look())
    assert good == later


def test_a_link_local_address_keeps_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 80, 0, 3))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)

    async def look() -> list[Any]:
        resolver = LastingResolver()
        try:
            return await resolver.resolve("printer", 80, socket.AF_INET6)
        finally:
            await resolver.close()

    assert addresses(asyncio.run(look())) == {("fe80::1%3", 80)}


def test_its_threads_end_with_it() -> None:
    async def look() -> list[threading.Thread]:
        resolver = LastingResolver()
        await resolver.resolve("localhost", 80)
        threads = list(resolver._threads)
        await resolver.close()
        return threads

    for thread in asyncio.run(look()):
        thread.join(10)
        assert not thread.is_alive()
