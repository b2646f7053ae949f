# SPDX-License-Identifier: Apache-2.0
"""Finding plugins and calling their hooks: one typed method per hook, one failure policy per kind.

Nothing else in the package touches pluggy's own call objects: `mypy` accepts wrong calls of those, and a
misspelt hook function would register silently (`check_pending` turns that into an error).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from threading import RLock
from typing import TYPE_CHECKING, cast

import pluggy

from ..errors import FlashPluginsError, HookError
from . import spec
from .spec import PROJECT, CallEvent

if TYPE_CHECKING:
    from ..config import EndpointConfig
    from ..images import LocalImage
    from ..objects.store import ObjectStore
    from ..platforms.base import Platform
    from ..settings import Settings

__all__ = ["HookManager"]

logger = logging.getLogger(__name__)


class HookManager:
    """The plugins of one process. Thread-safe.

    Args:
        builtins: Plugins that ship with the package, by name. Registered first, so they are asked last.
        discover: Also load installed plugins (entry-point group `flash_plugins`) at the first hook call.
    """

    def __init__(self, builtins: Iterable[tuple[str, object]] = (), *, discover: bool = True) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(spec)
        self._lock = RLock()
        self._discover = discover
        self._call_observers: list[pluggy.HookImpl] = []
        for name, plugin in builtins:
            self.register(plugin, name=name)

    def start_anew(self) -> None:
        """Forget whoever holds the lock: in a forked child that thread does not exist. The plugins stay."""
        self._lock = RLock()

    def register(self, plugin: object, *, name: str | None = None) -> str:
        """Add a plugin: a module, class or object with functions marked by `hookimpl`. Returns its name.

        Raises:
            HookError: It is registered already, or it implements a hook that does not exist.
        """
        with self._lock:
            try:
                registered = self._manager.register(plugin, name)
                self._manager.check_pending()
            except (ValueError, pluggy.PluginValidationError) as error:
                if self._manager.is_registered(plugin) and isinstance(error, pluggy.PluginValidationError):
                    self._manager.unregister(plugin)
                raise HookError(f"plugin {name or plugin!r} cannot be registered: {error}") from error
            self._call_observers = self._manager.hook.flash_call_event.get_hookimpls()
        return registered or ""

    def unregister(self, plugin: object) -> None:
        """Remove a plugin, given itself or by its name.

        Raises:
            HookError: It is not registered.
        """
        if isinstance(plugin, str):
            self._load_installed()
        with self._lock:
            known = self._manager.get_plugin(plugin) if isinstance(plugin, str) else plugin
            if known is None or not self._manager.is_registered(known):
                raise HookError(f"plugin {plugin!r} is not registered, so it cannot be removed")
            self._manager.unregister(known)
            self._call_observers = self._manager.hook.flash_call_event.get_hookimpls()

    def plugin_names(self) -> list[str]:
        """Return the names of all plugins, installed ones included."""
        self._load_installed()
        return [name for name, _plugin in self._manager.list_name_plugin()]

    def choose_platform(self, settings: Settings) -> Platform | None:
        """Ask `flash_choose_platform`. Gate.

        Raises:
            HookError: A plugin failed.
        """
        return cast("Platform | None", self._first(self._manager.hook.flash_choose_platform, settings=settings))

    def local_image(self, config: EndpointConfig) -> LocalImage | None:
        """Ask `flash_local_image` about an endpoint with an image. Gate.

        Raises:
            ConfigError: There is no command for it.
            HookError: A plugin failed.
        """
        hook = self._manager.hook.flash_local_image
        return cast("LocalImage | None", self._first(hook, image=config.image, config=config))

    def object_store(self, url: str) -> ObjectStore | None:
        """Ask `flash_object_store`. Gate.

        Raises:
            ConfigError: The URL cannot be used.
            HookError: A plugin failed.
        """
        return cast("ObjectStore | None", self._first(self._manager.hook.flash_object_store, url=url))

    def platform_chosen(self, platform: Platform) -> None:
        """Tell `flash_platform_chosen`. Observer."""
        self._load_installed()
        for impl in self._manager.hook.flash_platform_chosen.get_hookimpls():
            self._observe(impl, platform=platform)

    def notice(self, text: str, *, endpoint: str | None = None) -> None:
        """Tell `flash_notice`. Observer."""
        self._load_installed()
        for impl in self._manager.hook.flash_notice.get_hookimpls():
            self._observe(impl, text=text, endpoint=endpoint)

    @property
    def observes_calls(self) -> bool:
        """Whether anybody wants to be told of calls."""
        return bool(self._call_observers)

    def call_event(self, event: CallEvent) -> None:
        """Tell `flash_call_event`. Observer."""
        for impl in self._call_observers:
            try:  # as `_observe`, without its detours: there are three events for each of some 10,000 calls a second
                impl.function(*(event for _ in impl.argnames))
            except (Exception, SystemExit):  # noqa: BLE001 - logged, as there
                _log_failure(impl)

    def _load_installed(self) -> None:
        with self._lock:
            if not self._discover:
                return
            self._discover = False
            try:
                self._manager.load_setuptools_entrypoints(PROJECT)
                self._manager.check_pending()
            except Exception as error:
                raise HookError(
                    f"an installed flash_plugins plugin cannot be loaded: {type(error).__name__}: {error}; "
                    "repair or uninstall it"
                ) from error
            self._call_observers = self._manager.hook.flash_call_event.get_hookimpls()

    def _first(self, hook: pluggy.HookCaller, **arguments: object) -> object:
        """Return the first answer that is not None; who was registered last is asked first."""
        self._load_installed()
        for impl in reversed(hook.get_hookimpls()):
            answer = self._gate(impl, **arguments)
            if answer is not None:
                return answer
        return None

    def _gate(self, impl: pluggy.HookImpl, **arguments: object) -> object:
        try:
            return _call(impl, arguments)
        except FlashPluginsError:
            raise
        except Exception as error:
            raise HookError(
                f"plugin {impl.plugin_name!r} failed in {impl.function.__name__}: {type(error).__name__}: {error}"
            ) from error

    def _observe(self, impl: pluggy.HookImpl, **arguments: object) -> None:
        try:
            _call(impl, arguments)
        except (Exception, SystemExit):  # noqa: BLE001 - an observer must not hurt the call, nor end its thread
            _log_failure(impl)


def _log_failure(impl: pluggy.HookImpl) -> None:
    """Log the exception that is being handled."""
    logger.exception("plugin %r failed in %s; the call goes on", impl.plugin_name, impl.function.__name__)


def _call(impl: pluggy.HookImpl, arguments: Mapping[str, object]) -> object:
    return impl.function(*(arguments[name] for name in impl.argnames))
