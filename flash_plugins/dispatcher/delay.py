# SPDX-License-Identifier: Apache-2.0
"""Why calls of an endpoint wait, in words, from what the platform counts. It asks nothing."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["delay_reason", "is_working"]


def delay_reason(name: str, health: Mapping[str, Mapping[str, int]]) -> str | None:
    """Return what calls of an endpoint wait for and what to do about it, None where nothing is wrong.

    Args:
        name: Name of the endpoint.
        health: Its jobs and workers by state, as the job API's `/health` counts them; the service leaves some out.
    """
    workers = health.get("workers") or {}
    count = {state: int(workers.get(state) or 0) for state in _STATES}
    waiting = int((health.get("jobs") or {}).get("inQueue") or 0)
    if is_working(health):
        is_crowded = waiting > 0 and not count["idle"]
        busy = max(count["running"], count["ready"])
        return (
            f"{waiting} of its jobs wait and {_workers(busy)} busy: allow more with workers=…" if is_crowded else None
        )
    if count["throttled"]:
        return (
            f"{_workers(count['throttled'])} waiting for capacity and none runs: allow more types with gpu=[…] or "
            "cpu=[…], or more data centers"
        )
    if count["unhealthy"]:
        return f"{_workers(count['unhealthy'])} unhealthy: see `flash-plugins logs {name}`"
    if count["initializing"]:
        return f"{_workers(count['initializing'])} starting"
    return (
        "it has no worker: one is about to start, or none can be had (allow more GPU types or data centers), or the "
        "account's limit of workers is reached"
    )


def is_working(health: Mapping[str, Mapping[str, int]]) -> bool:
    """Return whether there are workers that take jobs, so that waiting is only a matter of time."""
    workers = health.get("workers") or {}
    return any(workers.get(state) for state in ("running", "idle", "ready"))


_STATES = ("running", "idle", "ready", "initializing", "throttled", "unhealthy")


def _workers(count: int) -> str:
    return "1 worker is" if count == 1 else f"{count} workers are"
