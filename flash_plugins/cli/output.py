# SPDX-License-Identifier: Apache-2.0
"""What all commands share of talking to a person or a program: tables, JSON, questions, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

__all__ = [
    "EXIT_FAILED",
    "EXIT_USAGE",
    "JsonOption",
    "YesOption",
    "confirm",
    "fail",
    "note",
    "print_json",
    "print_table",
]

#: Exit codes: something went wrong, or is not there; a wrong call or setting.
EXIT_FAILED = 1
EXIT_USAGE = 2

#: `--json`.
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
#: `--yes`.
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def print_json(value: Any) -> None:  # Any: JSON
    """Print one line of JSON."""
    typer.echo(json.dumps(value))
    sys.stdout.flush()


def print_table(rows: Iterable[Sequence[object]], *, header: Sequence[str] = ()) -> None:
    """Print rows of cells; None is an empty one. Nothing is cut off, however narrow the terminal."""
    table = Table(show_header=bool(header), box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in header:
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    # Wide rather than as wide as the terminal: wrapped identifiers cannot be copied.
    console = Console(soft_wrap=True, markup=False, highlight=False, width=10_000)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())
    sys.stdout.flush()


def note(message: str) -> None:
    """Tell the person something that is no result, on stderr."""
    typer.echo(f"flash-plugins: {message}", err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless `yes`; ends the command unless the answer is yes, also where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Nobody can answer here: give --yes", EXIT_USAGE)
    if not typer.confirm(question, err=True):
        fail("nothing was changed", EXIT_FAILED)


def fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    """Say why and end the command."""
    note(message)
    raise typer.Exit(code)
