# SPDX-License-Identifier: Apache-2.0
"""The releases of an endpoint: each version with what changed since the one before. It changes nothing itself.

Shape: Runpod's REST v2 description (2026-08). Changes that make no version, such as `workers.max`, show up in
the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .endpoints import EndpointSpec, random_id
from .fields import JsonObject
from .workers import Worker

__all__ = ["ReleaseLog"]

#: Releases that are remembered of one endpoint; environment variables can be large.
_KEPT = 100


@dataclass(frozen=True, slots=True)
class _Release:
    id: str
    version: int
    created_at: str
    diff: list[JsonObject]


class ReleaseLog:
    """The releases of one endpoint, which starts with the first."""

    def __init__(self, spec: EndpointSpec) -> None:
        self._releases: deque[_Release] = deque(maxlen=_KEPT)
        self._releases.appendleft(_Release(random_id()[:8], spec.version, spec.created_at, []))
        self._shown = spec.fields

    def note(self, spec: EndpointSpec, at: str) -> None:
        """Note a change of the endpoint at a time (RFC 3339); it is a release if it made a new version."""
        if spec.version == self._releases[0].version:
            return
        diff = list(_diff(self._shown, spec.fields))
        self._releases.appendleft(_Release(random_id()[:8], spec.version, at, diff))
        self._shown = spec.fields

    def to_json(self, workers: Sequence[Worker]) -> JsonObject:
        """Return the answer of REST v2, newest first, given the endpoint's workers that are not being stopped."""
        latest = self._releases[0].version
        count = sum(worker.version == latest for worker in workers)
        return {
            "endpointVersion": latest,
            "rollout": {
                "inProgress": count < len(workers),
                "workersOnLatest": count,
                "workersTotal": len(workers),
                "percentOnLatest": round(100 * count / len(workers)) if workers else 0,
            },
            "releases": [
                {
                    "id": release.id,
                    "version": release.version,
                    "source": "MANUAL",
                    "buildId": None,
                    "createdByUserId": None,
                    "workerCount": sum(worker.version == release.version for worker in workers),
                    "createdAt": release.created_at,
                    "diff": release.diff,
                }
                for release in self._releases
            ],
        }


def _diff(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[JsonObject]:
    """Yield what differs; objects are taken apart, as in `workers.max` and `env.NAME`."""
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, dict) or isinstance(after, dict):
            yield from _diff(before or {}, after or {}, f"{prefix}{name}.")
        else:
            yield {"field": f"{prefix}{name}", "old": before, "new": after}
