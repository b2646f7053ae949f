# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins plan FILE`: what deploying a program would create or change, and what it would cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from .. import process
from ..deployment import plan_of
from ..pending import Pending
from .output import JsonOption, fail, note, print_json
from .script import BalancedOption, Declared, QueueOption, ScriptArgument, declared_endpoints

if TYPE_CHECKING:
    from ..platforms.changes import Change
    from ..platforms.prices import PriceRange
    from ..platforms.provision import EndpointPlan

__all__ = ["plan"]


def plan(
    file: ScriptArgument, queue: QueueOption = None, lb: BalancedOption = None, as_json: JsonOption = False
) -> None:
    """Show what deploying a program would create or change, and what it would cost. Changes nothing."""
    declared = declared_endpoints(file, queues=queue, balanced=lb)
    plans = [(one, _planned(one)) for one in declared if one.kind is not None]
    left_out = [one.name for one in declared if one.kind is None]
    if as_json:
        print_json({"endpoints": [_as_json(found, _on_runpod(one)) for one, found in plans], "notKnown": left_out})
    else:
        for one, found in plans:
            _print(found, _on_runpod(one))
        for name in left_out:
            note(
                f"endpoint {name!r} has an image: its first request tells whether it takes jobs or HTTP requests; say "
                f"it with --queue {name} or --lb {name}"
            )
    if any(found.refusal for _, found in plans):
        fail("not all of it can be deployed")


def _planned(declared: Declared) -> EndpointPlan:
    return Pending(
        lambda session: plan_of(declared.endpoint, session, declared.kind), f"the plan of endpoint {declared.name!r}"
    ).result()


def _on_runpod(declared: Declared) -> PriceRange | None:
    """Return what it would cost on Runpod, where the local platform is asked: that one costs nothing."""
    from ..platforms.prices import published_prices

    return published_prices(declared.endpoint.config) if process.platform().name == "local" else None


def _print(found: EndpointPlan, on_runpod: PriceRange | None) -> None:
    typer.echo(str(found))
    for volume in found.new_volumes:
        typer.echo(f"    network volume {volume.name!r} is to be created, {volume.size} GB")
    if on_runpod is not None:
        typer.echo(f"    costs nothing here; on Runpod {on_runpod}")
    elif found.price is not None:
        typer.echo(f"    {found.price}")
    for line in found.notes:
        typer.echo(f"    {line}")


def _as_json(found: EndpointPlan, on_runpod: PriceRange | None) -> Mapping[str, Any]:
    """Return a plan without values of variables, which may be secrets."""
    return {
        "name": found.name,
        "action": found.action.value,
        "id": None if found.endpoint is None else found.endpoint.id,
        "changes": [_change(change) for change in found.difference.changes],
        "newVolumes": [volume.name for volume in found.new_volumes],
        "refusal": found.refusal,
        "price": None if found.price is None else _price(found.price),
        "priceOnRunpod": None if on_runpod is None else _price(on_runpod),
        "notes": list(found.notes),
    }


def _change(change: Change) -> Mapping[str, Any]:
    return {
        "setting": change.setting,
        "old": change.old,
        "new": change.new,
        "replacesWorkers": change.replaces_workers,
    }


def _price(price: PriceRange) -> Mapping[str, Any]:
    return {
        "lowUsdPerHour": price.low_usd_per_hour,
        "highUsdPerHour": price.high_usd_per_hour,
        "workersMax": price.workers_max,
        "source": price.source,
        "date": price.date,
        "withoutPrice": list(price.without_price),
    }
