# SPDX-License-Identifier: Apache-2.0
"""Generators: values arrive while the worker still makes them."""

import asyncio
from collections.abc import AsyncIterator

from runpod_flash import Endpoint, GpuGroup


@Endpoint(name="p12-tokens", gpu=GpuGroup.ANY, workers=(0, 1))
async def tokens(prompt: str) -> AsyncIterator[dict]:
    """Token by token, like a language model."""
    for position, word in enumerate(prompt.split()):
        await asyncio.sleep(0.05)
        yield {"position": position, "token": word}


@Endpoint(name="p12-countdown", cpu="cpu3c-1-2")
def countdown(start: int):
    while start:
        yield start
        start -= 1


async def main() -> None:
    words = []
    async for piece in tokens("one token after another"):
        words.append(piece["token"])
    print(" ".join(words))
    print(await countdown(3))


if __name__ == "__main__":
    asyncio.run(main())
