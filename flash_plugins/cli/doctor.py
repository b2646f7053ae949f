# SPDX-License-Identifier: Apache-2.0
"""`flash-plugins doctor`: what is set up, what can be reached, what is stuck, and what to do about it."""

from __future__ import annotations

import os
import platform as machine
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from .. import process
from ..builtin.local_image import docker_problem
from ..errors import FlashPluginsError
from ..objects import Ref
from ..platforms.base import Platform
from ..platforms.local.state import runtime_base, volumes_base
from ..settings import Settings, config_file, image_rules
from ..worker.environment import cache_root
from .findings import Finding, State
from .output import EXIT_FAILED, JsonOption, print_json, print_table

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["doctor"]

T = TypeVar("T")

#: Distributions whose versions matter in a report.
_DISTRIBUTIONS = ("flash-plugins", "flash-plugins-joblib", "runpod", "aiohttp", "cloudpickle", "uvicorn")


_MARKS = {State.OK: "✓", State.NOTE: "·", State.WRONG: "✗"}


def doctor(as_json: JsonOption = False) -> None:
    """Check the set-up: key, hosts, versions, folders, stuck endpoints. Exit code 1 if something is wrong."""
    findings = list(_findings())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table((_MARKS[finding.state], finding.topic, finding.said) for finding in findings)
    if any(finding.state is State.WRONG for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def _findings() -> Iterator[Finding]:
    yield Finding("python", State.OK, f"{machine.python_version()}, {sys.executable}, {machine.platform()}")
    yield Finding("packages", State.OK, ", ".join(_versions()))
    settings = yield from _guarded("settings", process.settings)
    chosen = None
    if settings is not None:
        has_key = settings.api_key is not None
        said = f"found in {settings.key_source}" if has_key else "no Runpod API key is configured"
        yield Finding("key", State.OK if has_key else State.NOTE, said)
        chosen = yield from _guarded("platform", lambda: _chosen(settings))
    if chosen is not None:
        yield Finding("platform", State.OK, f"{chosen.name}: {chosen.reason}")
    yield from _extras(is_local=chosen is not None and chosen.name == "local")
    yield from _configuration()
    yield from _folders()
    yield from _objects()
    yield from _programs()
    if chosen is None:
        return
    if chosen.name == "local" and not chosen.outlives_us:
        said = "none runs now; one is started with the first call, or by `flash-plugins platform start`"
        yield Finding("local platform", State.NOTE, said)
        return
    connection = yield from _guarded("connection", chosen.connect)
    if connection is not None:
        from .reach import platform_findings  # half a second for the HTTP client

        yield from platform_findings(connection)


def _objects() -> Iterator[Finding]:
    """Look whether the store of large objects answers, if one is set."""
    setting = yield from _guarded("objects", process.objects_setting)
    if setting is None or setting.url is None:
        return
    url = setting.url
    nothing = Ref("0" * 32, 0)
    if (yield from _guarded("objects", lambda: (process.open_objects(url).has(nothing), True))) is not None:
        yield Finding("objects", State.OK, f"{url} answers; set by {setting.source}")


def _guarded(topic: str, look: Callable[[], T]) -> Generator[Finding, None, T | None]:
    """Return what `look` returns; an error of ours is a finding, and the answer None."""
    try:
        return look()
    except FlashPluginsError as error:
        yield Finding(topic, State.WRONG, str(error))
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


def _extras(*, is_local: bool) -> Iterator[Finding]:
    """Look for packages of the extras; what a missing one is needed for is in its name."""
    from packaging.requirements import Requirement

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
            state = State.WRONG if is_local and extra == "local" else State.NOTE
            said = f"{', '.join(missing)} missing: pip install 'flash-plugins[{extra}]'"
            yield Finding(f"extra {extra}", state, said)
        else:
            yield Finding(f"extra {extra}", State.OK, "installed")


def _has(need: Requirement) -> bool:
    try:
        return need.specifier.contains(metadata.version(need.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _configuration() -> Generator[Finding, None, None]:
    rules = yield from _guarded("configuration", image_rules)
    if rules:
        files = ", ".join(dict.fromkeys(str(rule.source) for rule in rules))
        yield Finding("configuration", State.OK, f"{files}: {len(rules)} local images")
    elif rules is not None:
        yield Finding("configuration", State.OK, f"none; a project's would be {config_file()}")
    names = yield from _guarded("plugins", lambda: process.hooks().plugin_names())
    if names is not None:
        yield Finding("plugins", State.OK, ", ".join(names))


def _folders() -> Iterator[Finding]:
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
        yield Finding(topic, State.OK if is_writable else State.WRONG, said)


def _programs() -> Iterator[Finding]:
    uv = _uv()
    said = uv or "not installed: dependencies are installed with pip, which is slower"
    yield Finding("uv", State.NOTE if uv is None else State.OK, said)
    problem = docker_problem()
    said = "an engine answers" if problem is None else f"{problem}; images need [local.images] instead"
    yield Finding("docker", State.OK if problem is None else State.NOTE, said)


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return shutil.which("uv") or (str(beside) if beside.exists() else None)
