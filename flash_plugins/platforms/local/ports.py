# SPDX-License-Identifier: Apache-2.0
"""Ports on 127.0.0.1 for workers that serve HTTP. It listens on none of them itself."""

from __future__ import annotations

import contextlib
import random
import socket

__all__ = ["Ports"]

#: Where ports are taken from: below the range from which systems number outgoing connections, so that none of those
#: gets the port in the seconds until the worker binds it.
_FIRST = 20_000
_LAST = 32_000
#: Below it only privileged processes may bind, and a port of a container's is a bad idea on a machine.
_UNPRIVILEGED = 1_024
#: Ports tried before giving up.
_TRIES = 200


class Ports:
    """Hands out ports that are free, and none twice before it is given back."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, preferred: int | None = None) -> int:
        """Return a free port: the preferred one if it is free and no system port.

        Raises:
            OSError: No free port was found.
        """
        if preferred is not None and preferred >= _UNPRIVILEGED and self._try(preferred):
            return preferred
        for _ in range(_TRIES):
            port = random.randint(_FIRST, _LAST)
            if self._try(port):
                return port
        raise OSError(f"none of {_TRIES} ports between {_FIRST} and {_LAST} is free on 127.0.0.1")

    def give_back(self, port: int) -> None:
        """Let a port be taken again."""
        self._taken.discard(port)

    def _try(self, port: int) -> bool:
        if port in self._taken or not _is_free(port):
            return False
        self._taken.add(port)
        return True


def _is_free(port: int) -> bool:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # As servers do: what an earlier connection left in TIME_WAIT is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # All addresses, because that is what workers usually bind.
            probe.bind(("", port))
        except OSError:
            return False
    return True
