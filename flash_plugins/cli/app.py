# SPDX-License-Identifier: Apache-2.0
"""The commands, put together. It contains none itself."""

from __future__ import annotations

import typer

from .platform import platform_app

__all__ = ["app"]

#: `flash-plugins`.
app = typer.Typer(
    name="flash-plugins",
    help="Run Python on Runpod Serverless, or on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(platform_app, name="platform")


@app.callback()
def _root() -> None:
    """Run Python on Runpod Serverless, or on this machine."""
