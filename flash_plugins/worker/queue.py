# SPDX-License-Identifier: Apache-2.0
"""The job loop of a queue worker: the official `runpod` SDK takes jobs, a runner process runs them.

platform ◄─HTTP─► runpod.serverless (this process) ◄─socket─► runner process (users' code)
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from ..errors import MissingDependencyError
from ..platforms import api
from .early import SdkPost
from .handback import HandBack
from .lifeline import tie_forked_children
from .link import PLAIN
from .supervisor import RunnerProcess

__all__ = ["Declaration", "serve"]

logger = logging.getLogger(__name__)

#: Jobs that take longer than this are long, seconds: a worker that can give others back, and one that cannot.
_LONG_S, _LONG_FOR_GOOD_S = 3.0, 0.5
#: Weight of the newest job in the running mean of their lengths.
_NEWEST = 0.3


class Declaration:
    """What concurrency to declare to the SDK for `concurrency` calls at once.

    The SDK counts a job just taken twice and looks again only after a second when it believes itself full: with
    the true number it does one job a second (measured with 1.12.0 and 2.0.0rc2). With several times the number
    it is fast, and takes more than runs: where the platform caps jobs per worker that costs nothing, on Runpod
    the surplus waits inside this worker while others may be idle.

    So there it begins with the true number. While jobs are short it declares so much that the SDK is never full:
    twice as many as run may wait, which keeps a worker busy, and jobs beyond that are given back (`handback`).
    While they are long, or one has run long, it declares the true number: then the SDK asks for a job within a
    second of having none. It takes a change only when it has none.

    Found with a model of 10 workers and 200 tasks of log-normal length, as time to finish over that of greedy list
    scheduling: median 0.3 s 1.1 (with the true number 2.3), 1 s 1.1 (1.3), 3 s 1.1 (1.1). With 3 or 4 times the
    number, which lets the SDK be full, it is 1.2 for 0.3 s.

    Args:
        concurrency: Calls that run at once.
        is_capped: Whether the platform itself hands out no more than that.
        is_held_up: Tells whether what waits here would wait for long.
    """

    def __init__(self, concurrency: int, *, is_capped: bool, is_held_up: Callable[[], bool] = lambda: False) -> None:
        self._true = concurrency
        # With all that may be here, thrice the true number, one more just taken counts twice: that must not fill it.
        self._surplus = 4 * concurrency + 4 if is_capped else 6 * concurrency
        self._is_capped = is_capped
        self._is_held_up = is_held_up
        self._mean_s: float | None = None
        self._long_s = _LONG_S

    def note(self, seconds: float, *, can_be_returned: bool = True) -> None:
        """Take a job into account.

        Args:
            seconds: How long it ran.
            can_be_returned: Whether one like it could be given back to its caller.
        """
        self._mean_s = seconds if self._mean_s is None else (1 - _NEWEST) * self._mean_s + _NEWEST * seconds
        self._long_s = _LONG_S if can_be_returned else _LONG_FOR_GOOD_S

    def __call__(self, _current: int = 0) -> int:
        """Return the number to declare now: the SDK's `concurrency_modifier`."""
        if self._is_capped:
            return self._surplus
        is_short = self._mean_s is not None and self._mean_s <= self._long_s
        return self._surplus if is_short and not self._is_held_up() else self._true


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
    is_capped = api.CAPPED_ENV in os.environ
    hand_back = HandBack.with_cap() if is_capped else HandBack.without_cap(concurrency)
    runner = RunnerProcess(concurrency, hand_back=hand_back)  # first, so that it starts while the SDK is imported
    declaration = Declaration(concurrency, is_capped=is_capped, is_held_up=lambda: runner.is_held_up)

    async def call(job: dict[str, Any]) -> Any:
        answer = await runner.call(job["id"], job["input"])
        if "returned" not in answer or "results" in answer:  # else nothing ran
            declaration.note(answer.get("seconds") or 0.0, can_be_returned=PLAIN not in answer)
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
    try:
        runner.post = SdkPost()
    except (ImportError, LookupError) as error:
        logger.info("results of a batch come with its end, as this SDK sends none before: %s", error)
    streams = os.environ.get(api.HANDLER_ENV) == api.HANDLER_STREAMS
    runpod.serverless.start({"handler": stream if streams else call, "concurrency_modifier": declaration})
