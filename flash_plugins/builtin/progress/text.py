# SPDX-License-Identifier: Apache-2.0
"""The words of a progress display, fitted to the room there is. Plain text: no colours, nothing to switch off."""

from __future__ import annotations

import html
import math
import unicodedata
from typing import Final

from .tally import Snapshot

__all__ = ["html_of", "line_of"]

#: Which parts of a line go first where it is too long, the first named first.
_LEAST_WANTED: Final = ("seconds", "queued", "workers", "rate", "running", "cancelled", "starting", "left", "failed")
#: Longest name of the work beside other parts, columns.
_LABEL_COLUMNS: Final = 40


def line_of(snapshot: Snapshot, *, columns: int | None = None, is_ascii: bool = False) -> str:
    """Return how far the work is in one line.

    Args:
        snapshot: What to say.
        columns: How many there are, None for any number. Parts that do not fit are left out, then it is cut.
        is_ascii: Whether whoever reads it knows nothing but ASCII.
    """
    dot, dots = (", ", "...") if is_ascii else (" · ", "…")
    head = f"{snapshot.done}/{snapshot.total}{'+' if snapshot.is_open else ''} {snapshot.unit} done"
    label = ", ".join(snapshot.labels).replace("…", dots)
    if is_ascii:
        label = label.encode("ascii", "replace").decode("ascii")
    parts = _parts(snapshot)
    if columns is None:
        return f"{label}: {dot.join([head, *parts.values()])}"
    label = _cut(label, min(_LABEL_COLUMNS, columns // 2), dots)
    for name in ("", *_LEAST_WANTED):
        parts.pop(name, None)
        text = f"{label}: {dot.join([head, *parts.values()])}"
        if _columns_of(text) <= columns:
            return text
    return _cut(text, columns, dots)


def html_of(snapshot: Snapshot) -> str:
    """Return the same for a notebook, with a bar where the total is known."""
    bar = ""
    if not snapshot.is_open:
        style = "width:16em;max-width:40%;vertical-align:middle;margin-right:0.7em"
        bar = f'<progress value="{snapshot.done}" max="{max(snapshot.total, 1)}" style="{style}"></progress>'
    return f'<div style="font-variant-numeric:tabular-nums">{bar}<span>{html.escape(line_of(snapshot))}</span></div>'


def _parts(snapshot: Snapshot) -> dict[str, str]:
    """Return what there is to say beside the counts, by name, in the order in which it is said."""
    parts = {}
    queued = snapshot.total - snapshot.done - snapshot.running
    is_under_way = queued > 0 or snapshot.running > 0
    if snapshot.starting:
        cold = ", ".join(snapshot.starting)
        parts["starting"] = (
            f"starting workers of {cold}" if snapshot.workers or snapshot.running else "starting workers"
        )
    if snapshot.running:
        parts["running"] = f"{snapshot.running} running"
    if queued > 0 and not snapshot.is_open:
        parts["queued"] = f"{queued} queued"
    if snapshot.failed:
        parts["failed"] = f"{snapshot.failed} failed"
    if snapshot.cancelled:
        parts["cancelled"] = f"{snapshot.cancelled} cancelled"
    if snapshot.workers:
        parts["workers"] = f"{snapshot.workers} worker{'s' if snapshot.workers > 1 else ''}"
    if snapshot.rate is not None:
        parts["rate"] = _rate(snapshot.rate)
    parts["seconds"] = _duration(snapshot.seconds)
    if is_under_way and snapshot.left_s is not None:
        parts["left"] = f"{_duration(math.ceil(snapshot.left_s))} left"
    return parts


def _rate(per_second: float) -> str:
    for factor, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if (rate := per_second * factor) >= 1 or unit == "h":
            break
    return f"{rate:,.0f}/{unit}" if rate >= 100 else f"{rate:.1f}/{unit}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _columns_of(text: str) -> int:
    return sum(map(_width, text)) if not text.isascii() else len(text)


def _width(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _cut(text: str, columns: int, dots: str) -> str:
    """Return the text, its end cut off where it is longer than so many columns."""
    if _columns_of(text) <= columns:
        return text
    if columns <= len(dots):
        return dots[: max(columns, 0)]
    kept, used = [], len(dots)
    for letter in text:
        used += _width(letter)
        if used > columns:
            break
        kept.append(letter)
    return "".join(kept) + dots
