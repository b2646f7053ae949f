# SPDX-License-Identifier: Apache-2.0
"""Why an endpoint does not get on: each kind of trouble has its own words."""

from __future__ import annotations

from typing import Any

import pytest

from flash_plugins.cli.stuck import stuck_reason
from flash_plugins.platforms.models import EndpointInfo, EndpointWorkers


def worker(status: str, uptime_s: int = 5) -> dict[str, Any]:
    return {"id": f"w-{status.lower()}", "status": status, "uptimeSeconds": uptime_s}


def reason(workers: list[dict[str, Any]], waiting: int, workers_max: int = 3) -> str | None:
    endpoint = EndpointInfo.parse({"id": "e1", "name": "e", "type": "QUEUE", "workers": {"min": 0, "max": workers_max}})
    summary = dict.fromkeys(("running", "idle", "initializing", "throttled", "unhealthy"), 0)
    for one in workers:
        summary[one["status"].lower()] += 1
    now = EndpointWorkers.parse({"workers": workers, "summary": summary})
    return stuck_reason(endpoint, now, {"inQueue": waiting})


@pytest.mark.parametrize(
    ("workers", "waiting", "workers_max", "words"),
    [
        ([worker("UNHEALTHY"), worker("RUNNING")], 0, 3, "unhealthy (w-unhealthy)"),
        ([], 2, 0, "2 jobs wait, and workers.max is 0"),
        ([worker("THROTTLED")], 1, 3, "wait for capacity"),
        ([worker("INITIALIZING", 500)], 1, 3, "starting for more than 420 s"),
        ([], 1, 3, "no worker"),
    ],
)
def test_trouble_has_a_reason(workers: list[dict[str, Any]], waiting: int, workers_max: int, words: str) -> None:
    assert words in str(reason(workers, waiting, workers_max))


@pytest.mark.parametrize(
    ("workers", "waiting"),
    [
        ([], 0),
        ([worker("RUNNING"), worker("THROTTLED")], 9),
        ([worker("INITIALIZING")], 1),
        ([worker("IDLE")], 0),
        ([worker("THROTTLED")], 0),
    ],
)
def test_an_endpoint_that_gets_on_has_none(workers: list[dict[str, Any]], waiting: int) -> None:
    assert reason(workers, waiting) is None
