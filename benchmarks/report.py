# SPDX-License-Identifier: Apache-2.0
"""Figures as a table for a README, and as a file with everything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .figures import OURS, Figure
from .machine import Machine

__all__ = ["Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """One run of the benchmarks.

    Attributes:
        date: Of the run, ISO.
        machine: What it ran on.
        commit: Of this checkout.
        versions: Of all packages, by contestant.
        is_quick: True if sizes were small: figures that say nothing.
        is_complete: True if all rows were run.
        rows: Figures by row.
    """

    date: str
    machine: Machine
    commit: str
    versions: dict[str, dict[str, str]]
    is_quick: bool
    is_complete: bool
    rows: dict[str, list[Figure]]

    @property
    def figures(self) -> list[Figure]:
        """All of them, in order."""
        return [figure for figures in self.rows.values() for figure in figures]

    def markdown(self) -> str:
        """Return the table and a sentence on where it comes from."""
        lines = ["| | bar | flash-plugins | others, same run |", "|---|---|---|---|"]
        for what, figures in _by_quantity(self.figures).items():
            ours = next((figure for figure in figures if figure.contestant == OURS), None)
            bar = ours.bar.text(ours.unit) if ours and ours.bar else ""
            others = " · ".join(
                f"{figure.contestant} {_cell(figure, with_spread=False)}" for figure in figures if figure is not ours
            )
            lines.append(f"| {what} | {bar} | {_cell(ours, with_spread=True) if ours else ''} | {others} |")
        return "\n".join([*lines, "", self._origin()])

    def write(self, folder: Path) -> Path:
        """Write everything as JSON and return the file; another run of the same day and rows replaces it."""
        folder.mkdir(exist_ok=True)
        parts = [self.date, self.machine.slug, *(() if self.is_complete else self.rows)]
        path = folder / f"{'-'.join(parts)}{'-quick' if self.is_quick else ''}.json"
        content: dict[str, Any] = {
            "date": self.date,
            "commit": self.commit,
            "is_quick": self.is_quick,
            "machine": self.machine.as_json(),
            "versions": self.versions,
            "rows": {name: [figure.as_json() for figure in figures] for name, figures in self.rows.items()},
        }
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def _origin(self) -> str:
        peers = [
            f"{name} {next(iter(found.values()))}"
            for name, found in self.versions.items()
            if name != OURS and "unavailable" not in found
        ]
        return (
            f"{'QUICK RUN, sizes too small to quote. ' if self.is_quick else ''}"
            f"Median of each row's repeats (in brackets: least to greatest), {self.date}, commit {self.commit}, "
            f"{self.machine}, load average before {self.machine.load[0]:g}; {', '.join(peers)}."
        )


def _by_quantity(figures: Iterable[Figure]) -> dict[str, list[Figure]]:
    grouped: dict[str, list[Figure]] = {}
    for figure in figures:
        grouped.setdefault(figure.what, []).append(figure)
    return grouped


def _cell(figure: Figure, *, with_spread: bool) -> str:
    parts: Sequence[str] = [figure.short()]
    if not figure.values:
        return figure.short()
    if with_spread:
        parts = [*parts, f"({figure.spread()})"]
    if figure.is_met is not None:
        parts = [*parts, "pass" if figure.is_met else "**FAIL**"]
    if figure.note:
        parts = [*parts, f"({figure.note})"]
    return " ".join(parts)
