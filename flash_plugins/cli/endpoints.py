# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins endpoints list | show | delete`: what is on the platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ..platforms.api import EndpointKind
from .connection import find_endpoint, list_endpoints, on_platform
from .output import JsonOption, YesOption, confirm, print_json, print_table

if TYPE_CHECKING:
    from ..platforms.models import EndpointInfo, EndpointWorkers
    from ..platforms.runpod import RunpodClient

__all__ = ["NameOrId", "delete_all", "endpoints_app", "hardware"]

#: `flash-plugins endpoints`.
endpoints_app = typer.Typer(help="Look at the endpoints of the platform, and delete them.", no_args_is_help=True)

#: An endpoint by name or id.
NameOrId = Annotated[str, typer.Argument(metavar="NAME_OR_ID", help="Name or id of the endpoint.")]


@endpoints_app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the endpoints."""
    endpoints = on_platform(list_endpoints)
    if as_json:
        print_json([_public(endpoint) for endpoint in endpoints])
    elif endpoints:
        rows = [(e.name, e.id, _kind(e), hardware(e), _range(e), e.created_at) for e in endpoints]
        print_table(rows, header=("NAME", "ID", "TYPE", "HARDWARE", "WORKERS", "CREATED"))
    else:
        typer.echo("there are no endpoints")


@endpoints_app.command()
def show(name_or_id: NameOrId, as_json: JsonOption = False) -> None:
    """Show one endpoint: what it is, its workers, its URLs. Values of its environment are left out."""

    async def look(client: RunpodClient) -> tuple[EndpointInfo, EndpointWorkers]:
        endpoint = await find_endpoint(client, name_or_id)
        return endpoint, await client.rest.workers(endpoint.id)

    endpoint, now = on_platform(look)
    if as_json:
        print_json({**_public(endpoint), "workersNow": [asdict(worker) for worker in now.workers]})
        return
    rows: list[tuple[str, str | None]] = [
        ("name", endpoint.name),
        ("id", endpoint.id),
        ("type", _kind(endpoint)),
        ("hardware", hardware(endpoint)),
        ("workers", _range(endpoint)),
        ("image", endpoint.image),
        ("command", _command(endpoint)),
        ("variables", ", ".join(name for name in endpoint.env if not name.startswith("FLASH_PLUGINS_"))),
        ("volumes", ", ".join(endpoint.volumes)),
        ("created", endpoint.created_at),
    ]
    rows += [(f"url {operation}", url) for operation, url in endpoint.urls.items()]
    rows += [(f"worker {worker.id}", f"{worker.status}, up {worker.uptime_s} s") for worker in now.workers]
    print_table([row for row in rows if row[1]])


@endpoints_app.command()
def delete(name_or_id: NameOrId, yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Delete an endpoint; its workers end and its jobs are cancelled. Asks first."""
    endpoint = on_platform(lambda client: find_endpoint(client, name_or_id))
    confirm(f"Delete endpoint {endpoint.name!r} ({endpoint.id}) and cancel its jobs?", yes=yes)
    delete_all([endpoint], as_json=as_json)


def delete_all(endpoints: Sequence[EndpointInfo], *, as_json: bool) -> None:
    """Delete endpoints and say so."""

    async def remove(client: RunpodClient) -> None:
        for endpoint in endpoints:
            await client.rest.delete_endpoint(endpoint.id)
            if not as_json:
                typer.echo(f"deleted endpoint {endpoint.name!r} ({endpoint.id})")

    on_platform(remove)
    if as_json:
        print_json({"deleted": [{"id": endpoint.id, "name": endpoint.name} for endpoint in endpoints]})


def hardware(endpoint: EndpointInfo) -> str:
    """Return the hardware of an endpoint in a few words."""
    if endpoint.cpus:
        return ", ".join(endpoint.cpus)
    pools = endpoint.gpu_pools
    said = ", ".join(pools) if len(pools) <= 3 else f"any of {len(pools)} GPU pools"
    return said if endpoint.gpu_count <= 1 else f"{endpoint.gpu_count} each: {said}"


def _kind(endpoint: EndpointInfo) -> str:
    return "load balancer" if endpoint.kind is EndpointKind.LOAD_BALANCER else "queue"


def _range(endpoint: EndpointInfo) -> str:
    return f"{endpoint.workers_min} to {endpoint.workers_max}"


def _command(endpoint: EndpointInfo) -> str | None:
    """Return the start command; that of our own workers is a page long and says nothing."""
    args = endpoint.fields.get("args")
    return None if args is None or "flash_plugins.worker" in args else str(args)


def _public(endpoint: EndpointInfo) -> dict[str, object]:
    """Return an endpoint as REST v2 shows it, without the values of its variables, which may be secrets."""
    return {**endpoint.fields, "env": sorted(endpoint.env)}
