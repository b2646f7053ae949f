# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins endpoints list | show | delete`: what is on the platform."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..platforms.api import SERVERLESS_PATH
from ..platforms.runpod import RunpodClient
from .connection import Shown, find_endpoint, list_endpoints, on_platform
from .output import JsonOption, YesOption, confirm, print_json, print_table

__all__ = ["endpoints_app", "hardware"]

#: `flash-plugins endpoints`.
endpoints_app = typer.Typer(help="Look at the endpoints of the platform, and delete them.", no_args_is_help=True)

#: An endpoint by name or id.
_NameOrId = Annotated[str, typer.Argument(metavar="NAME_OR_ID", help="Name or id of the endpoint.")]


@endpoints_app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the endpoints."""
    endpoints = on_platform(list_endpoints)
    if as_json:
        print_json([_public(shown) for shown in endpoints])
    elif endpoints:
        rows = [(e.get("name"), e.get("id"), _kind(e), hardware(e), _range(e), e.get("createdAt")) for e in endpoints]
        print_table(rows, header=("NAME", "ID", "TYPE", "HARDWARE", "WORKERS", "CREATED"))
    else:
        typer.echo("there are no endpoints")


@endpoints_app.command()
def show(name_or_id: _NameOrId, as_json: JsonOption = False) -> None:
    """Show one endpoint: what it is, its workers, its URLs. Values of its environment are left out."""

    async def look(client: RunpodClient) -> tuple[Shown, list[Shown]]:
        shown = await find_endpoint(client, name_or_id)
        url = f"{client.connection.api_base}{SERVERLESS_PATH}/{shown['id']}/workers"
        return shown, list((await client.http.json("GET", url)).get("workers") or ())

    shown, workers = on_platform(look)
    if as_json:
        print_json({**_public(shown), "workersNow": workers})
        return
    rows: list[tuple[object, object]] = [
        ("name", shown.get("name")),
        ("id", shown.get("id")),
        ("type", _kind(shown)),
        ("hardware", hardware(shown)),
        ("workers", _range(shown)),
        ("image", shown.get("image")),
        ("command", shown.get("args")),
        ("variables", ", ".join(shown.get("env") or {})),
        ("created", shown.get("createdAt")),
    ]
    rows += [(f"url {name}", url) for name, url in (shown.get("requestUrls") or {}).items()]
    rows += [(f"worker {w.get('id')}", f"{w.get('status')}, up {w.get('uptimeSeconds')} s") for w in workers]
    print_table([row for row in rows if row[1] not in (None, "")])


@endpoints_app.command()
def delete(name_or_id: _NameOrId, yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Delete an endpoint; its workers end and its jobs are cancelled. Asks first."""
    shown = on_platform(lambda client: find_endpoint(client, name_or_id))
    confirm(f"Delete endpoint {shown.get('name')!r} ({shown['id']}) and cancel its jobs?", yes=yes)
    on_platform(lambda client: client.delete_endpoint(str(shown["id"])))
    if as_json:
        print_json({"deleted": [{"id": shown["id"], "name": shown.get("name")}]})
    else:
        typer.echo(f"deleted endpoint {shown.get('name')!r} ({shown['id']})")


def hardware(shown: Shown) -> str:
    """Return the hardware of an endpoint in a few words."""
    if cpus := shown.get("cpu"):
        return ", ".join(f"{cpu.get('id')} ({cpu.get('vcpuCount')} vCPU)" for cpu in cpus)
    gpu: Any = shown.get("gpu") or {}
    pools = gpu.get("pools") or []
    count = gpu.get("count", 1)
    said = ", ".join(pools) if len(pools) <= 3 else f"any of {len(pools)} GPU pools"
    return said if count == 1 else f"{count} each: {said}"


def _kind(shown: Shown) -> str:
    return "load balancer" if shown.get("type") == "LOAD_BALANCER" else "queue"


def _range(shown: Shown) -> str:
    workers: Any = shown.get("workers") or {}
    return f"{workers.get('min')} to {workers.get('max')}"


def _public(shown: Shown) -> dict[str, object]:
    """Return an endpoint without the values of its variables, which may be secrets."""
    return {**shown, "env": sorted(shown.get("env") or {})}
