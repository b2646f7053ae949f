# SPDX-License-Identifier: Apache-2.0
"""Runs the operations of one client driver and writes down what each gave. It never judges.

Used inside an official package's environment, so: standard library only. A driver is started as
`python driver.py SETTING.json TRANSCRIPT.json`; the transcript maps the name of each operation to
`{"result": …, "seconds": …}` or `{"raised": type, "message": …, "traceback": …}`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setting:
    """What the test has prepared: endpoint ids and a folder for gates and markers."""

    scratch: str
    jobs: str = ""  # serves workers/for_clients.py
    streams: str = ""  # serves workers/for_streams.py
    frozen: str = ""  # has no workers, so jobs stay in its queue
    webhook: str = ""  # a URL that notes what is posted to it
    balanced: str = ""  # serves workers/routes.py

    def path(self, name: str) -> Path:
        """Return a file name in the scratch folder."""
        return Path(self.scratch) / name


def play(operations: Sequence[Callable[[Setting], Any]]) -> None:
    """Run the operations in order, plain or asynchronous ones, and write the transcript."""
    setting = Setting(**json.loads(Path(sys.argv[1]).read_text()))
    transcript = asyncio.run(_play(operations, setting))
    Path(sys.argv[2]).write_text(json.dumps(transcript))


async def _play(operations: Sequence[Callable[[Setting], Any]], setting: Setting) -> dict[str, Any]:
    transcript: dict[str, Any] = {}
    for operation in operations:
        started = time.monotonic()
        try:
            # Synchronous clients block for seconds and some start a loop of their own: give them a thread.
            if inspect.iscoroutinefunction(operation):
                result = await operation(setting)
            else:
                result = await asyncio.to_thread(operation, setting)
        except Exception as error:  # noqa: BLE001 - the transcript carries it to the test that judges it
            transcript[operation.__name__] = {
                "raised": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exc(),
            }
        else:
            transcript[operation.__name__] = {"result": result, "seconds": time.monotonic() - started}
    return transcript


def poll(look: Callable[[], Any], wanted: Callable[[Any], bool], deadline_s: float = 60.0) -> Any:
    """Return what `look` gives once it is `wanted`, or its last answer when time is up."""
    end = time.monotonic() + deadline_s
    while True:
        seen = look()
        if wanted(seen) or time.monotonic() > end:
            return seen
        time.sleep(0.1)


async def until_there(path: Path, deadline_s: float = 60.0) -> bool:
    """Wait for a file that a handler makes and return whether it came."""
    return bool(await asyncio.to_thread(poll, path.exists, bool, deadline_s))


def raised(call: Callable[[], Any]) -> dict[str, Any]:
    """Return what `call` raised: its type, its text and the HTTP status it knows of."""
    try:
        value = call()
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return describe(error)
    return {"type": None, "text": f"nothing raised, got {value!r}", "status": None}


def describe(error: Exception) -> dict[str, Any]:
    """Return type, text and HTTP status of an error, whichever HTTP library it came from."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status is None:
        status = getattr(error, "status_code", getattr(error, "status", None))
    return {"type": type(error).__name__, "text": str(error), "status": status}
