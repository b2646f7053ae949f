# SPDX-License-Identifier: Apache-2.0
"""A real S3 server on loopback: buckets are folders and objects are files, as in a network volume of Runpod."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from flash_plugins.objects.location import S3Access, S3Location
from tests.support import require

__all__ = ["ACCESS", "BUCKET", "S3Server", "s3_server"]

#: The only keys that it takes; it checks signatures.
ACCESS: Final = S3Access("test-access-key", "test-secret-key-that-nobody-may-see")
BUCKET: Final = "volume1"

_REQUEST = re.compile(r'"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP')


class S3Server:
    """The server's process.

    Args:
        folder: Where buckets are folders.

    Attributes:
        endpoint: Its URL.
    """

    def __init__(self, folder: Path) -> None:
        require("nanio")
        self.folder = folder
        self._log = folder.parent / f"{folder.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def url(self, bucket: str = BUCKET, *, prefix: str = "tests", region: str | None = "EU-RO-1") -> str:
        """Return the URL of a store in it."""
        return S3Location(bucket, prefix, self.endpoint, region).url

    def requests(self) -> list[str]:
        """Return what it was asked so far, such as `PUT /volume1/tests/objects/…`."""
        return [f"{method} {unquote(path)}" for method, path in _REQUEST.findall(self._log.read_text())]

    def start(self) -> None:
        """Start it, and wait until it answers."""
        variables = {"NANIO_ACCESS_KEY": ACCESS.access_key, "NANIO_SECRET_KEY": ACCESS.secret_key}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nanio", "serve", "--data-dir", str(self.folder), "--host", "127.0.0.1",
                 "--port", str(self._port)],
                env={"PATH": "/usr/bin:/bin", **variables}, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"the S3 server does not start: {self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End it; what it keeps stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None


@contextmanager
def s3_server(folder: Path, *, buckets: tuple[str, ...] = (BUCKET,)) -> Iterator[S3Server]:
    """Run a server with these buckets in `folder`."""
    for bucket in buckets:
        (folder / bucket).mkdir(parents=True, exist_ok=True)
    server = S3Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
