# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins platform start | status | stop`: a local platform kept running by hand."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from ..errors import FlashPluginsError
from ..platforms import api
from ..platforms.local.launch import RunningPlatform, find_running, launch

__all__ = ["platform_app"]

#: `flash-plugins platform`.
platform_app = typer.Typer(help="Run the local platform by hand: Runpod's API on this machine.", no_args_is_help=True)

_JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]

#: How often a platform in the foreground is looked at, seconds.
_WATCH_S = 0.2
#: Exit codes: a wrong call or setting; no platform runs.
_EXIT_USAGE = 2
_EXIT_NOT_RUNNING = 1


@platform_app.command()
def start(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 is any free one.")] = 0,
    key: Annotated[str | None, typer.Option(help="API key it shall want; random if not given.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running; end it with `platform stop`.")] = False,
    as_json: _JsonOption = False,
) -> None:
    """Start a local platform, in the foreground until Ctrl-C unless detached."""
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key or not key):
        _fail("--key must be printable ASCII without spaces", _EXIT_USAGE)
    running = find_running() if detach else None
    if running is not None:
        _fail(
            f"a local platform runs already: {running.url}, process {running.pid}; end it with "
            "`flash-plugins platform stop`",
            _EXIT_USAGE,
        )
    # From before the start: a signal that comes in the middle of it must end the platform too.
    with _ending_on(signal.SIGTERM, signal.SIGINT) as asked:
        try:
            platform = launch(port=port, key=key, detach=detach)
        except FlashPluginsError as error:
            _fail(str(error), _EXIT_USAGE)
        _show(platform, as_json=as_json, is_started=True)
        if not detach:
            _wait(platform, asked)


@platform_app.command()
def status(as_json: _JsonOption = False) -> None:
    """Say whether a detached platform runs, and where."""
    running = find_running()
    if running is None:
        _say_not_running(as_json)
    else:
        _show(running, as_json=as_json)


@platform_app.command()
def stop(as_json: _JsonOption = False) -> None:
    """End the detached platform and all its workers."""
    running = find_running()
    if running is None:
        _say_not_running(as_json)
    running.stop()
    if as_json:
        typer.echo(json.dumps({"stopped": True, "pid": running.pid}))
    else:
        typer.echo(f"stopped the local platform, process {running.pid}")


def _show(platform: RunningPlatform, *, as_json: bool, is_started: bool = False) -> None:
    if as_json:
        fields = {"running": True, "url": platform.url, "key": platform.key, "pid": platform.pid}
        typer.echo(json.dumps({**fields, "run_dir": str(platform.run_dir)}))
        sys.stdout.flush()
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in (("url", platform.url), ("key", platform.key), ("process", platform.pid)):
        table.add_row(name, str(value))
    Console(soft_wrap=True).print(table)
    if is_started:
        typer.echo("\nFor this and the official clients:")
    typer.echo(f"export {api.API_BASE_ENV}={platform.url}")
    typer.echo(f"export {api.ENDPOINT_BASE_ENV}={platform.url}/v2")
    typer.echo(f"export {api.API_KEY_ENV}={platform.key}")
    sys.stdout.flush()


def _wait(platform: RunningPlatform, asked: list[int]) -> None:
    """Stay until a signal has asked for the end, or the platform's own."""
    while platform.is_alive() and not asked:
        time.sleep(_WATCH_S)
    reason = platform.exit_reason()
    platform.stop()
    if reason is not None:
        _fail(reason, 1)


@contextmanager
def _ending_on(*numbers: int) -> Iterator[list[int]]:
    asked: list[int] = []
    before = {number: signal.signal(number, lambda got, frame: asked.append(got)) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_not_running(as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"running": False}))
    else:
        typer.echo("no local platform runs; start one with `flash-plugins platform start --detach`", err=True)
    raise typer.Exit(_EXIT_NOT_RUNNING)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"flash-plugins: {message}", err=True)
    raise typer.Exit(code)
