# SPDX-License-Identifier: Apache-2.0
"""The platforms that ship with the package, and the rule that picks one. It sends no request."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock

from ..errors import AuthenticationError, ConfigError
from ..settings import Settings
from . import api
from .base import Connection, Platform, RateLimit
from .local import launch as local
from .local.launch import RunningPlatform
from .local.state import volumes_base

__all__ = ["CloudPlatform", "EnclosingPlatform", "LocalPlatform", "choose"]

#: Runpod's documented limits by operation.
RUNPOD_LIMITS = {
    operation: RateLimit(requests, api.RATE_LIMIT_PERIOD_S, at_once)
    for operation, (requests, at_once) in api.RATE_LIMITS.items()
}


def choose(settings: Settings) -> Platform:
    """Return the platform that `settings` ask for: as named, else Runpod when a key is configured, else local.

    On a worker it is the platform that runs the worker.

    Raises:
        ConfigError: The named platform does not exist.
        AuthenticationError: Runpod was named, or runs this worker, and no key is configured.
    """
    if settings.worker_endpoint is not None:
        return EnclosingPlatform(settings)
    if settings.platform == "local":
        return LocalPlatform(f"{settings.platform_source} says so")
    if settings.platform == "runpod":
        return CloudPlatform(settings, f"{settings.platform_source} says so")
    if settings.platform is not None:
        raise ConfigError(
            f"{settings.platform_source} names platform {settings.platform!r}; there are: local, runpod (a plugin may "
            "add others)"
        )
    if settings.api_key is not None:
        return CloudPlatform(settings, f"a Runpod API key is in {settings.key_source}")
    return LocalPlatform("no Runpod API key is configured")


class CloudPlatform:
    """Runpod, or whatever answers at `RUNPOD_API_BASE_URL`."""

    name = "runpod"
    outlives_us = True

    def __init__(self, settings: Settings, reason: str) -> None:
        self.reason = reason
        if settings.api_base != api.CLOUD_API_BASE:
            self.reason = f"{reason}; at {settings.api_base}, set by {api.API_BASE_ENV}"
        self._settings = settings

    def connect(self) -> Connection:
        """Return where Runpod is; nothing is started or asked.

        Raises:
            AuthenticationError: There is no key.
        """
        settings = self._settings
        if settings.api_key is None:
            raise AuthenticationError(
                "platform 'runpod' needs an API key and none is configured: set RUNPOD_API_KEY, or run without an "
                "account with FLASH_PLATFORM=local"
            )
        is_cloud = settings.job_base == api.CLOUD_JOB_BASE
        is_cloud_api = settings.api_base == api.CLOUD_API_BASE
        return Connection(
            api_base=settings.api_base,
            job_base=None if is_cloud else settings.job_base,
            key=settings.api_key,
            balanced_base=api.CLOUD_BALANCED_BASE if is_cloud_api else settings.api_base + api.LOCAL_BALANCED_PATH,
            has_package=not is_cloud_api,
            limits=RUNPOD_LIMITS,
            key_advice=f"check the key in {settings.key_source}",
        )

    def lost_reason(self) -> str | None:
        """Return None: only requests can tell."""
        return None

    def close(self) -> None:
        """Leave Runpod as it is; endpoints scale to zero by themselves."""


class EnclosingPlatform:
    """The platform whose worker this process is."""

    outlives_us = True

    def __init__(self, settings: Settings) -> None:
        self.name = "runpod" if settings.enclosing_url is None else "local"
        self.reason = f"this is a worker of endpoint {settings.worker_endpoint!r}"
        self._settings = settings

    def connect(self) -> Connection:
        """Return where it is.

        Raises:
            AuthenticationError: Runpod gives its workers no key for this, and none is configured.
        """
        settings = self._settings
        if settings.enclosing_url is not None:
            return Connection(
                api_base=settings.enclosing_url,
                key=settings.enclosing_key or "",
                balanced_base=settings.enclosing_url + api.LOCAL_BALANCED_PATH,
                queue_delay_s=api.QUEUE_DELAY_MIN_S,
                keeps_endpoints=True,
            )
        if settings.api_key is None:
            raise AuthenticationError(
                f"a worker of endpoint {settings.worker_endpoint!r} calls another endpoint, for which it needs an API "
                f"key of the account; give its endpoint one: env={{'{api.API_KEY_ENV}': …}}"
            )
        return replace(CloudPlatform(settings, self.reason).connect(), keeps_endpoints=True)

    def lost_reason(self) -> str | None:
        """Return None: it outlives its workers."""
        return None

    def close(self) -> None:
        """Leave it as it is."""


class LocalPlatform:
    """The embedded platform: one found running, else one started for this process. Thread-safe."""

    name = "local"

    def __init__(self, reason: str) -> None:
        self._lock = Lock()
        self._running: RunningPlatform | None = local.find_running()
        self._is_ours = self._running is None
        found = "" if self._running is None else f"; process {self._running.pid} was found running"
        self.reason = reason + found

    @property
    def outlives_us(self) -> bool:
        """True for a platform that was found running."""
        return not self._is_ours

    def connect(self) -> Connection:
        """Find or start the platform.

        Raises:
            PlatformUnavailable: It does not start.
            MissingDependencyError: Its packages are not installed.
        """
        with self._lock:
            if self._running is None or self._running.exit_reason() is not None:
                if self._running is not None:
                    self._running.let_go()
                self._running = local.find_running()
                self._is_ours = self._running is None
                if self._running is None:
                    self._running = local.launch()
            advice = "the local platform has a key of its own: was it stopped, and another one started there?"
            return Connection(
                api_base=self._running.url,
                key=self._running.key,
                balanced_base=self._running.url + api.LOCAL_BALANCED_PATH,
                key_advice=advice,
                queue_delay_s=api.QUEUE_DELAY_MIN_S,
                runs_images=False,
                volume_note=f"a folder below {volumes_base(self._running.run_dir)}",
                objects=self._running.objects,
            )

    def lost_reason(self) -> str | None:
        """Return how the platform's process ended, None while it lives."""
        running = self._running
        return None if running is None else running.exit_reason()

    def close(self) -> None:
        """End the platform if it was started for this process."""
        with self._lock:
            running, self._running = self._running, None
            if running is not None and self._is_ours:
                running.stop()
