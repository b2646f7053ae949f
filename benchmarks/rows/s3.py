# SPDX-License-Identifier: Apache-2.0
"""Libraries that could carry objects into a bucket, against a real S3 server on loopback."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ..children import ChildFailed, run_json
from ..contestants import BOTOCORE, FLASH, OBSTORE, S3FS
from ..environments import EnvironmentUnavailable
from ..figures import Figure
from ..sizes import Sizes

__all__ = ["measure"]

_BUCKET: Final = "objects"
_KEYS: Final = ("bench-access-key", "bench-secret-key")
#: Seconds for the server to start.
_START_S: Final = 60.0
_SMALL_MB: Final = 1.0


def measure(sizes: Sizes) -> Iterator[Figure]:
    """Yield what each library costs to load, its megabytes per second, and whether it works in a forked child."""
    big_mb = sizes.megabytes
    with _server() as endpoint:
        for library in (BOTOCORE, OBSTORE, S3FS):
            place = (library.key, endpoint, _BUCKET, *_KEYS)
            try:
                taken = run_json(
                    library.python(), "s3_libraries.py", *place, sizes.repeats, sizes.contents, big_mb * 1_000_000
                )
            except (ChildFailed, EnvironmentUnavailable) as error:
                yield Figure("S3 library", library.name, "", (), note=str(error))
                continue
            yield from _figures(library.name, taken, sizes.contents, big_mb)


def _figures(name: str, taken: dict[str, Any], count: int, big_mb: int) -> Iterator[Figure]:
    yield Figure("S3 library: load, with a client", name, "s", (taken["load_s"],))
    yield Figure("S3 library: memory once loaded", name, "MB", (taken["loaded_mb"],))
    yield Figure("S3 library: peak memory", name, "MB", (taken["peak_mb"],))
    forked = taken["forked_s"]
    note = "" if forked is not None else "hangs"
    yield Figure("S3 library: client and one GET in a forked child", name, "s", (forked,) if forked else (), note=note)
    for operation in ("put", "get"):
        for key, what, amount_mb in (
            (f"{operation}_small_s", f"{count} x 1 MB", count * _SMALL_MB),
            (f"{operation}_small_threads_s", f"{count} x 1 MB, 8 threads", count * _SMALL_MB),
            (f"{operation}_big_s", f"{big_mb} MB", float(big_mb)),
        ):
            values = tuple(amount_mb / one for one in taken[key])
            yield Figure(f"S3 library: {operation.upper()} {what}", name, "MB/s", values)


@contextmanager
def _server() -> Iterator[str]:
    """Run a server with an empty bucket; yields its URL."""
    with tempfile.TemporaryDirectory(prefix="bench-s3-") as folder:
        (Path(folder) / _BUCKET).mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            [str(FLASH.python()), "-m", "nanio", "serve", "--data-dir", folder, "--host", "127.0.0.1",
             "--port", str(port), "--no-access-log", "--log-level", "error"],
            env={"PATH": "/usr/bin:/bin", "NANIO_ACCESS_KEY": _KEYS[0], "NANIO_SECRET_KEY": _KEYS[1]},
        )  # fmt: skip
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
