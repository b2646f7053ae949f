# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins jobs list | show | cancel`: what a queue endpoint has to do, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ApiError, ConfigError
from ..platforms.api import EndpointKind
from .connection import find_endpoint, on_platform
from .endpoints import NameOrId
from .output import JsonOption, note, print_json, print_table

if TYPE_CHECKING:
    from ..job import JobResult
    from ..platforms.runpod import EndpointHandle, RunpodClient

__all__ = ["jobs_app"]

#: `flash-plugins jobs`.
jobs_app = typer.Typer(help="Look at the jobs of a queue endpoint, and cancel them.", no_args_is_help=True)

_JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="Id of the job.")]
_EndpointOption = Annotated[str, typer.Option("--endpoint", "-e", help="Name or id of its endpoint.")]

#: Longest text of an output in a table, characters.
_SHOWN_CHARACTERS = 2_000


@jobs_app.command("list")
def list_(name_or_id: NameOrId, as_json: JsonOption = False) -> None:
    """List the jobs of an endpoint where the platform does; else say how many are in which state."""

    async def look(client: RunpodClient) -> tuple[list[Mapping[str, Any]] | None, Mapping[str, int]]:
        handle = await _queue(client, name_or_id)
        return await _requests(client, handle), (await client.health(handle)).get("jobs") or {}

    listed, counts = on_platform(look)
    if as_json:
        print_json({"jobs": listed, "counts": counts})
        return
    if listed:
        rows = [(job.get("id"), job.get("status"), _seconds(job.get("delayTime")), _seconds(job.get("executionTime")))
                for job in listed]  # fmt: skip
        print_table(rows, header=("ID", "STATUS", "WAITED", "RAN"))
    elif listed is None:
        note("this platform lists no single jobs")
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    typer.echo(said or "there are no jobs")


@jobs_app.command()
def show(job_id: _JobId, endpoint: _EndpointOption, as_json: JsonOption = False) -> None:
    """Show one job: its state, its output or error."""
    _print_job(on_platform(lambda client: _status(client, endpoint, job_id)), as_json=as_json)


@jobs_app.command()
def cancel(job_id: _JobId, endpoint: _EndpointOption, as_json: JsonOption = False) -> None:
    """Cancel a job, queued or running."""

    async def end(client: RunpodClient) -> JobResult:
        return await client.cancel(await _queue(client, endpoint), job_id)

    _print_job(on_platform(end), as_json=as_json)


async def _status(client: RunpodClient, endpoint: str, job_id: str) -> JobResult:
    return await client.status(await _queue(client, endpoint), job_id)


async def _queue(client: RunpodClient, name_or_id: str) -> EndpointHandle:
    endpoint = await find_endpoint(client, name_or_id)
    if endpoint.kind is EndpointKind.LOAD_BALANCER:
        raise ConfigError(f"endpoint {endpoint.name!r} is load-balanced: it takes HTTP requests and has no jobs")
    return client.handle_of(endpoint)


async def _requests(client: RunpodClient, handle: EndpointHandle) -> list[Mapping[str, Any]] | None:
    """Return the jobs that the platform lists, None where it does not.

    Runpod serves `/requests` beside `/run` and does not describe its answer (2026-08): what is no list is none.
    """
    url = handle.url("run").removesuffix("/run") + "/requests"
    try:
        answer = await client.http.json("GET", url)
    except ApiError as error:
        if error.status in (400, 404, 405, 501):
            return None
        raise
    listed = answer.get("requests", answer.get("jobs"))
    return [job for job in listed if isinstance(job, Mapping)] if isinstance(listed, list) else None


def _print_job(job: JobResult, *, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(job), "status": job.status.value})
        return
    output = None if job.output is None else str(job.output)
    if output is not None and len(output) > _SHOWN_CHARACTERS:
        output = f"{output[:_SHOWN_CHARACTERS]}… ({len(output):,} characters; --json prints all)"
    rows = [
        ("id", job.id),
        ("status", job.status.value),
        ("worker", job.worker_id),
        ("waited", _seconds(job.delay_ms)),
        ("ran", _seconds(job.execution_ms)),
        ("output", output),
        ("error", job.error),
    ]
    print_table([row for row in rows if row[1] is not None])


def _seconds(milliseconds: object) -> str | None:
    return f"{milliseconds / 1000:.3f} s" if isinstance(milliseconds, (int, float)) else None
