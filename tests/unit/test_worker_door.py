# SPDX-License-Identifier: Apache-2.0
"""The thread that answers for a load-balanced worker goes on, whatever a connection comes to."""

from __future__ import annotations

import errno
import socket
from typing import Any

from flash_plugins.worker.door import Door


class Crowded(socket.socket):
    """A listening socket of a process that has too many files open, for a moment."""

    refusals = 2

    def accept(self) -> tuple[socket.socket, Any]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_connection_that_cannot_be_taken_at_once_is_a_moment_later() -> None:
    with Crowded(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        door = Door([listening], "/ping")
        try:
            with socket.create_connection(listening.getsockname(), timeout=20) as caller:
                caller.sendall(b"GET /ping HTTP/1.1\r\n\r\n")
                assert caller.recv(100).startswith(b"HTTP/1.1 204 ")
        finally:
            door.close()
    assert listening.refusals == 0
