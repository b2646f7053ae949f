# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks [--only NAME] [--quick]`: measures the rows one after another, prints a table, keeps a file."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace

from . import machine
from .contestants import versions
from .environments import ROOT
from .figures import OURS, Figure, public_reason
from .report import Report
from .rows import ROWS
from .sizes import FULL, QUICK, Sizes

#: Load average above which figures are worth little.
BUSY_LOAD = 0.5


def main() -> int:
    """Run what the command line asks for; 1 if a figure of ours could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure flash-plugins beside its peers.")
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this row only; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that the scripts work")
    options = parser.parse_args()

    here = machine.look()
    if here.load[0] > BUSY_LOAD:
        _say(f"WARNING: load average {here.load[0]:g} before the start (over {BUSY_LOAD:g}): this machine is busy")
    found = versions()  # installs the peers, before anything is measured
    rows = {name: _measure(name, QUICK if options.quick else FULL) for name in options.only or ROWS}
    report = Report(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=here,
        commit=machine.commit(),
        versions=found,
        is_quick=options.quick,
        is_complete=rows.keys() == ROWS.keys(),
        rows=rows,
    )
    path = report.write(ROOT / "benchmarks" / "results")
    print(report.markdown())
    _say(f"wrote {path.relative_to(ROOT)}")
    return int(any(figure.contestant == OURS and not figure.values for figure in report.figures))


def _measure(name: str, sizes: Sizes) -> list[Figure]:
    _say(f"— {name} (load average {os.getloadavg()[0]:.2f})")
    began = time.monotonic()
    figures = []
    for figure in _survive(name, ROWS[name](sizes)):
        figures.append(figure if figure.values else replace(figure, note=public_reason(figure.note)))
        passed = {True: "pass", False: "FAIL", None: ""}[figure.is_met]
        bar = figure.bar.text(figure.unit) if figure.bar else ""
        spread = f"({figure.spread()})" if figure.values else ""
        _say(f"  {figure.what:<58} {figure.contestant:<14} {figure.short()} {spread} {bar} {passed}".rstrip())
    _say(f"  took {time.monotonic() - began:.0f} s")
    return figures


def _survive(name: str, figures: Iterator[Figure]) -> Iterator[Figure]:
    try:
        yield from figures
    except Exception as error:  # noqa: BLE001  a row that breaks must not cost the figures of all others
        traceback.print_exc()
        yield Figure(f"row {name}", OURS, "", (), note=f"{type(error).__name__}: {error}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
