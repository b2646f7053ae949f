# SPDX-License-Identifier: Apache-2.0
"""A worker of the official SDK whose input says what to do."""

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

import runpod


def write_note(request: dict[str, Any], text: str) -> None:
    if "note" in request:
        with open(request["note"], "w") as note:
            note.write(text)


async def handler(job: dict[str, Any]) -> Any:  # it blocks its event loop on purpose
    request = job["input"]
    match request.get("do", "echo"):
        case "echo":
            return {"echo": request, "pid": os.getpid()}
        case "raise":
            raise ValueError("no such luck")
        case "exit":
            sys.stderr.write("going down\n")
            sys.stderr.flush()
            os._exit(request["code"])
        case "sleep":
            write_note(request, "begun")
            try:
                await asyncio.sleep(request["seconds"])
            except asyncio.CancelledError:
                write_note(request, "cancelled")
                raise
            return "slept"
        case "block":
            time.sleep(request["seconds"])  # noqa: ASYNC251
            return "blocked"
        case "orphans":
            # One child in the worker's own group, one that left it.
            script = [sys.executable, "-c", "import time; time.sleep(600)"]
            children = [subprocess.Popen(script), subprocess.Popen(script, start_new_session=True)]  # noqa: ASYNC220
            return [child.pid for child in children]
        case "refresh":
            return {"refresh_worker": True, "pid": os.getpid()}
        case other:
            raise ValueError(other)


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda current: 16})
