# SPDX-License-Identifier: Apache-2.0
"""Functions that call functions of other endpoints, from inside their workers."""

import asyncio

from runpod_flash import Endpoint, GpuGroup


@Endpoint(name="p11-embed", gpu=GpuGroup.ANY, workers=(0, 1))
async def embed(text: str) -> list[int]:
    return [ord(letter) % 8 for letter in text]


@Endpoint(name="p11-total", cpu="cpu3c-1-2")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@Endpoint(name="p11-search", cpu="cpu5c-2-4", max_concurrency=4)
async def similarity(first: str, second: str) -> dict:
    """Fans out to one endpoint, and sums up on another."""
    import os

    left, right = await asyncio.gather(embed(first), embed(second))
    products = [a * b for a, b in zip(left, right, strict=False)]
    return {"score": await total(products), "pid": os.getpid()}


async def main() -> None:
    import os

    answer = await similarity("flash", "flask")
    print("score", answer["score"], "elsewhere", answer["pid"] != os.getpid())
    scores = await asyncio.gather(*(similarity(word, "flash") for word in ("f", "fl", "fla")))
    print([one["score"] for one in scores])
    print("same from here", await total([1, 2, 3]))


if __name__ == "__main__":
    asyncio.run(main())
