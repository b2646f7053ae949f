# SPDX-License-Identifier: Apache-2.0
"""The worker that the client tests talk to: it does what the job's input says, several jobs at once."""

# ruff: noqa: ASYNC110, ASYNC240 - a file is the signal between the test and this process

import asyncio
from pathlib import Path
from typing import Any

import runpod


async def wait_for_file(path: Path) -> None:
    while not path.exists():
        await asyncio.sleep(0.05)


async def handler(job: dict[str, Any]) -> Any:
    wish = job["input"]
    if "raise" in wish:
        raise ValueError(wish["raise"])
    if "error" in wish:
        return {"error": wish["error"], "kept": True}
    if "fail_once" in wish:
        marker = Path(wish["fail_once"])
        if not marker.exists():
            marker.touch()
            raise RuntimeError("the first time fails")
        return {"recovered": True}
    if "measure" in wish:
        return {"characters": len(wish["measure"])}
    if "progress" in wish:
        runpod.serverless.progress_update(job, wish["progress"])
    if "gate" in wish:
        Path(wish["gate"] + ".started").touch()
        try:
            await wait_for_file(Path(wish["gate"]))
        except asyncio.CancelledError:
            Path(wish["gate"] + ".cancelled").touch()
            raise
    return {"got": wish}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda current: 8})
