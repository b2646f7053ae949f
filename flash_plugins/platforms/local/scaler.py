# SPDX-License-Identifier: Apache-2.0
"""How many workers an endpoint should have. Pure decisions: it starts and stops nothing.

Runpod documents two rules (2026-08): QUEUE_DELAY adds workers when a request waits longer than so many
seconds; REQUEST_COUNT wants one worker per so many queued and running requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Demand", "QueueDelay", "RequestCount", "Scaling", "restart_delay_s", "wanted_workers"]

#: Pause before a worker is started again after `n` failed starts in a row: 0.1 s, doubling, at most this, seconds.
_RESTART_DELAY_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class QueueDelay:
    """Start another worker for each request that waits longer than `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RequestCount:
    """Have one worker for each `requests` queued and running requests."""

    requests: int


#: One of the two rules.
Scaling = QueueDelay | RequestCount


@dataclass(frozen=True, slots=True)
class Demand:
    """What an endpoint has to do. Low-priority requests count once they run: they start no workers.

    `overdue` are the queued requests that wait longer than a QUEUE_DELAY allows, `ready` the workers that
    take jobs, `jobs_per_worker` how many of them one worker gets at a time.
    """

    queued: int
    running: int
    overdue: int = 0
    ready: int = 0
    jobs_per_worker: int = 1


def wanted_workers(scaling: Scaling, demand: Demand, *, workers_min: int, workers_max: int) -> int:
    """Return how many workers the demand calls for, within the limits."""
    if isinstance(scaling, RequestCount):
        wanted = math.ceil((demand.queued + demand.running) / scaling.requests)
    elif demand.queued + demand.running == 0:
        wanted = 0
    else:
        extra = math.ceil(demand.overdue / demand.jobs_per_worker)
        wanted = demand.ready + extra if extra else 1
    return min(max(wanted, workers_min), workers_max)


def restart_delay_s(failed_starts: int) -> float:
    """Return how long to wait before the next start, after so many failed ones in a row."""
    return 0.0 if failed_starts == 0 else min(0.1 * 2 ** min(failed_starts - 1, 20), _RESTART_DELAY_MAX_S)
