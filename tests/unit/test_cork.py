# SPDX-License-Identifier: Apache-2.0
"""An answer in one write, in the order in which it was written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from flash_plugins.cork import CorkedTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Recorder:
    """What a transport is to the one under test."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done


def played(steps: Callable[[CorkedTransport], object]) -> list[bytes | str]:
    """Return what reaches the connection: what it saw at once, `later`, and what it saw after a turn of the loop."""
    recorder = Recorder()

    async def play() -> None:
        steps(CorkedTransport(cast("asyncio.Transport", recorder), asyncio.get_running_loop()))
        recorder.done.append("later")
        await asyncio.sleep(0)

    asyncio.run(play())
    return recorder.done


def test_head_and_body_are_one_write() -> None:
    def answer(transport: CorkedTransport) -> None:
        transport.write(HEAD)
        transport.write(b"{}")

    assert played(answer) == [HEAD + b"{}", "later"]


def test_a_head_without_a_body_is_written_in_the_same_turn() -> None:
    assert played(lambda transport: transport.write(HEAD)) == ["later", HEAD]


def test_what_is_no_head_is_written_at_once() -> None:
    def stream(transport: CorkedTransport) -> None:
        transport.write(b"5\r\nchunk\r\n")
        transport.write(memoryview(b"0\r\n\r\n"))

    assert played(stream) == [b"5\r\nchunk\r\n", b"0\r\n\r\n", "later"]


def test_a_long_body_is_not_copied() -> None:
    body = bytes(1_000_000)

    def answer(transport: CorkedTransport) -> None:
        transport.write(HEAD)
        transport.write(body)

    seen = played(answer)
    assert seen == [HEAD, body, "later"]
    assert seen[1] is body


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_closing_comes_after_what_was_written(body: bytes) -> None:
    def answer(transport: CorkedTransport) -> None:
        transport.write(HEAD)
        if body:
            transport.write(body)
        transport.close()
        assert transport.is_closing()

    assert played(answer) == [HEAD + body, "closed", "later"]
