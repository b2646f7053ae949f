# SPDX-License-Identifier: Apache-2.0
"""Tasks without end from a generator: `many_tasks.py TASKS`. Its parent watches its memory.

Prints `warm`; a line on stdin begins. Prints `settled` after the first tenth, then the seconds of all.
"""

from __future__ import annotations

import sys
import time

from flash_plugins import Endpoint


@Endpoint(name="many", cpu="cpu5c-4-8", workers=(2, 2))
def noop(x: int) -> int:
    return x


def say(text: object) -> None:
    print(text, flush=True)


def main() -> None:
    tasks = int(sys.argv[1])
    list(noop.map(range(100)))
    say("warm")
    sys.stdin.readline()
    began = time.perf_counter()
    for place, value in enumerate(noop.map(x for x in range(tasks))):
        assert value == place
        if place == tasks // 10:
            say("settled")
    say(time.perf_counter() - began)


if __name__ == "__main__":
    main()
