# SPDX-License-Identifier: Apache-2.0
"""What this process is set to: `Settings`. Only this module and the command line read the environment.

Everything else gets values as arguments.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .images import ImageRule, LocalImage
from .objects.codec import DEFAULT_THRESHOLD_BYTES
from .objects.location import S3Access
from .platforms import api

__all__ = [
    "CONFIG_FILE",
    "ObjectSettings",
    "Settings",
    "config_file",
    "image_rules",
    "is_ci",
    "is_dumb_terminal",
    "object_settings",
    "progress_mode",
    "worker_endpoint",
]

#: Name of a project's configuration file.
CONFIG_FILE = "flash-plugins.toml"


@dataclass(frozen=True, slots=True)
class Settings:
    """What this process is set to.

    Attributes:
        platform: `local` or `runpod`, None to choose by whether a key is configured.
        platform_source: Where `platform` was set, None if it was not.
        api_key: Runpod API key, None if there is none.
        key_source: Where the key was found.
        api_base: Base URL of REST v2, without `/v2`.
        job_base: Base URL of the job API, without `/v2`.
        progress: `auto`, `on` or `off`.
        package_spec: What workers that are not of this machine install with pip, None for the versions here.
        worker_endpoint: Name of the endpoint whose worker this process is, None outside workers.
        objects_min_bytes: How long a part of a pickle must be to become an object.
        objects_max_bytes: How many bytes of objects a folder of this machine may hold; None for the default.
        enclosing_url: Base URL of the local platform whose worker this process is, None elsewhere.
        enclosing_key: The key that platform wants.
    """

    platform: str | None = None
    platform_source: str | None = None
    api_key: str | None = field(default=None, repr=False)
    key_source: str | None = None
    api_base: str = api.CLOUD_API_BASE
    job_base: str = api.CLOUD_JOB_BASE
    progress: str = "auto"
    package_spec: str | None = None
    worker_endpoint: str | None = None
    objects_min_bytes: int = DEFAULT_THRESHOLD_BYTES
    objects_max_bytes: int | None = None
    enclosing_url: str | None = None
    enclosing_key: str | None = field(default=None, repr=False)

    @classmethod
    def load(cls, *, platform: str | None = None, progress: str | None = None) -> Settings:
        """Return the settings in force.

        `FLASH_PLATFORM` wins over the `platform` argument, so that a script can be moved without an edit.
        `RUNPOD_API_KEY` wins over `~/.runpod/config.toml`; `RUNPOD_API_BASE_URL` and
        `RUNPOD_ENDPOINT_BASE_URL` mean what they mean to Runpod's own clients (the second ends in `/v2`).
        `FLASH_PLUGINS_SPEC` is what workers in the cloud install. `FLASH_PLUGINS_OBJECTS_MIN_BYTES`
        and `FLASH_PLUGINS_OBJECTS_MAX_BYTES` are about large objects.

        Raises:
            ConfigError: A value cannot be used.
        """
        environ = os.environ
        key, key_source = _find_key(environ)
        chosen, source = (environ.get("FLASH_PLATFORM") or None), "FLASH_PLATFORM"
        if chosen is None:
            chosen, source = platform, "flash_plugins.configure"
        return cls(
            platform=chosen,
            platform_source=source if chosen else None,
            api_key=key,
            key_source=key_source,
            api_base=(environ.get("RUNPOD_API_BASE_URL") or api.CLOUD_API_BASE).rstrip("/"),
            job_base=(environ.get("RUNPOD_ENDPOINT_BASE_URL") or api.CLOUD_JOB_BASE).rstrip("/").removesuffix("/v2"),
            package_spec=environ.get(api.PACKAGE_SPEC_ENV, "").strip() or None,
            worker_endpoint=worker_endpoint(),
            objects_min_bytes=_bytes_in(environ, api.OBJECTS_MIN_BYTES_ENV) or DEFAULT_THRESHOLD_BYTES,
            objects_max_bytes=_bytes_in(environ, api.OBJECTS_MAX_BYTES_ENV),
            enclosing_url=environ.get(api.PLATFORM_URL_ENV),
            enclosing_key=environ.get(api.PLATFORM_KEY_ENV),
            progress=progress_mode(progress),
        )


@dataclass(frozen=True, slots=True)
class ObjectSettings:
    """Where large objects go.

    Attributes:
        url: The store, None where nothing says which.
        source: What says so.
        is_off: Whether there shall be none.
        access: Keys of buckets, None where only the usual places of S3 clients may have some.
    """

    url: str | None = None
    source: str | None = None
    is_off: bool = False
    access: S3Access | None = None


def object_settings(configured: str | None = None, *, script: Path | None = None) -> ObjectSettings:
    """Return where large objects go: `FLASH_PLUGINS_OBJECTS`, else `configured`, else `objects` of the nearest file.

    Args:
        configured: What `flash_plugins.configure(objects=…)` said.
        script: The program, None for the main module of this process.

    Raises:
        ConfigError: The URL cannot be used, a file cannot be read, or of the two keys of a bucket one is missing.
    """
    from .objects.open import check_url

    url, source = os.environ.get(api.OBJECTS_ENV, "").strip(), api.OBJECTS_ENV
    if not url and configured is not None:
        url, source = configured.strip(), "flash_plugins.configure"
    for path in [*_project_files(script), *_user_files()] if not url else []:
        found = _parsed(path).get("objects")
        if found is not None and not isinstance(found, str):
            raise ConfigError(f"{path}: objects must be a URL, such as objects = 's3://bucket/prefix'")
        if found and found.strip():
            url, source = found.strip(), str(path)
            break
    access = S3Access.of(os.environ)
    if not url:
        return ObjectSettings(access=access)
    if url.lower() in ("off", "none"):
        return ObjectSettings(source=source, is_off=True, access=access)
    try:
        return ObjectSettings(check_url(url), source, access=access)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def is_ci() -> bool:
    """Return whether this process runs in continuous integration (the variable `CI` is set)."""
    return bool(os.environ.get("CI"))


def progress_mode(configured: str | None = None) -> str:
    """Return whether progress is shown: `auto`, `on` or `off`. `FLASH_PROGRESS` wins over what was configured.

    Raises:
        ConfigError: It is none of these.
    """
    value = os.environ.get("FLASH_PROGRESS") or configured or "auto"
    if value not in ("auto", "on", "off"):
        raise ConfigError(f"FLASH_PROGRESS (or configure(progress=…)) is {value!r}: give auto, on or off")
    return value


def is_dumb_terminal() -> bool:
    """Return whether the terminal says that a line on it cannot be rewritten."""
    return os.environ.get("TERM") == "dumb"


def worker_endpoint() -> str | None:
    """Return the name of the endpoint whose worker this process is, None outside workers."""
    return os.environ.get(api.ENDPOINT_NAME_ENV)


def _bytes_in(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "").strip()
    if not value:
        return None
    if not value.isdigit() or value == "0":
        raise ConfigError(f"{name} is {value!r}: give a number of bytes, such as 65536")
    return int(value)


def _find_key(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    if key := environ.get("RUNPOD_API_KEY", "").strip():
        return key, "RUNPOD_API_KEY"
    home = environ.get("HOME")
    if not home:
        return None, None
    path = Path(home) / ".runpod" / "config.toml"
    try:
        found = tomllib.loads(path.read_text()).get("default", {}).get("api_key")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None, None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError, IsADirectoryError) as error:
        raise ConfigError(f"{path} is not a Runpod configuration file ({error}); repair or remove it") from error
    return (found, str(path)) if isinstance(found, str) and found else (None, None)


def config_file(script: Path | None = None) -> Path:
    """Return the configuration file of this project, which need not exist: then it would be in this folder.

    Args:
        script: The program, None for the main module of this process.
    """
    found = next(_project_files(script), None)
    return Path.cwd() / CONFIG_FILE if found is None else found


def image_rules(script: Path | None = None) -> list[ImageRule]:
    """Return what `[local.images]` says in the configuration files, the nearest file first.

    These are the nearest `flash-plugins.toml` in the working directory or above, the nearest one beside the program
    or above, and `~/.config/flash-plugins/config.toml`.

    Args:
        script: The program, None for the main module of this process.

    Raises:
        ConfigError: A file cannot be read or has something unknown in it, or belongs to somebody else.
    """
    files = [*_project_files(script), *_user_files()]
    return [rule for path in dict.fromkeys(files) for rule in _read_image_rules(path)]


def _project_files(script: Path | None) -> Iterator[Path]:
    if script is None:
        main_file = getattr(sys.modules.get("__main__"), "__file__", None)
        script = None if main_file is None else Path(main_file)
    for start in [Path.cwd(), *([] if script is None else [script.absolute().parent])]:
        found = next(
            (folder / CONFIG_FILE for folder in (start, *start.parents) if _exists(folder / CONFIG_FILE)), None
        )
        if found is not None:
            _check_owner(found, start)
            yield found


def _user_files() -> Iterator[Path]:
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.environ.get("HOME", ""), ".config")
    path = Path(base) / "flash-plugins" / "config.toml"
    if path.is_absolute() and _exists(path):
        yield path


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be looked into
        return False


def _check_owner(path: Path, start: Path) -> None:
    """Refuse a file that somebody else put into a folder above: its commands would run as this user."""
    owner = path.stat().st_uid
    if path.parent != start and owner not in (0, os.getuid(), start.stat().st_uid):
        raise ConfigError(
            f"{path} belongs to another user (number {owner}), and its commands would run as you; remove it, or put a "
            f"{CONFIG_FILE} of your own into {start}"
        )


def _read_image_rules(path: Path) -> list[ImageRule]:
    content = {key: value for key, value in _parsed(path).items() if key != "objects"}
    local = _table(path, content, "local", within="")
    images = _table(path, local, "images", within="local.")
    return [ImageRule(pattern, _local_image(path, pattern, value), path) for pattern, value in images.items()]


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a configuration file: {error}") from error


def _table(path: Path, content: Mapping[str, Any], name: str, *, within: str) -> Mapping[str, Any]:
    """Return a table of a file, the only one that there may be at this place."""
    for key in content:
        if key != name:
            hint = f"; did you mean [{within}{name}]?" if difflib.get_close_matches(key, [name]) else ""
            raise ConfigError(f"{path}: [{within}{key}] is not known, only objects and [local.images] are{hint}")
    table = content.get(name, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path}: {within}{name} must be a table, written as [local.images]")
    return table


def _local_image(path: Path, pattern: str, value: object) -> LocalImage:
    if not isinstance(value, str | list):
        raise ConfigError(f"{path}: {pattern!r} under [local.images] must be a command line, or a list of its words")
    try:
        return LocalImage(value, directory=path.absolute().parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {pattern!r} under [local.images]: {error}") from error
