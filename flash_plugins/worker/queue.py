# SPDX-License-Identifier: Apache-2.0
"""The job loop of a queue worker: the official `runpod` SDK takes jobs, a runner process runs them.

platform ◄─HTTP─► runpod.serverless (this process) ◄─socket─► runner process (users' code)
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from ..errors import MissingDependencyError
from ..platforms import api
from .lifeline import tie_forked_children
from .link import PLAIN
from .supervisor import RunnerProcess

__all__ = ["Declaration", "serve"]

#: Calls below the first are short, calls above the second long, seconds; see `Declaration`.
_SHORT_S, _LONG_S = 0.5, 2.0
#: Weight of the newest call in the running mean of their lengths.
_NEWEST = 0.3


class Declaration:
    """What concurrency to declare to the SDK for `concurrency` calls at once.

    The SDK counts a job just taken twice and looks again only after a second when it believes itself full: with
    the true number it does one job a second (measured with 1.12.0 and 2.0.0rc2). With several times the number
    it is fast, and takes more than runs: where the platform caps jobs per worker that costs nothing, on Runpod
    the surplus waits inside this worker while others may be idle. So there it begins with the true number, and
    declares more while calls are short.

    Args:
        concurrency: Calls that run at once.
        is_capped: Whether the platform itself hands out no more than that.
    """

    def __init__(self, concurrency: int, *, is_capped: bool) -> None:
        self._true = concurrency
        self._surplus = 4 * concurrency + 4
        self._declared = self._surplus if is_capped else concurrency
        self._is_capped = is_capped
        self._mean_s: float | None = None

    def note(self, seconds: float) -> None:
        """Take the length of a call into account."""
        self._mean_s = seconds if self._mean_s is None else (1 - _NEWEST) * self._mean_s + _NEWEST * seconds

    def __call__(self, _current: int = 0) -> int:
        """Return the number to declare now: the SDK's `concurrency_modifier`."""
        if not self._is_capped and self._mean_s is not None:
            if self._mean_s < _SHORT_S:
                self._declared = self._surplus
            elif self._mean_s > _LONG_S:
                self._declared = self._true
        return self._declared


def serve() -> None:
    """Serve jobs until told to stop. Reads the worker's environment; blocks in the main thread.

    Raises:
        MissingDependencyError: The official SDK is not installed.
    """
    if sys.platform == "linux":
        # The SDK starts its ping process with the default method. Only a forked one can be tied to this process.
        multiprocessing.set_start_method("fork", force=True)
    tie_forked_children()
    concurrency = int(os.environ.get(api.MAX_CONCURRENCY_ENV, "1"))
    runner = RunnerProcess(concurrency)  # first, so that it starts while the SDK is imported
    declaration = Declaration(concurrency, is_capped=api.CAPPED_ENV in os.environ)

    async def call(job: dict[str, Any]) -> Any:
        answer = await runner.call(job["id"], job["input"])
        declaration.note(answer.get("seconds") or 0.0)
        return answer.get(PLAIN, answer)

    async def stream(job: dict[str, Any]) -> AsyncIterator[Any]:
        async for answer in runner.stream(job["id"], job["input"]):
            yield answer

    try:
        import runpod.serverless
    except ImportError as error:
        raise MissingDependencyError(
            f"a worker needs the official runpod package, and it cannot be imported ({error}); "
            "install it with: pip install 'flash-plugins[worker]'"
        ) from error
    streams = os.environ.get(api.HANDLER_ENV) == api.HANDLER_STREAMS
    runpod.serverless.start({"handler": stream if streams else call, "concurrency_modifier": declaration})
