# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins deploy FILE` and `undeploy`: endpoints with their code, for clients without the program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from .. import process
from ..errors import ConfigError
from ..hardware import ServerlessType
from ..platforms import api
from ..platforms.api import EndpointKind
from .connection import find_endpoint, list_endpoints, on_platform
from .endpoints import delete_all
from .examples import curl_example
from .output import JsonOption, YesOption, confirm, note, print_json, print_table
from .script import BalancedOption, Declared, QueueOption, ScriptArgument, declared_endpoints

if TYPE_CHECKING:
    from ..client.provisioned import ProvisionedEndpoint
    from ..platforms.models import EndpointInfo
    from ..platforms.runpod import RunpodClient

__all__ = ["deploy", "undeploy"]


def deploy(
    file: ScriptArgument, queue: QueueOption = None, lb: BalancedOption = None, as_json: JsonOption = False
) -> None:
    """Deploy the endpoints of a program with their code: any client can use them, without the program.

    A local platform that runs is used; without one it is started, and stays until `flash-plugins platform stop`.
    """
    declared = declared_endpoints(file, queues=queue, balanced=lb)
    unclear = [one.name for one in declared if one.kind is None]
    if unclear:
        raise ConfigError(
            f"endpoint {unclear[0]!r} has an image, and whether that takes jobs or HTTP requests the program does not "
            f"say: add --queue {unclear[0]} or --lb {unclear[0]}"
        )
    _start_lasting_platform()
    deployed = []
    for one in declared:
        kind = None if one.endpoint.image is None else _TYPES[one.kind]
        made = one.endpoint.provision(kind).result()
        deployed.append({"name": made.name, "id": made.id, "type": one.kind, "urls": dict(made.request_urls),
                         "example": curl_example(one.endpoint, made)})  # fmt: skip
        if not as_json:
            _print(one, made)
    if as_json:
        print_json({"deployed": deployed})
    elif process.platform().name == "local":
        note("the key of the local platform, for RUNPOD_API_KEY, is in `flash-plugins platform status`")


def undeploy(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Endpoints, by name or id.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All endpoints that flash-plugins made.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete endpoints; their workers end and their jobs are cancelled. Asks first."""
    if all_ == bool(names):
        raise ConfigError("undeploy: give the names of endpoints, or --all")

    async def look(client: RunpodClient) -> list[EndpointInfo]:
        if all_:
            return [endpoint for endpoint in await list_endpoints(client) if api.MANAGED_ENV in endpoint.env]
        return [await find_endpoint(client, name) for name in names or ()]

    endpoints = on_platform(look)
    if endpoints:
        listed = ", ".join(f"{endpoint.name!r} ({endpoint.id})" for endpoint in endpoints)
        what = "endpoint" if len(endpoints) == 1 else f"{len(endpoints)} endpoints"
        confirm(f"Delete {what} {listed} and cancel all jobs?", yes=yes)
    elif not as_json:
        typer.echo("there are no endpoints that flash-plugins made")
    delete_all(endpoints, as_json=as_json)


_TYPES: Mapping[EndpointKind | None, ServerlessType] = {
    EndpointKind.QUEUE: ServerlessType.QB,
    EndpointKind.LOAD_BALANCER: ServerlessType.LB,
}


def _start_lasting_platform() -> None:
    """Have a local platform that outlives this command, where the local one is chosen and none runs."""
    from ..platforms.local.launch import launch

    chosen = process.hooks().choose_platform(process.settings())
    if chosen is not None and chosen.name == "local" and not chosen.outlives_us:
        started = launch(detach=True)
        note(
            f"started a local platform at {started.url}, process {started.pid}; it stays with what is deployed on it "
            "until `flash-plugins platform stop`"
        )


def _print(declared: Declared, made: ProvisionedEndpoint) -> None:
    kind = "load balancer" if declared.kind is EndpointKind.LOAD_BALANCER else "queue"
    rows = [("id", made.id), *((operation, url) for operation, url in made.request_urls.items())]
    if declared.kind is EndpointKind.LOAD_BALANCER:
        rows += [(route.method, f"{made.base_url}{route.path}") for route in declared.endpoint.routes]
    typer.echo(f"endpoint {made.name!r} ({kind})")
    print_table([("   ", *row) for row in rows])
    typer.echo(f"    {curl_example(declared.endpoint, made)}\n")
