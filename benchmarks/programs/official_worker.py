# SPDX-License-Identifier: Apache-2.0
"""A worker as Runpod's documentation writes it: it sleeps as long as its input says. The SDK decides the rest."""

from __future__ import annotations

import asyncio
from typing import Any

import runpod


async def handler(job: dict[str, Any]) -> float:
    seconds = float(job["input"]["seconds"] or 0)
    await asyncio.sleep(seconds)
    return seconds


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
