# SPDX-License-Identifier: Apache-2.0
"""Many calls, until Ctrl-C: `interrupted.py CALLS FOLDER`. Each call leaves its worker's sign of life in the folder.

Prints `submitted` when all calls are made, and `interrupted` after Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from flash_plugins import Endpoint


@Endpoint(name="beats", cpu="cpu5c-4-8", workers=(2, 2))
def beat(folder: str) -> None:
    """Work for 50 ms."""
    sign = Path(folder, str(os.getpid()))
    for _ in range(5):
        sign.touch()
        time.sleep(0.01)


def main() -> None:
    calls = [beat(sys.argv[2]) for _ in range(int(sys.argv[1]))]
    print("submitted", flush=True)
    try:
        for call in calls:
            call.result()
    except KeyboardInterrupt:
        print("interrupted", flush=True)


if __name__ == "__main__":
    main()
