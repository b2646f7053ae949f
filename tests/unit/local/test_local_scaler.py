# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from flash_plugins.platforms.local.scaler import (
    Demand,
    QueueDelay,
    RequestCount,
    Scaling,
    restart_delay_s,
    wanted_workers,
)

DELAY = QueueDelay(4)


@pytest.mark.parametrize(
    ("scaling", "demand", "wanted"),
    [
        (DELAY, Demand(queued=0, running=0), 0),
        (DELAY, Demand(queued=1, running=0), 1),
        (DELAY, Demand(queued=0, running=1, ready=1), 1),
        (DELAY, Demand(queued=9, running=1, ready=1), 1),
        (DELAY, Demand(queued=9, running=1, ready=1, overdue=1), 2),
        (DELAY, Demand(queued=9, running=1, ready=1, overdue=3), 4),
        (DELAY, Demand(queued=9, running=1, ready=1, overdue=3, jobs_per_worker=4), 2),
        (DELAY, Demand(queued=9, running=1, ready=1, overdue=99), 5),
        (RequestCount(1), Demand(queued=0, running=0), 0),
        (RequestCount(1), Demand(queued=2, running=1), 3),
        (RequestCount(4), Demand(queued=4, running=1), 2),
        (RequestCount(1), Demand(queued=50, running=1), 5),
    ],
)
def test_wanted_workers(scaling: Scaling, demand: Demand, wanted: int) -> None:
    assert wanted_workers(scaling, demand, workers_min=0, workers_max=5) == wanted


def test_the_limits_hold() -> None:
    assert wanted_workers(DELAY, Demand(queued=0, running=0), workers_min=2, workers_max=3) == 2
    assert wanted_workers(RequestCount(1), Demand(queued=9, running=0), workers_min=0, workers_max=0) == 0


def test_pauses_between_starts_grow_to_a_limit() -> None:
    assert restart_delay_s(0) == 0
    assert [restart_delay_s(failed) for failed in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert restart_delay_s(1000) == 5
