# SPDX-License-Identifier: Apache-2.0
"""The routes of a load-balanced endpoint, as they were declared. It serves none: that is a worker's job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from .errors import ConfigError

__all__ = ["METHODS", "RESERVED_PATHS", "Route", "RouteTable"]

#: Methods that a route may have.
METHODS: Final = ("GET", "POST", "PUT", "DELETE", "PATCH")
#: Paths that the framework answers itself; `/execute` belongs to `runpod_flash` and stays free for it.
RESERVED_PATHS: Final = ("/execute", "/ping")


@dataclass(frozen=True, slots=True)
class Route:
    """One route: what it answers, and the user's plain function."""

    method: str
    path: str
    function: Callable[..., Any]

    @property
    def function_name(self) -> str:
        """Name of the function, for messages."""
        return str(getattr(self.function, "__qualname__", self.function))


class RouteTable:
    """Routes in the order of their declaration; a method and a path belong together once."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], Route] = {}

    def __iter__(self) -> Iterator[Route]:
        return iter(list(self._routes.values()))

    def __len__(self) -> int:
        return len(self._routes)

    def check(self, method: str, path: object) -> str:
        """Return the path of a new route.

        Raises:
            ConfigError: The path does not begin with `/`, or is the framework's own.
        """
        where = f"{method.lower()}({path!r})"
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigError(f"{where}: the path of a route is a text that begins with '/', such as '/predict'")
        if path in RESERVED_PATHS:
            raise ConfigError(
                f"{where}: this path is reserved: health checks and the platform use {' and '.join(RESERVED_PATHS)}; "
                "choose another one"
            )
        return path

    def add(self, method: str, path: str, function: Callable[..., Any]) -> None:
        """Declare a route.

        Raises:
            ConfigError: The route exists, or something else than a function is to answer it.
        """
        if not callable(function) or isinstance(function, type):
            raise ConfigError(f"{method} {path}: a route is answered by a function, not by {function!r}")
        present = self._routes.get((method, path))
        if present is not None and not _is_same(present.function, function):
            raise ConfigError(
                f"duplicate route: {method} {path} is answered by {present.function_name}() already; give one of the "
                "two another path or method"
            )
        self._routes[(method, path)] = Route(method, path, function)


def _is_same(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Return whether one is the other defined anew, as running the cell of a notebook again does."""
    named = [
        (getattr(f, "__module__", None), getattr(f, "__qualname__", None), getattr(f, "__code__", None))
        for f in (old, new)
    ]
    (module, name, code), (new_module, new_name, new_code) = named
    if module != new_module or name != new_name or code is None or new_code is None:
        return False
    # A cell has a file name of its own each time it runs differently; in a file, two places are two functions.
    is_interactive = module == "__main__" and code.co_filename.startswith(("<", "/tmp/ipykernel"))
    return bool(is_interactive or code is new_code)
