# SPDX-License-Identifier: Apache-2.0
"""What a platform is to the rest of the package: a place to connect to. It never sends a request.

Every platform speaks Runpod's HTTP, so the seam is small: start or find it, say where it is, say whether
it still lives, leave it. `platforms.runpod.RunpodClient` does the talking for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

__all__ = ["Connection", "Platform"]


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a platform is. Base URLs carry no `/v2`; the key never appears in `repr`."""

    api_base: str
    job_base: str
    key: str = field(repr=False)


@runtime_checkable
class Platform(Protocol):
    """A place that runs endpoints. Methods block; the dispatcher calls them off its event loop."""

    @property
    def name(self) -> str:
        """Short name, such as `local` or `runpod`."""

    @property
    def reason(self) -> str:
        """Why this platform was chosen, as one clause for the line the user sees."""

    def connect(self) -> Connection:
        """Start or find the platform and return where it is. Idempotent; thread-safe.

        Raises:
            PlatformUnavailable: It cannot be started or found; the message says why.
            AuthenticationError: It needs a key and there is none.
            MissingDependencyError: A package it needs is not installed.
        """

    def lost_reason(self) -> str | None:
        """Return why the platform is gone, or None while it lives or cannot tell."""

    def close(self) -> None:
        """Leave the platform; one that this process started ends with everything on it. Idempotent."""
