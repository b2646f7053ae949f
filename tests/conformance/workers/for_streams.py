# SPDX-License-Identifier: Apache-2.0
"""The worker behind the stream tests: some chunks, a pause, the rest; several jobs at once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import runpod


async def handler(job: dict[str, Any]) -> AsyncIterator[Any]:
    for number in range(job["input"]["chunks"]):
        yield number
    if pause_s := job["input"].get("pause_s"):
        await asyncio.sleep(pause_s)
        yield "after the pause"
    if job["input"].get("then_raise"):
        raise ValueError("stream broke")


if __name__ == "__main__":
    runpod.serverless.start(
        {
            "handler": handler,
            "return_aggregate_stream": True,
            "concurrency_modifier": lambda current: 8,
        }
    )
