# SPDX-License-Identifier: Apache-2.0
"""A handler that reports progress and goes on when it is let through its gate."""

# ruff: noqa: ASYNC110, ASYNC240 - a file is the signal between the test and this process

import asyncio
from pathlib import Path
from typing import Any

import runpod


async def handler(job: dict[str, Any]) -> dict[str, str]:
    runpod.serverless.progress_update(job, {"step": 1, "of": 2})
    while not Path(job["input"]["gate"]).exists():
        await asyncio.sleep(0.05)
    return {"result": "done"}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
