# SPDX-License-Identifier: Apache-2.0
"""For tests and benchmarks: a Runpod on this machine that is as far away, as strict and as slow as the real one.

with simulated_runpod() as runpod:
    subprocess.run([sys.executable, "program.py"], env={**os.environ, **runpod.environment})
    print(runpod.requests())
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from .platforms import api
from .platforms.local.launch import launch

__all__ = ["SimulatedRunpod", "simulated_runpod"]

#: What makes the local platform like Runpod: the way there and back, its published limits, the start of a worker.
ROUND_TRIP_S: Final = 0.08
COLD_START_S: Final = 3.0
REST_PER_MINUTE: Final = 60

#: Seconds that the platform may take to say something about itself.
_ANSWER_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class SimulatedRunpod:
    """One that runs.

    Attributes:
        url: Where it is, without `/v2`.
        key: Its API key.
    """

    url: str
    key: str = field(repr=False)

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables by which this package and the official clients take it for Runpod, with its limits."""
        return {
            "FLASH_PLATFORM": "runpod",
            api.API_BASE_ENV: self.url,
            api.ENDPOINT_BASE_ENV: f"{self.url}/v2",
            api.API_KEY_ENV: self.key,
        }

    def requests(self) -> dict[str, int]:
        """Return how many requests there were: `client run`, `client stream`, …, `client rest`, `worker job-take`, ….

        `refused` are those that were over a limit of the job API; they are counted under their operation, too.
        """
        counts: dict[str, int] = self._asked(None)["requests"]
        return counts

    def advance(self, seconds: float) -> None:
        """Let time pass on the platform, in no time: results and jobs expire, idle workers stop."""
        self._asked({"advance_s": seconds})

    def _asked(self, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(f"{self.url}/_platform", data, headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=_ANSWER_TIMEOUT_S) as answer:
            return json.load(answer)


@contextmanager
def simulated_runpod(**faults: object) -> Iterator[SimulatedRunpod]:
    """Run one until the block ends: 80 ms there and back, Runpod's limits, 3 s until a worker takes jobs.

    Args:
        faults: Fields of `platforms.local.faults.Faults` that shall be otherwise.

    Raises:
        MissingDependencyError: A package that the local platform needs is not installed.
        PlatformUnavailable: It did not start.
    """
    wanted = {
        "round_trip_s": ROUND_TRIP_S,
        "cold_start_s": COLD_START_S,
        "rest_per_minute": REST_PER_MINUTE,
        "is_rate_limited": True,
        "is_uncapped": True,
        "has_movable_clock": True,
        **faults,
    }
    platform = launch(faults=wanted)
    try:
        yield SimulatedRunpod(platform.url, platform.key)
    finally:
        platform.stop()
