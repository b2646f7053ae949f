# SPDX-License-Identifier: Apache-2.0
"""Entry of the platform's process: `python -m flash_plugins.platforms.local [--port P] [--key K]`."""

from __future__ import annotations

import argparse
import json
import os
import sys


def main() -> None:
    """Run a platform; prints one JSON line when it is ready. Exit code 3: the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m flash_plugins.platforms.local")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key")
    # What `launch` uses: the options come as one JSON line on stdin, where no other process can read the key.
    parser.add_argument("--options-from-stdin", action="store_true")
    arguments = parser.parse_args()
    given = {"port": arguments.port, "key": arguments.key}
    if arguments.options_from_stdin:
        given |= json.loads(_read_line())
    if given.get("is_detached") and os.fork():
        os._exit(0)

    from .faults import Faults
    from .process import Options, PortTaken, run

    if given.get("faults"):
        given["faults"] = Faults(**given["faults"])
    try:
        run(Options(**given))
    except PortTaken as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(3)


def _read_line() -> bytes:
    """Read stdin up to the first line's end and no further: the rest of the pipe is watched for its end."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line


if __name__ == "__main__":
    main()
