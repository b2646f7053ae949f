# SPDX-License-Identifier: Apache-2.0
"""How many calls of a load-balanced endpoint are with its workers at once. Pure arithmetic."""

from __future__ import annotations

from ..config import EndpointConfig

__all__ = ["Room"]

#: Work that may wait at each place of a worker, so that it has the next call while an outcome travels: seconds, and
#: most calls.
_AHEAD_S = 0.1
_MOST_AHEAD = 16
#: Weight of the newest call in the running mean of their lengths.
_NEWEST = 0.2


class Room:
    """As many as the workers can run at once, or as it takes to have all workers, and more while calls are short.

    Args:
        config: The endpoint.
    """

    def __init__(self, config: EndpointConfig) -> None:
        # A worker is added per `scaler_value` requests: fewer than that for each would never start the last ones.
        self._places = max(1, config.workers[1]) * max(config.max_concurrency, int(config.scaler_value))
        self._mean_s: float | None = None

    @property
    def size(self) -> int:
        """Calls that may be with the workers now."""
        if self._mean_s is None:
            return self._places
        ahead = min(_MOST_AHEAD, _AHEAD_S / max(self._mean_s, 1e-6))
        return self._places + int(self._places * ahead)

    def note(self, seconds: float) -> None:
        """Take the length of a call into account."""
        self._mean_s = seconds if self._mean_s is None else (1 - _NEWEST) * self._mean_s + _NEWEST * seconds
