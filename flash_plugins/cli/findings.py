# SPDX-License-Identifier: Apache-2.0
"""One line of what `doctor` reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "State"]


class State(StrEnum):
    """How a finding is meant."""

    OK = "ok"
    #: Nothing wrong, but good to know.
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    topic: str
    state: State
    said: str
