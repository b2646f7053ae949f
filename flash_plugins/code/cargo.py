# SPDX-License-Identifier: Apache-2.0
"""Code that is deployed with an endpoint, as environment variables of its workers.

    caller                                                 worker
    pack(Cargo) ──▶ FLASH_PLUGINS_CODE_0 … n ──REST──▶ environment ──▶ unpack(environ) ──▶ Cargo

The first variable begins with a head, `VERSION:PYTHON:PARTS:SHA-256:`; behind it, and in the others, comes base64
of compressed bytes: a line of JSON, the pickle, the bundle of local modules. Everything is one pickle, so that
functions which share a global share it on the worker too. The same content gives the same variables.

It never decides what is deployed, nor talks to a platform.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import inspect
import json
import logging
import os
import platform as python_platform
import tempfile
import types
import typing
import zlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from flash_plugins.code.activation import activate_bundle, install_bundle
from flash_plugins.code.bundle import SourceBundle, bundle_modules
from flash_plugins.code.canonical import canonical_dumps
from flash_plugins.code.distributions import stated
from flash_plugins.code.pickling import Pickled, dumps, loads
from flash_plugins.errors import EnvelopeError, PayloadTooLarge, UnpicklableError
from flash_plugins.platforms import api

__all__ = [
    "Cargo",
    "CargoRoute",
    "PackedCargo",
    "digest_in",
    "discard",
    "load",
    "pack",
    "packages_in",
    "read",
    "unpack",
]

_log = logging.getLogger(__name__)

#: Version of the form; caller and worker must agree.
VERSION = "1"
_FIRST = f"{api.CARGO_ENV_PREFIX}0"
#: More bytes before they are compressed do not shrink to what an environment takes, unless they are all the same.
_RAW_MAX_BYTES = 50 * api.CARGO_MAX_BYTES
#: Largest pickle that is made the same in every process: a list of numbers takes 6 s for so many bytes.
_CANONICAL_MAX_BYTES = 10_000_000


class CargoRoute(NamedTuple):
    """One route of a load-balanced endpoint.

    Attributes:
        hints: Annotations of the parameters, resolved; filled in by `pack`, where their names are known.
    """

    method: str
    path: str
    function: Callable[..., Any]
    hints: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"route {self.method} {self.path} ({_name_of(self.function)}())"


@dataclass(frozen=True)
class Cargo:
    """What an endpoint's workers know without being told by a call.

    Attributes:
        functions: Functions and classes of a queue endpoint by name, decorated or not.
        routes: Routes of a load-balanced endpoint.
    """

    functions: Mapping[str, Any] = field(default_factory=dict)
    routes: Sequence[CargoRoute] = ()


@dataclass(frozen=True, slots=True)
class PackedCargo:
    """Cargo as it arrived: nothing of it is loaded.

    Attributes:
        digest: SHA-256 of the content, in hexadecimal.
        code: The pickle.
        bundle_digest: Name of the bundle of local modules, None if there is none.
        bundle: Its bytes.
        packages: What it uses of what was installed where it was packed: by package, the requirement of that version.
    """

    digest: str
    code: bytes
    bundle_digest: str | None = None
    bundle: bytes = b""
    packages: Mapping[str, str] = field(default_factory=dict)


def pack(cargo: Cargo) -> dict[str, str]:
    """Return the variables that carry the cargo. Equal content gives equal variables, in any process.

    Raises:
        UnpicklableError: A function holds something that cannot travel; the message names route or function, and
            the path to the culprit.
        PayloadTooLarge: It is more than an environment takes; the message has the size of each part.
        ConfigError: A local module cannot travel.
    """
    functions = {name: _undecorated(function) for name, function in cargo.functions.items()}
    routes = [_resolved(route) for route in cargo.routes]
    pickled = _pickle(functions, routes)
    bundle = bundle_modules(pickled.modules) if pickled.modules else None
    installed = pickled.installed if bundle is None else pickled.installed | bundle.installed
    head = {
        "code": len(pickled.data),
        "bundle": None if bundle is None else bundle.digest,
        "packages": stated(installed),
    }
    content = json.dumps(head).encode() + b"\n" + pickled.data + (b"" if bundle is None else bundle.data)
    text = base64.b64encode(zlib.compress(content, 9)).decode("ascii")
    if len(text) > api.CARGO_MAX_BYTES:
        raise _too_large(functions, routes, bundle, len(text))
    size = api.CARGO_VARIABLE_MAX_BYTES - 200  # the head has room in the first one
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    head_text = f"{VERSION}:{_python_version()}:{len(parts)}:{hashlib.sha256(content).hexdigest()}:"
    return {
        f"{api.CARGO_ENV_PREFIX}{number}": (head_text if number == 0 else "") + part
        for number, part in enumerate(parts)
    }


def digest_in(environ: Mapping[str, str]) -> str | None:
    """Return the digest of the cargo in these variables, None if there is none: what tells one from another."""
    fields = environ.get(_FIRST, "").split(":", 4)
    return fields[3] if len(fields) == 5 else None


def packages_in(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return what the cargo in these variables states of packages, nothing where it cannot be read."""
    try:
        packed = read(environ)
    except EnvelopeError:
        return {}  # whoever unpacks it is told why
    return {} if packed is None else packed.packages


def read(environ: Mapping[str, str]) -> PackedCargo | None:
    """Return the cargo in these variables without loading anything, None if there is none.

    Raises:
        EnvelopeError: A variable is missing or damaged, or caller and worker do not fit together.
    """
    first = environ.get(_FIRST)
    if first is None:
        if stray := sorted(name for name in environ if name.startswith(api.CARGO_ENV_PREFIX)):
            raise EnvelopeError(f"{_FIRST} is missing, and {', '.join(stray)} is there: deploy the endpoint again")
        return None
    fields = first.split(":", 4)
    if len(fields) != 5 or not fields[2].isdigit():
        raise EnvelopeError(
            f"{_FIRST} does not begin as deployed code does ({first[:40]!r}): deploy the endpoint again"
        )
    version, python, count, digest, head = fields
    if version != VERSION:
        raise EnvelopeError(
            f"the endpoint was deployed with version {version} of deployed code and this worker reads {VERSION}: "
            "install the same version of flash-plugins on both sides, and deploy it again"
        )
    if python != _python_version():
        raise EnvelopeError(
            f"the endpoint was deployed from Python {python} and this worker runs Python {_python_version()}: "
            "functions travel as bytecode, so both must have the same minor version; use a worker image with Python "
            f"{python}"
        )
    names = [f"{api.CARGO_ENV_PREFIX}{number}" for number in range(1, int(count))]
    if missing := [name for name in names if name not in environ]:
        raise EnvelopeError(
            f"the deployed code is in {count} environment variables, of which {', '.join(missing)} did not arrive: "
            "deploy the endpoint again"
        )
    return _opened(head + "".join(environ[name] for name in names), digest)


def _opened(text: str, digest: str) -> PackedCargo:
    try:
        content = zlib.decompress(base64.b64decode(text, validate=True))
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("it has another digest")
        line, _, rest = content.partition(b"\n")
        head = json.loads(line)
        size = int(head["code"])
        return PackedCargo(digest, rest[:size], head["bundle"], rest[size:], head.get("packages") or {})
    except (binascii.Error, zlib.error, ValueError, KeyError, TypeError) as error:
        raise EnvelopeError(
            f"the deployed code was damaged on its way ({error}); were its environment variables edited? Deploy the "
            "endpoint again"
        ) from error


def discard(environ: MutableMapping[str, str]) -> None:
    """Take the variables out: processes that user code starts have better uses for their environment."""
    for name in [name for name in environ if name.startswith(api.CARGO_ENV_PREFIX)]:
        del environ[name]


def unpack(environ: Mapping[str, str]) -> Cargo | None:
    """Return the cargo in these variables, loaded, with its local modules importable; None if there is none.

    Raises:
        EnvelopeError: A variable is missing or damaged, or caller and worker do not fit together.
        Exception: What the user's modules raise when they are imported.
    """
    packed = read(environ)
    if packed is None:
        return None
    if packed.bundle_digest is not None:
        folder = environ.get(api.CACHE_DIR_ENV) or os.path.join(tempfile.gettempdir(), f"flash-plugins-{os.getuid()}")
        activate_bundle(install_bundle(packed.bundle_digest, packed.bundle, Path(folder) / "bundles"))
    return load(packed.code)


def load(code: bytes) -> Cargo:
    """Return the cargo of this pickle; its local modules must be importable already.

    Raises:
        Exception: What the user's modules raise when they are imported.
    """
    functions, routes = typing.cast("tuple[dict[str, Any], list[tuple[Any, ...]]]", loads(code))
    return Cargo(functions, tuple(CargoRoute(*route) for route in routes))


def _pickle(functions: Mapping[str, Any], routes: list[CargoRoute]) -> Pickled:
    # Plain tuples: the worker may have another version of this class.
    content = (dict(functions), [tuple(route) for route in routes])
    try:
        quick = dumps(content, what="the deployed code")
    except UnpicklableError:
        for what, part in _parts(functions, routes):
            dumps(part, what=what)  # raises with the name of the one
        raise
    if (size := _estimated(quick.data)) > api.CARGO_MAX_BYTES:
        raise _too_large(functions, routes, None, size)
    if len(quick.data) > _CANONICAL_MAX_BYTES:
        return quick
    try:
        return canonical_dumps(content)
    except RecursionError:
        return quick  # written in C, it goes deeper


def _parts(functions: Mapping[str, Any], routes: list[CargoRoute]) -> list[tuple[str, Any]]:
    named: list[tuple[str, Any]] = [(f"function {name}()", function) for name, function in functions.items()]
    return named + [(route.name, tuple(route)) for route in routes]


def _undecorated(target: Any) -> Any:
    """Return the function of a decorated one. What it is, its class says: this module stands below it."""
    attribute = getattr(type(target), "undecorated", None)
    return attribute.__get__(target) if isinstance(attribute, property) else target


def _resolved(route: CargoRoute) -> CargoRoute:
    """Return the route with its annotations as objects. The worker could not look up names in them.

    A function that goes by value takes along the globals that its code uses, and those are not in its code.
    """
    function = _undecorated(route.function)
    hints = _hints_of(function, route.name)
    _resolve_dependencies(function, hints, route.name, set())
    return CargoRoute(route.method, route.path, function, hints)


def _hints_of(function: Any, where: str) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - an annotation is any expression of the user's; one by one tells which
        return {name: _hint_of(function, name, where) for name in getattr(function, "__annotations__", {})}


def _hint_of(function: Any, name: str, where: str) -> Any:
    function = inspect.unwrap(function)
    annotation = function.__annotations__[name]
    only = types.SimpleNamespace(__annotations__={name: annotation})
    names = {**getattr(function, "__globals__", {}), **_closure_of(function)}
    try:
        return typing.get_type_hints(only, names, include_extras=True)[name]
    except Exception as error:  # noqa: BLE001 - any expression of the user's, as above
        _log.warning(
            "%s: the annotation %r of %r means nothing outside its file (%s), so the worker takes any value for it; "
            "import what it names at run time, not for type checking only",
            where,
            annotation,
            name,
            error,
        )
        return Any


def _resolve_dependencies(function: Any, hints: Mapping[str, Any], where: str, seen: set[int]) -> None:
    """Do the same in place for the functions in FastAPI's `Depends(…)`, which find their parameters alike."""
    marks = [mark for hint in hints.values() for mark in getattr(hint, "__metadata__", ())]
    for mark in [*marks, *(getattr(function, "__defaults__", None) or ())]:
        dependency = getattr(mark, "dependency", None)
        if isinstance(dependency, types.FunctionType) and id(dependency) not in seen:
            seen.add(id(dependency))
            dependency.__annotations__ = _hints_of(dependency, where)
            _resolve_dependencies(dependency, dependency.__annotations__, where, seen)


def _closure_of(function: Any) -> Mapping[str, Any]:
    try:
        return inspect.getclosurevars(function).nonlocals
    except (TypeError, ValueError):  # not written in Python, or a variable of it is not set yet
        return {}


def _too_large(
    functions: Mapping[str, Any], routes: list[CargoRoute], bundle: SourceBundle | None, size_bytes: int
) -> PayloadTooLarge:
    sizes = {what: _estimated(dumps(part, what=what).data) for what, part in _parts(functions, routes)}
    if bundle is not None:
        sizes["local modules"] = len(bundle.data) * 4 // 3
    largest = sorted(sizes, key=lambda what: sizes[what], reverse=True)[:5]
    listed = ", ".join(f"{what} ({sizes[what] / 1e6:.2f} MB)" for what in largest)
    limit = api.CARGO_MAX_BYTES
    return PayloadTooLarge(
        f"the deployed code takes {size_bytes / 1e6:.2f} MB of environment variables, over the limit of "
        f"{limit / 1e6:.2f} MB; the largest parts are {listed}; "
        "values of globals travel with the functions that use them: load models and data on the worker, from a "
        "volume or by download, and install large modules as a package",
        size_bytes=size_bytes,
        limit_bytes=limit,
    )


def _estimated(content: bytes) -> int:
    """Return how many bytes of the environment this will take; beyond all limits, how many it is."""
    return len(zlib.compress(content)) * 4 // 3 if len(content) <= _RAW_MAX_BYTES else len(content)


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def _python_version() -> str:
    return ".".join(python_platform.python_version_tuple()[:2])
