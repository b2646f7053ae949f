# SPDX-License-Identifier: Apache-2.0
"""The job loop of a worker that cannot run anything: it answers each job at once with the reason.

A worker that ended instead would be started again and again, and callers would wait for as long.
"""

from __future__ import annotations

import time
from typing import Any

__all__ = ["serve_refusals"]

#: Seconds after which the next job also ends this worker, so that a new one tries again what failed here.
_RETRY_AFTER_S = 20.0
#: Jobs taken at once, declared to the SDK: each is answered at once, but it fetches one a second if it is told 1.
_CONCURRENCY = 64


def serve_refusals(reason: str) -> None:
    """Fail every job with `reason` until told to stop. Blocks in the main thread."""
    import runpod.serverless

    retry_at = time.monotonic() + _RETRY_AFTER_S

    async def refuse(_job: dict[str, Any]) -> dict[str, Any]:
        return {"error": reason, "refresh_worker": time.monotonic() > retry_at}

    runpod.serverless.start({"handler": refuse, "concurrency_modifier": lambda _current: _CONCURRENCY})
