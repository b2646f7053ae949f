# SPDX-License-Identifier: Apache-2.0
"""The endpoints that a program declares, found by importing it: its `__main__` part does not run."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Annotated, Any, NoReturn

import typer

from .. import process
from ..code.modules import is_local_module
from ..endpoint import Endpoint
from ..errors import ConfigError, FlashPluginsError
from ..platforms.api import EndpointKind
from ..remote import RemoteClass, RemoteFunction
from .output import EXIT_FAILED, EXIT_USAGE, fail, note
from .program import import_program

__all__ = ["BalancedOption", "Declared", "QueueOption", "ScriptArgument", "declared_endpoints"]

#: A program.
ScriptArgument = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A program that declares endpoints.")
]
#: How an endpoint with an image takes requests, which a program does not say.
QueueOption = Annotated[
    list[str] | None, typer.Option("--queue", metavar="NAME", help="This endpoint's image takes jobs.")
]
#: As above.
BalancedOption = Annotated[
    list[str] | None, typer.Option("--lb", metavar="NAME", help="This endpoint's image takes HTTP requests.")
]


@dataclass(frozen=True, slots=True)
class Declared:
    """An endpoint that a program declares.

    Attributes:
        endpoint: The endpoint.
        kind: How it takes requests, as far as the program or the command line says.
    """

    endpoint: Endpoint
    kind: EndpointKind | None

    @property
    def name(self) -> str:
        """Name of the endpoint."""
        return str(self.endpoint.name)


def declared_endpoints(file: Path, *, queues: Sequence[str] | None, balanced: Sequence[str] | None) -> list[Declared]:
    """Return the endpoints of a program that can be deployed, in the order of their declaration.

    Found are those of its own names and of the names of the user's modules that it imports. Clients of existing
    endpoints (`id=`) are none, nor are endpoints that declare nothing.

    Args:
        file: The program. What it prints while it is imported goes to stderr.
        queues: Names of endpoints whose image takes jobs.
        balanced: Names of endpoints whose image takes HTTP requests.

    Raises:
        ConfigError: It makes calls when it is imported, declares nothing, or two endpoints of one name.
    """
    kinds = dict.fromkeys(queues or (), EndpointKind.QUEUE)
    kinds |= dict.fromkeys(balanced or (), EndpointKind.LOAD_BALANCER)
    found: dict[str, Declared] = {}
    for endpoint in _endpoints_of(_imported(file)):
        declared = _declared(endpoint, kinds)
        if declared is None:
            continue
        if declared.name in found:
            raise ConfigError(
                f"{file} declares two endpoints named {declared.name!r}: one of them would replace the other; use one "
                "Endpoint object for all of its functions or routes, or two names"
            )
        found[declared.name] = declared
    if unknown := sorted(kinds.keys() - found.keys()):
        raise ConfigError(f"{file} declares no endpoint named {unknown[0]!r}; it has: {', '.join(found) or 'none'}")
    if not found:
        raise ConfigError(
            f"{file} declares no endpoint that could be deployed: decorate functions with @Endpoint(name=…), or "
            "give an Endpoint routes or an image, outside of `if __name__ == '__main__':`"
        )
    return list(found.values())


def _declared(endpoint: Endpoint, kinds: Mapping[str, EndpointKind]) -> Declared | None:
    if endpoint.id is not None or endpoint.name is None:
        return None
    if endpoint.image is not None:
        return Declared(endpoint, kinds.get(endpoint.name))
    if not endpoint.declares_code:
        note(f"endpoint {endpoint.name!r} declares nothing and is left out")
        return None
    return Declared(endpoint, EndpointKind.LOAD_BALANCER if endpoint.is_load_balanced else EndpointKind.QUEUE)


def _imported(file: Path) -> ModuleType:
    """Import a program. Its own errors are shown with the part of the traceback that is about it."""
    path = file.resolve()
    process.work_for(path)
    if path.suffix != ".py":
        raise ConfigError(f"{file} is no Python program: its name must end in .py")
    refusal = (
        f"{file} makes calls, or asks for the platform, when it is imported: put that below "
        "`if __name__ == '__main__':`"
    )
    try:
        with process.no_session(refusal), contextlib.redirect_stdout(sys.stderr):
            module = import_program(path)
    except FlashPluginsError as error:
        _refuse(file, error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a program raises is shown as its own
        trace = _within(error, path)
        if trace is not None:
            traceback.print_exception(type(error), error, trace)
        fail(f"{file} cannot be imported: {type(error).__name__}: {error}")
    return module


def _refuse(file: Path, error: FlashPluginsError) -> NoReturn:
    """End the command with an error of ours, and say which line of the program it is about."""
    trace = _within(error, file.resolve())
    where = "" if trace is None else f"{file}:{trace.tb_lineno}: "
    fail(f"{where}{error}", EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)


def _within(error: BaseException, path: Path) -> TracebackType | None:
    """Return the part of a traceback that begins in a file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != str(path):
        trace = trace.tb_next
    return trace


def _endpoints_of(module: ModuleType) -> Iterator[Endpoint]:
    """Yield each endpoint once."""
    seen: set[int] = set()
    others = [name for name in sys.modules if is_local_module(name)]
    for namespace in [vars(module), *(vars(sys.modules[name]) for name in others)]:
        for value in list(namespace.values()):
            endpoint = _endpoint_of(value)
            if endpoint is not None and id(endpoint) not in seen:
                seen.add(id(endpoint))
                yield endpoint


def _endpoint_of(value: Any) -> Endpoint | None:  # Any: whatever a program has
    # By type, so that no property of somebody's object runs.
    if isinstance(value, Endpoint):
        return value
    return value.endpoint if isinstance(value, RemoteFunction | RemoteClass) else None
