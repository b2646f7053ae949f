# SPDX-License-Identifier: Apache-2.0
"""An asynchronous generator handler whose pieces are streamed and collected into the output."""

# ruff: noqa: ASYNC110, ASYNC240 - a file is the signal between the test and this process

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import runpod


async def handler(job: dict[str, Any]) -> AsyncIterator[Any]:
    for number in range(job["input"]["count"]):
        yield f"piece {number}"
    if gate := job["input"].get("gate"):
        while not Path(gate).exists():
            await asyncio.sleep(0.05)
        yield "last piece"


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "return_aggregate_stream": True})
