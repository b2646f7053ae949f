# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from flash_plugins.platforms.local.clock import FakeClock
from flash_plugins.platforms.local.quota import Quota


def left(quota: Quota) -> str:
    return dict(quota.headers())[b"ratelimit"].decode()


def test_windows_begin_anew() -> None:
    clock = FakeClock()
    quota = Quota(clock, 3)
    assert left(quota) == '"minute";r=3;t=60, "hour";r=150;t=3600, "day";r=2499;t=86400'
    assert [quota.take() for _ in range(4)] == [None, None, None, 60]
    clock.advance(59.5)
    assert quota.take() == 1
    assert left(quota) == '"minute";r=0;t=1, "hour";r=147;t=3541, "day";r=2496;t=86341'
    clock.advance(0.5)
    assert quota.take() is None
    assert left(quota) == '"minute";r=2;t=60, "hour";r=146;t=3540, "day";r=2495;t=86340'


def test_the_longest_window_that_is_used_up_counts() -> None:
    clock = FakeClock()
    quota = Quota(clock, 1)
    for _ in range(50):
        assert quota.take() is None
        clock.advance(60)
    assert quota.take() == 3600 - 50 * 60


def test_what_is_left_is_right_after_a_pause() -> None:
    clock = FakeClock()
    quota = Quota(clock, 1)
    quota.take()
    clock.advance(61)
    assert left(quota).startswith('"minute";r=1;t=59')
