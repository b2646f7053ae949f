# SPDX-License-Identifier: Apache-2.0
"""The commands, put together. It contains none itself."""

from __future__ import annotations

import typer

from .deploy import deploy, undeploy
from .doctor import doctor
from .endpoints import endpoints_app
from .jobs import jobs_app
from .logs import logs
from .objects import objects
from .plan import plan
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
app.command()(plan)
app.command()(deploy)
app.command()(undeploy)
app.add_typer(endpoints_app, name="endpoints")
app.command()(logs)
app.add_typer(jobs_app, name="jobs")
app.command()(objects)
app.add_typer(platform_app, name="platform")
app.command()(doctor)


@app.callback()
def _root() -> None:
    """Run Python on Runpod Serverless, or on this machine."""
