# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins logs NAME_OR_ID [-f]`: what the workers of an endpoint write, all of them together."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError, NotFoundError, PlatformError
from .connection import find_endpoint, on_platform
from .endpoints import NameOrId
from .output import fail, note

if TYPE_CHECKING:
    from ..platforms.models import EndpointInfo, LogLine
    from ..platforms.rest import RestClient
    from ..platforms.runpod import RunpodClient

__all__ = ["logs"]

#: How often it is asked for new workers, seconds: on a platform that counts requests, and on one that does not.
_LOOK_S = 5.0
_EAGER_LOOK_S = 0.5
#: Most lines that the platform gives of what is there already.
_TAIL_MAX = 5_000
#: Exit code after Ctrl-C, as shells have it.
_EXIT_INTERRUPTED = 130

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def logs(
    name_or_id: NameOrId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    tail: Annotated[int, typer.Option(min=0, max=_TAIL_MAX, help="Lines of each worker to begin with.")] = 100,
    since: Annotated[str | None, typer.Option(help="Only newer lines: 10m, 2h, or 2026-08-20T12:00:00Z.")] = None,
    worker: Annotated[str | None, typer.Option(help="Only this worker.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON for each line.")] = False,
) -> None:
    """Show what the workers of an endpoint write to standard output and error."""
    begin = None if since is None else _moment(since)
    follower = _Follower(tail=tail, since=begin, worker=worker, as_json=as_json)

    async def read(client: RunpodClient) -> int:
        endpoint = await find_endpoint(client, name_or_id)
        if follow:
            look_s = _EAGER_LOOK_S if client.connection.limits is None else _LOOK_S
            return await follower.follow(client.rest, endpoint, look_s=look_s)
        return await follower.show(client.rest, endpoint)

    try:
        workers = on_platform(read)
    except KeyboardInterrupt:
        raise typer.Exit(_EXIT_INTERRUPTED) from None
    if worker is not None and not workers:
        fail(f"endpoint {name_or_id!r} has no worker {worker!r} now")
    if not workers and not follow:
        note(f"endpoint {name_or_id!r} has no workers now; --follow waits for them")


class _Follower:
    """Reads the logs of all workers and prints their lines."""

    def __init__(self, *, tail: int, since: str | None, worker: str | None, as_json: bool) -> None:
        self._tail = tail
        self._since = since
        self._worker = worker
        self._as_json = as_json

    async def show(self, rest: RestClient, endpoint: EndpointInfo) -> int:
        """Print what is there, in the order of time; returns the number of workers."""
        ids = await self._workers(rest, endpoint)
        logs = await asyncio.gather(*(self._read(rest, endpoint, worker_id) for worker_id in ids))
        lines = [(line.ts, place, worker_id, line) for worker_id, log in zip(ids, logs, strict=True)
                 for place, line in enumerate(log)]  # fmt: skip
        for _, _, worker_id, line in sorted(lines, key=lambda entry: entry[:3]):
            self._print(worker_id, line)
        return len(ids)

    async def follow(self, rest: RestClient, endpoint: EndpointInfo, *, look_s: float) -> int:
        """Print what is there and what comes, of new workers too, until the endpoint is deleted."""
        readers: dict[str, asyncio.Task[None]] = {}
        tail = self._tail
        try:
            while True:
                for worker_id in await self._workers(rest, endpoint):
                    if worker_id not in readers:
                        readers[worker_id] = asyncio.create_task(self._copy(rest, endpoint, worker_id, tail))
                tail = _TAIL_MAX  # all of what a worker writes that starts from now on
                for reader in readers.values():
                    if reader.done():
                        reader.result()
                await asyncio.sleep(look_s)
        except NotFoundError:
            note(f"endpoint {endpoint.name!r} was deleted")
            return len(readers)
        finally:
            for reader in readers.values():
                reader.cancel()
            await asyncio.gather(*readers.values(), return_exceptions=True)

    async def _workers(self, rest: RestClient, endpoint: EndpointInfo) -> list[str]:
        now = await rest.workers(endpoint.id)
        return [worker.id for worker in now.workers if self._worker in (None, worker.id)]

    async def _copy(self, rest: RestClient, endpoint: EndpointInfo, worker_id: str, tail: int) -> None:
        try:
            async for line in rest.logs(endpoint.id, worker_id, tail=tail, since=self._since):
                self._print(worker_id, line)
        except NotFoundError:
            return  # it ended between the two requests
        except PlatformError as error:
            note(f"the log of worker {worker_id} broke off: {error}")

    async def _read(self, rest: RestClient, endpoint: EndpointInfo, worker_id: str) -> list[LogLine]:
        if self._tail == 0:
            return []
        try:
            return await rest.log_tail(endpoint.id, worker_id, lines=self._tail, since=self._since)
        except NotFoundError:
            return []  # it ended between the two requests

    def _print(self, worker_id: str, line: LogLine) -> None:
        if self._as_json:
            fields = {"worker": worker_id, **asdict(line)}
            text = json.dumps(fields)
        else:
            source = "" if line.source == "container" else f"[{line.source}] "
            text = f"{worker_id} {source}{line.line}"
        typer.echo(text)
        sys.stdout.flush()


def _moment(text: str) -> str:
    """Return a moment as RFC 3339, given as that or as the time that has passed since."""
    ago = re.fullmatch(r"(\d+)([smhd])", text)
    if ago is not None:
        passed = datetime.timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        return (datetime.datetime.now(datetime.UTC) - passed).isoformat(timespec="seconds").replace("+00:00", "Z")
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--since {text!r}: give 30s, 10m, 2h, 1d, or a time such as 2026-08-20T12:00:00Z") from None
    return moment.astimezone(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
