# SPDX-License-Identifier: Apache-2.0
"""A worker of the official SDK that streams as many numbers as its input says."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import runpod


async def handler(job: dict[str, Any]) -> AsyncIterator[int]:
    for number in range(job["input"]["count"]):
        yield number
        await asyncio.sleep(job["input"].get("pause_s", 0))


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda current: 16})
