# SPDX-License-Identifier: Apache-2.0
"""A worker that runs four jobs at once and tells how many it has seen together."""

import asyncio
from typing import Any

import runpod

together = 0
most_together = 0


async def handler(job: dict[str, Any]) -> dict[str, Any]:
    global together, most_together
    together += 1
    most_together = max(most_together, together)
    try:
        # Meet the others, or give up: one after another nobody would ever meet.
        for _ in range(200):
            if most_together >= job["input"]["expected"]:
                break
            await asyncio.sleep(0.05)
        return {"most_together": most_together}
    finally:
        together -= 1


def concurrency_modifier(current_concurrency: int) -> int:
    return 4


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "concurrency_modifier": concurrency_modifier})
