# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins doctor`: what is set up, what can be reached, what is stuck, and what to do about it."""

from __future__ import annotations

import asyncio
import os
import platform as machine
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import typer
from packaging.requirements import Requirement

from .. import process
from ..builtin.local_image import docker_problem
from ..errors import ApiError, AuthenticationError, FlashPluginsError, PlatformError
from ..platforms import api
from ..platforms.base import Connection, Platform
from ..platforms.local.state import runtime_base, volumes_base
from ..platforms.runpod import EndpointKind, RunpodClient, TransportFailure
from ..settings import Settings, config_file, image_rules
from ..worker.environment import cache_root
from .connection import Shown, list_endpoints
from .output import EXIT_FAILED, JsonOption, print_json, print_table
from .stuck import stuck_reason

__all__ = ["doctor"]

T = TypeVar("T")

#: Seconds that a host may take to answer.
_ANSWER_TIMEOUT_S = 10.0
#: Distributions whose versions matter in a report.
_DISTRIBUTIONS = ("flash-plugins", "flash-plugins-joblib", "runpod", "httpx", "aiohttp", "cloudpickle", "uvicorn")


class _State(StrEnum):
    OK = "ok"
    NOTE = "note"  # nothing wrong, but good to know
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class _Finding:
    """One line of the report."""

    topic: str
    state: _State
    said: str


_MARKS = {_State.OK: "✓", _State.NOTE: "·", _State.WRONG: "✗"}


def doctor(as_json: JsonOption = False) -> None:
    """Check the set-up: key, hosts, versions, folders, stuck endpoints. Exit code 1 if something is wrong."""
    findings = list(_findings())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table((_MARKS[finding.state], finding.topic, finding.said) for finding in findings)
    if any(finding.state is _State.WRONG for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def _findings() -> Iterator[_Finding]:
    yield _Finding("python", _State.OK, f"{machine.python_version()}, {sys.executable}, {machine.platform()}")
    yield _Finding("packages", _State.OK, ", ".join(_versions()))
    settings = yield from _guarded("settings", process.settings)
    chosen = None
    if settings is not None:
        has_key = settings.api_key is not None
        said = f"found in {settings.key_source}" if has_key else "no Runpod API key is configured"
        yield _Finding("key", _State.OK if has_key else _State.NOTE, said)
        chosen = yield from _guarded("platform", lambda: _chosen(settings))
    if chosen is not None:
        yield _Finding("platform", _State.OK, f"{chosen.name}: {chosen.reason}")
    yield from _extras(is_local=chosen is not None and chosen.name == "local")
    yield from _configuration()
    yield from _folders()
    yield from _programs()
    if chosen is None:
        return
    if not chosen.outlives_us:
        said = "none runs now; one is started with the first call, or by `flash-plugins platform start`"
        yield _Finding("local platform", _State.NOTE, said)
        return
    connection = yield from _guarded("connection", chosen.connect)
    if connection is not None:
        yield from asyncio.run(_platform_findings(connection))


def _guarded(topic: str, look: Callable[[], T]) -> Generator[_Finding, None, T | None]:
    """Return what `look` returns; an error of ours is a finding, and the answer None."""
    try:
        return look()
    except FlashPluginsError as error:
        yield _Finding(topic, _State.WRONG, str(error))
        return None


def _chosen(settings: Settings) -> Platform | None:
    return process.hooks().choose_platform(settings)


def _versions() -> Iterator[str]:
    for name in _DISTRIBUTIONS:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            if name == "flash-plugins":
                yield f"{name} (not installed: run from its sources)"


def _extras(*, is_local: bool) -> Iterator[_Finding]:
    """Look for packages of the extras; what a missing one is needed for is in its name."""
    try:
        texts = metadata.requires("flash-plugins") or []
    except metadata.PackageNotFoundError:
        return
    needs = [need for need in map(Requirement, texts) if need.marker is not None and need.name != "flash-plugins"]
    extras = metadata.metadata("flash-plugins").get_all("Provides-Extra") or []
    for extra in extras:
        wanted = [need for need in needs if need.marker is not None and need.marker.evaluate({"extra": extra})]
        missing = sorted({f"{need.name}{need.specifier}" for need in wanted if not _has(need)})
        if missing:
            state = _State.WRONG if is_local and extra == "local" else _State.NOTE
            said = f"{', '.join(missing)} missing: pip install 'flash-plugins[{extra}]'"
            yield _Finding(f"extra {extra}", state, said)
        else:
            yield _Finding(f"extra {extra}", _State.OK, "installed")


def _has(need: Requirement) -> bool:
    try:
        return need.specifier.contains(metadata.version(need.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _configuration() -> Generator[_Finding, None, None]:
    rules = yield from _guarded("configuration", image_rules)
    if rules:
        files = ", ".join(dict.fromkeys(str(rule.source) for rule in rules))
        yield _Finding("configuration", _State.OK, f"{files}: {len(rules)} local images")
    elif rules is not None:
        yield _Finding("configuration", _State.OK, f"none; a project's would be {config_file()}")
    names = yield from _guarded("plugins", lambda: process.hooks().plugin_names())
    if names is not None:
        yield _Finding("plugins", _State.OK, ", ".join(names))


def _folders() -> Iterator[_Finding]:
    base = runtime_base()
    for topic, folder in (
        ("run folder", base),
        ("dependencies", cache_root()),
        ("volumes", volumes_base(base)),
    ):
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        is_writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
        free = f", {shutil.disk_usage(nearest).free / 1e9:.0f} GB free"
        said = f"{folder}{free}" if is_writable else f"{nearest} cannot be written"
        yield _Finding(topic, _State.OK if is_writable else _State.WRONG, said)


def _programs() -> Iterator[_Finding]:
    uv = _uv()
    said = uv or "not installed: dependencies are installed with pip, which is slower"
    yield _Finding("uv", _State.NOTE if uv is None else _State.OK, said)
    problem = docker_problem()
    said = "an engine answers" if problem is None else f"{problem}; images need [local.images] instead"
    yield _Finding("docker", _State.OK if problem is None else _State.NOTE, said)


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return shutil.which("uv") or (str(beside) if beside.exists() else None)


async def _platform_findings(connection: Connection) -> list[_Finding]:
    """Ask both hosts, and about each endpoint."""
    client = RunpodClient(connection)
    try:
        found = [finding async for finding in _management(client)]
        return [*found, await _job_host(client)]
    finally:
        await client.aclose()


async def _management(client: RunpodClient) -> AsyncIterator[_Finding]:
    base = client.connection.api_base
    try:
        endpoints = await list_endpoints(client, timeout_s=_ANSWER_TIMEOUT_S)
    except AuthenticationError as error:
        yield _Finding("key", _State.WRONG, str(error))
        return
    except PlatformError as error:
        yield _Finding("management", _State.WRONG, f"{base}: {error}")
        return
    yield _Finding("management", _State.OK, f"{base} answers; {len(endpoints)} endpoints")
    for shown in endpoints:
        try:
            reason = await _stuck(client, shown)
        except PlatformError as error:
            reason = str(error)
        if reason is not None:
            yield _Finding(f"endpoint {shown.get('name')}", _State.WRONG, reason)


async def _stuck(client: RunpodClient, shown: Shown) -> str | None:
    url = f"{client.connection.api_base}{api.SERVERLESS_PATH}/{shown['id']}/workers"
    workers = (await client.http.json("GET", url, read_timeout_s=_ANSWER_TIMEOUT_S)).get("workers") or ()
    health = (shown.get("requestUrls") or {}).get("health")
    if health is None or shown.get("type") == EndpointKind.LOAD_BALANCER:  # its health is that of one worker
        return stuck_reason(shown, workers, {})
    answer = await client.http.json("GET", health, read_timeout_s=_ANSWER_TIMEOUT_S)
    return stuck_reason(shown, workers, answer.get("jobs") or {})


async def _job_host(client: RunpodClient) -> _Finding:
    """Ask for an endpoint that nobody has: any answer will do."""
    base = client.connection.job_base or (
        api.CLOUD_JOB_BASE if client.connection.api_base == api.CLOUD_API_BASE else client.connection.api_base
    )
    try:
        await client.http.request("GET", f"{base}/v2/no-such-endpoint/health", read_timeout_s=_ANSWER_TIMEOUT_S)
    except (ApiError, AuthenticationError):
        return _Finding("job API", _State.OK, f"{base} answers")
    except TransportFailure as error:
        return _Finding("job API", _State.WRONG, str(error))
    return _Finding("job API", _State.OK, f"{base} answers")
