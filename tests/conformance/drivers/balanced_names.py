# SPDX-License-Identifier: Apache-2.0
"""Lets names below `edge.test` be this machine, for clients that build host names from endpoint ids."""

from __future__ import annotations

import socket
from typing import Any

_resolve = socket.getaddrinfo


def _resolve_here(host: Any, *arguments: Any, **options: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    is_ours = isinstance(name, str) and name.endswith("edge.test")
    return _resolve("127.0.0.1" if is_ours else host, *arguments, **options)


def install() -> None:
    """Change how this process resolves names."""
    socket.getaddrinfo = _resolve_here
