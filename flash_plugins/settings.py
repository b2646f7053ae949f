# SPDX-License-Identifier: Apache-2.0
"""What this process is set to: `Settings`. Only this module and the command line read the environment.

Everything else gets values as arguments.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ConfigError
from .platforms import api

__all__ = ["Settings", "is_ci", "worker_endpoint"]


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
    """

    platform: str | None = None
    platform_source: str | None = None
    api_key: str | None = field(default=None, repr=False)
    key_source: str | None = None
    api_base: str = api.CLOUD_API_BASE
    job_base: str = api.CLOUD_JOB_BASE
    progress: str = "auto"
    package_spec: str | None = None

    @classmethod
    def load(cls, *, platform: str | None = None, progress: str | None = None) -> Settings:
        """Return the settings in force.

        `FLASH_PLATFORM` wins over the `platform` argument, so that a script can be moved without an edit.
        `RUNPOD_API_KEY` wins over `~/.runpod/config.toml`; `RUNPOD_API_BASE_URL` and
        `RUNPOD_ENDPOINT_BASE_URL` mean what they mean to Runpod's own clients (the second ends in `/v2`).
        `FLASH_PLUGINS_SPEC` is what workers in the cloud install.

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
            progress=_check_progress(environ.get("FLASH_PROGRESS") or progress or "auto"),
        )


def is_ci() -> bool:
    """Return whether this process runs in continuous integration (the variable `CI` is set)."""
    return bool(os.environ.get("CI"))


def worker_endpoint() -> str | None:
    """Return the name of the endpoint whose worker this process is, None outside workers."""
    return os.environ.get(api.ENDPOINT_NAME_ENV)


def _check_progress(value: str) -> str:
    if value not in ("auto", "on", "off"):
        raise ConfigError(f"FLASH_PROGRESS (or configure(progress=…)) is {value!r}: give auto, on or off")
    return value


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
