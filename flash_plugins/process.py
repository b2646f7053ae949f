# SPDX-License-Identifier: Apache-2.0
"""What there is once per process: settings, plugins, the session with its platform. Ends with the process."""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import ConfigError
from .settings import (
    ObjectSettings,
    Settings,
    config_file,
    image_rules,
    is_ci,
    object_settings,
    progress_mode,
    worker_endpoint,
)

if TYPE_CHECKING:
    from pathlib import Path

    from .builtin.progress import Progress
    from .config import EndpointConfig
    from .dispatcher import Session
    from .hooks import HookManager
    from .objects import ObjectStore
    from .objects.space import CallSink, ObjectSpace
    from .platforms.base import Platform

__all__ = ["configure", "hooks", "objects_setting", "open_objects", "platform", "register", "session", "unregister"]

_lock = threading.RLock()
_hooks: HookManager | None = None
_progress: Progress | None = None
_session: Session | None = None
_configured: dict[str, str] = {}
_script: Path | None = None
_refusal: str | None = None
#: As the settings were when first asked: reading them takes longer than a small call.
_object_min_bytes: int | None = None


def configure(*, platform: str | None = None, progress: str | None = None, objects: str | None = None) -> None:
    """Set what the environment does not.

    Args:
        platform: `local` or `runpod`. The variable `FLASH_PLATFORM` wins over this.
        progress: `auto` (default: off in CI), `on` or `off`. The variable `FLASH_PROGRESS` wins over this.
        objects: URL of the store of large objects, without keys: `s3://bucket/prefix?endpoint=…&region=…`; `off`
            for none. The variable `FLASH_PLUGINS_OBJECTS` wins over this.

    Raises:
        ConfigError: `progress` is none of these, `objects` is no URL of a store, or the platform was chosen already.
            Whether `platform` exists is seen when it is chosen: plugins may add others.
    """
    with _lock:
        if platform is not None and _session is not None and _session.has_platform:
            raise ConfigError(
                f"configure(platform={platform!r}) comes too late: this process already uses platform "
                f"{_session.platform().name!r}; call it before the first call"
            )
        wanted = (("platform", platform), ("progress", progress), ("objects", objects))
        given = {**_configured, **{key: value for key, value in wanted if value is not None}}
        _load(given)
        if objects is not None:
            object_settings(objects, script=_script)
        _configured.update(given)


def work_for(script: Path) -> None:
    """Look for configuration files beside `script` rather than beside this process's own main module."""
    global _script
    _script = script


@contextmanager
def no_session(reason: str) -> Iterator[None]:
    """Refuse whatever needs the platform while the context lasts, in all threads."""
    global _refusal
    _refusal = reason
    try:
        yield
    finally:
        _refusal = None


def settings() -> Settings:
    """Return the settings in force now."""
    return _load(_configured)


def _load(configured: Mapping[str, str]) -> Settings:
    return Settings.load(**{name: value for name, value in configured.items() if name != "objects"})


def objects_setting() -> ObjectSettings:
    """Return where large objects go, as far as anything says so.

    Raises:
        ConfigError: A value or a configuration file cannot be used.
    """
    return object_settings(_configured.get("objects"), script=_script)


def open_objects(url: str) -> ObjectStore:
    """Return the store of large objects at a URL; nothing is asked of it yet.

    Raises:
        ConfigError: The URL cannot be used, or no plugin knows its scheme.
        HookError: A plugin failed.
    """
    from .objects.open import check_url, unknown_scheme

    store = hooks().object_store(check_url(url))
    if store is None:
        raise unknown_scheme(url)
    return store


def hooks() -> HookManager:
    """Return this process's plugins."""
    global _hooks, _progress
    with _lock:
        if _hooks is None:
            from .builtin import notice, platform_choice
            from .builtin.local_image import ConfiguredImages, DockerImages
            from .builtin.object_stores import ObjectStores
            from .builtin.progress import Progress
            from .hooks import HookManager

            _progress = Progress(lambda: progress_mode(_configured.get("progress")), is_ci=is_ci())
            # What a worker writes is shown to its caller, who has lines of this kind already.
            for_users = [] if worker_endpoint() is not None else [("notice", notice), ("progress", _progress)]
            _hooks = HookManager(
                [
                    ("platform-choice", platform_choice),
                    ("object-stores", ObjectStores(lambda: objects_setting().access)),
                    *for_users,
                    ("docker-images", DockerImages(lambda: config_file(_script))),
                    ("configured-images", ConfiguredImages(lambda: image_rules(_script))),
                ],
            )
        return _hooks


def register(plugin: object, *, name: str | None = None) -> None:
    """Add a plugin to this process: a module, class or object with functions marked by `hookimpl`.

    Raises:
        HookError: It is registered already, or it implements a hook that does not exist.
    """
    hooks().register(plugin, name=name)


def unregister(plugin: object) -> None:
    """Remove a plugin that `register` added, or by its name any other, such as the built-in `progress`.

    Raises:
        HookError: It is not registered.
    """
    hooks().unregister(plugin)


def platform() -> Platform:
    """Return the platform of this process, choosing it now if no call did yet.

    Raises:
        ConfigError: Settings or plugins name none that exists.
        HookError: A plugin failed while it chose.
    """
    return session().platform()


def session() -> Session:
    """Return the session of this process, made on the first ask.

    Raises:
        ConfigError: Nothing may use the platform now, see `no_session`.
    """
    if _refusal is not None:
        raise ConfigError(_refusal)
    global _session
    with _lock:
        if _session is None:
            from .dispatcher import Session

            _session = Session(settings, hooks(), objects=objects_setting)
            atexit.register(close)
        return _session


def object_sink(config: EndpointConfig | None = None) -> CallSink:
    """Return what takes the large parts of one pickle for an endpoint; with the first it asks for the platform."""
    return _sink_class()(lambda: session().objects.space(config), object_min_bytes())


def object_min_bytes() -> int:
    """Return how long a part of a pickle must be to become an object."""
    global _object_min_bytes
    if _object_min_bytes is None:
        _object_min_bytes = settings().objects_min_bytes
    return _object_min_bytes


@functools.cache
def _sink_class() -> type[CallSink]:
    from .objects.space import CallSink

    return CallSink


def is_open_space(space: ObjectSpace | None) -> bool:
    """Return whether large objects of calls that are made now go to this space, or it is another one's of long ago."""
    session = _session
    return session is not None and session.objects.is_open(space)


def close() -> None:
    """Cancel every call of this process and leave the platform. Runs at exit; a later call starts anew."""
    global _session, _object_min_bytes
    with _lock:
        closing, _session, _object_min_bytes = _session, None, None
        atexit.unregister(close)
    if closing is not None:
        closing.close()


#: What a forked child inherited and must neither use nor take down: its sockets are those of its parent.
_inherited: list[Session] = []


def _forget_in_child() -> None:
    """A forked child has none of the threads: it starts its own session, and never ends its parent's platform."""
    global _session, _lock
    _lock = threading.RLock()
    if _session is not None:
        _inherited.append(_session)
        _session = None
    if _hooks is not None:
        _hooks.start_anew()
    if _progress is not None:
        _progress.start_anew()


os.register_at_fork(after_in_child=_forget_in_child)
