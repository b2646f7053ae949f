# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins platform start | status | stop`: a local platform kept running by hand."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from ..errors import FlashPluginsError
from ..platforms import api
from ..platforms.local.launch import RunningPlatform, find_running, launch
from .output import EXIT_FAILED, EXIT_USAGE, JsonOption, fail, note, print_json, print_table

__all__ = ["platform_app"]

#: `flash-plugins platform`.
platform_app = typer.Typer(help="Run the local platform by hand: Runpod's API on this machine.", no_args_is_help=True)

#: How often a platform in the foreground is looked at, seconds.
_WATCH_S = 0.2


@platform_app.command()
def start(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 is any free one.")] = 0,
    key: Annotated[str | None, typer.Option(help="API key it shall want; random if not given.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running; end it with `platform stop`.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start a local platform, in the foreground until Ctrl-C unless detached."""
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key or not key):
        fail("--key must be printable ASCII without spaces", EXIT_USAGE)
    running = find_running()
    if running is not None:
        where = f"a local platform runs already: {running.url}, process {running.pid}"
        if detach:
            fail(f"{where}; end it with `flash-plugins platform stop`", EXIT_USAGE)
        note(f"{where}. Programs go on finding that one, and this one only by the variables below")
    # From before the start: a signal that comes in the middle of it must end the platform too.
    with _ending_on(signal.SIGTERM, signal.SIGINT) as asked:
        try:
            platform = launch(port=port, key=key, detach=detach, announce=running is None)
        except FlashPluginsError as error:
            fail(str(error), EXIT_USAGE)
        _show(platform, as_json=as_json, is_started=True)
        if not detach:
            _wait(platform, asked)


@platform_app.command()
def status(as_json: JsonOption = False) -> None:
    """Say whether a platform runs that programs find, and where."""
    running = find_running()
    if running is None:
        _say_not_running(as_json)
    else:
        _show(running, as_json=as_json)


@platform_app.command()
def stop(as_json: JsonOption = False) -> None:
    """End the platform that programs find, and all its workers."""
    running = find_running()
    if running is None:
        _say_not_running(as_json)
    running.stop()
    if as_json:
        print_json({"stopped": True, "pid": running.pid})
    else:
        typer.echo(f"stopped the local platform, process {running.pid}")


def _show(platform: RunningPlatform, *, as_json: bool, is_started: bool = False) -> None:
    if as_json:
        fields = {"running": True, "url": platform.url, "key": platform.key, "pid": platform.pid}
        print_json({**fields, "run_dir": str(platform.run_dir)})
        return
    print_table([("url", platform.url), ("key", platform.key), ("process", platform.pid)])
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
    if reason is not None and not platform.ended_well():
        fail(reason)


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
        print_json({"running": False})
    else:
        typer.echo("no local platform runs; start one with `flash-plugins platform start --detach`", err=True)
    raise typer.Exit(EXIT_FAILED)
