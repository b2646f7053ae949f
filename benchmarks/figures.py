# SPDX-License-Identifier: Apache-2.0
"""One measured quantity of one contestant, and the bar it has to meet. Pure arithmetic."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["OURS", "Bar", "Figure", "number", "percentile", "public_reason"]

#: The contestant whose figures have bars.
OURS = "flash-plugins"


@dataclass(frozen=True, slots=True)
class Bar:
    """What a median must not exceed, or must reach if `is_floor`."""

    limit: float
    is_floor: bool = False

    def is_met(self, value: float) -> bool:
        """Return whether `value` is good enough."""
        return value >= self.limit if self.is_floor else value <= self.limit

    def text(self, unit: str) -> str:
        """Return it for a table: `≤ 3 ms`."""
        return f"{'≥' if self.is_floor else '≤'} {number(self.limit)} {unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Figure:
    """A quantity, measured once per repeat.

    Attributes:
        what: The quantity, the same text for all contestants.
        contestant: Who; `OURS` or a peer.
        unit: Of the values.
        values: One per repeat, in order. Empty if it could not be measured; `note` says why.
        bar: What the median is held against.
        note: Short remark for the table.
    """

    what: str
    contestant: str
    unit: str
    values: tuple[float, ...]
    bar: Bar | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The value that counts."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is met; None without a bar or a value."""
        return self.bar.is_met(self.median) if self.bar and self.values else None

    def short(self) -> str:
        """Return the median with its unit."""
        return f"{number(self.median)} {self.unit}".rstrip() if self.values else f"not measured: {self.note}"

    def spread(self) -> str:
        """Return minimum and maximum."""
        return f"{number(min(self.values))} to {number(max(self.values))}"

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        """Return everything, for the results file."""
        measured: dict[str, Any] = {}
        if self.values:
            measured = {"min": min(self.values), "median": self.median, "max": max(self.values)}
        return {
            "what": self.what,
            "contestant": self.contestant,
            "unit": self.unit,
            **measured,
            "values": list(self.values),
            "bar": self.bar.text(self.unit) if self.bar else None,
            "is_met": self.is_met,
            "note": self.note,
        }


def number(value: float) -> str:
    """Return `value` with three digits that mean something, and no exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.3f}".rstrip("0").rstrip(".")


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value below which `percent` of `values` lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def public_reason(text: str) -> str:
    """Return the line of an error output that names the cause, without places of this machine: it is published."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.search(r"error|exception", line, re.IGNORECASE)]
    cause = [*lines, *named][-1] if lines else ""
    return re.sub(r"(?:\w+:/)?(?<![\w.])/[^\s'\"]+", "…", cause)[:160]
