# SPDX-License-Identifier: Apache-2.0
"""Why an endpoint does not get on with its work, from what the platform shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..platforms import api

if TYPE_CHECKING:
    from ..platforms.models import EndpointInfo, EndpointWorkers

__all__ = ["stuck_reason"]


def stuck_reason(endpoint: EndpointInfo, now: EndpointWorkers, jobs: Mapping[str, int]) -> str | None:
    """Return what is wrong with an endpoint and what to do, None while it gets on.

    Args:
        endpoint: The endpoint.
        now: Its workers.
        jobs: How many jobs are in which state, as `/health` says.
    """
    waiting = jobs.get("inQueue", 0)
    count = now.summary
    if count.unhealthy:
        ids = ", ".join(worker.id for worker in now.workers if worker.status == "UNHEALTHY")
        return f"{count.unhealthy} workers are unhealthy ({ids}): see `flash-plugins logs {endpoint.name}`"
    if waiting and endpoint.workers_max == 0:
        return f"{waiting} jobs wait, and workers.max is 0: no worker may start; allow one"
    if waiting and count.throttled and not count.running:
        return f"{waiting} jobs wait for capacity: allow more GPU types or data centers"
    starting = [worker for worker in now.workers if worker.status == "INITIALIZING"]
    slow = [worker for worker in starting if (worker.uptime_s or 0) > api.WORKER_INIT_TIMEOUT_S]
    if slow:
        return f"{len(slow)} workers have been starting for more than {api.WORKER_INIT_TIMEOUT_S:g} s: see their logs"
    if waiting and not now.workers:
        return f"{waiting} jobs wait, and there is no worker: one is about to start, or the account's limit is reached"
    return None
