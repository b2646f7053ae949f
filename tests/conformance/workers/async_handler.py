# SPDX-License-Identifier: Apache-2.0
"""An asynchronous handler that can be cancelled; it leaves a file behind when that happens."""

# ruff: noqa: ASYNC240 - a file is the signal between the test and this process

import asyncio
from pathlib import Path
from typing import Any

import runpod


async def handler(job: dict[str, Any]) -> dict[str, Any]:
    seconds = job["input"].get("seconds", 0)
    if mark := job["input"].get("when_started"):
        Path(mark).touch()
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if mark := job["input"].get("when_cancelled"):
            Path(mark).touch()
        raise
    return {"slept": seconds}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
