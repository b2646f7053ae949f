# SPDX-License-Identifier: Apache-2.0
"""Why an endpoint does not get on with its work, from what the platform shows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..platforms import api

__all__ = ["stuck_reason"]


def stuck_reason(
    shown: Mapping[str, Any],  # Any: JSON
    workers: Sequence[Mapping[str, Any]],
    jobs: Mapping[str, int],
) -> str | None:
    """Return what is wrong with an endpoint and what to do, None while it gets on.

    Args:
        shown: The endpoint as REST v2 shows it.
        workers: Its workers as REST v2 shows them.
        jobs: How many jobs (of a load-balanced endpoint: requests) are in which state, as `/health` says.
    """
    waiting = jobs.get("inQueue", 0)
    by_status: dict[str, list[Mapping[str, Any]]] = {}
    for worker in workers:
        by_status.setdefault(str(worker.get("status")), []).append(worker)
    if unhealthy := by_status.get("UNHEALTHY"):
        ids = ", ".join(str(worker.get("id")) for worker in unhealthy)
        return f"workers are unhealthy ({ids}): see `flash-plugins logs {shown.get('name')}`"
    if waiting and (shown.get("workers") or {}).get("max") == 0:
        return f"{waiting} wait, and workers.max is 0: no worker may start; allow one"
    if waiting and by_status.get("THROTTLED") and not by_status.get("RUNNING"):
        return f"{waiting} wait, and workers are throttled: there is no capacity; allow more GPU types or data centers"
    slow = [
        w for w in by_status.get("INITIALIZING", ()) if int(w.get("uptimeSeconds") or 0) > api.WORKER_INIT_TIMEOUT_S
    ]
    if slow:
        return f"{len(slow)} workers have been starting for more than {api.WORKER_INIT_TIMEOUT_S:g} s: see their logs"
    if waiting and not workers:
        return f"{waiting} wait, and there is no worker: it may be about to start, or the account's limit is reached"
    return None
