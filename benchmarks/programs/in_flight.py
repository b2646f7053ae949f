# SPDX-License-Identifier: Apache-2.0
"""Many calls that wait at once: `in_flight.py CALLS SECONDS`. Its parent watches it from outside.

Prints `warm` when the platform is warm and one call is done; each line on stdin is a step:
submit everything and print `submitted`; then print how many calls are done, and end.
"""

from __future__ import annotations

import gc
import sys
import time

from flash_plugins import Endpoint


@Endpoint(name="nap", cpu="cpu5c-4-8", workers=(2, 2))
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def say(text: object) -> None:
    print(text, flush=True)


def main() -> None:
    count, seconds = int(sys.argv[1]), float(sys.argv[2])
    nap(0.0).result()
    gc.collect()
    say("warm")
    sys.stdin.readline()
    calls = [nap(seconds) for _ in range(count)]
    say("submitted")
    sys.stdin.readline()
    say(sum(call.done() for call in calls))


if __name__ == "__main__":
    main()
