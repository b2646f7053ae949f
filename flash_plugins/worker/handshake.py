# SPDX-License-Identifier: Apache-2.0
"""What caller and worker have installed, compared: the difference is named once, and what to do where it broke a call.

A call states the packages it uses, with the requirement that gives the caller's version of each. Nothing is imported
for the comparison, and nothing refused: a difference is most often harmless.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Mapping

from ..code.distributions import MACHINERY, distribution_of, normalised
from ..platforms import api

__all__ = ["Handshake"]

logger = logging.getLogger(__name__)

#: A requirement with versions or an address: its name comes first.
_CONSTRAINED = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?[<>=!~@]")


class Handshake:
    """Compares what calls state with what is installed here. One per process; thread-safe.

    Args:
        dependencies: What the endpoint asks for. A version that its user chose is no surprise to warn of.
    """

    def __init__(self, dependencies: Iterable[str] = ()) -> None:
        self._chosen = MACHINERY.union(filter(None, map(_constrained, dependencies)))
        self._seen: set[frozenset[tuple[str, str]]] = set()
        self._told: set[str] = set()

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Handshake:
        """Return that of a worker with this environment."""
        return cls(json.loads(environ.get(api.DEPENDENCIES_ENV) or "[]"))

    def warn(self, packages: Mapping[str, str]) -> None:
        """Log one line, which the caller is shown, if packages differ that no line has named yet.

        Args:
            packages: By package or module, the requirement that the caller's version meets: `scikit-learn==1.5.1`.
        """
        key = frozenset(packages.items())
        if key in self._seen:
            return
        self._seen.add(key)
        differing = {
            wanted: here
            for wanted, here in _differing(packages).items()
            if wanted not in self._told and wanted.partition("==")[0] not in self._chosen
        }
        if differing:
            self._told.update(differing)
            logger.warning("%s", _advice(differing))

    def explain(self, error: BaseException, packages: Mapping[str, str], *, is_loading: bool) -> None:
        """Add to an exception what is likely to have caused it, if that is what is installed here.

        Args:
            error: What a call ended with.
            packages: As `warn` takes them.
            is_loading: Whether it was raised while function and arguments were rebuilt, rather than by the call.
        """
        notes = []
        if isinstance(error, ModuleNotFoundError) and error.name:
            notes.append(_missing(error.name, packages))
        if is_loading and (differing := _differing(packages)):
            notes.append(_advice(differing))
        with contextlib.suppress(Exception):  # a class of the user's may refuse notes; the error itself matters more
            for note in notes:
                error.add_note(note)


def _constrained(requirement: str) -> str | None:
    """Return the name of a requirement that allows certain versions only; None of others."""
    match = _CONSTRAINED.match(requirement)
    return normalised(match[1]) if match else None


def _differing(packages: Mapping[str, str]) -> dict[str, str]:
    """Return, by what the caller has, what is here instead; what is not here at all may not be needed."""
    found = {}
    for package, wanted in packages.items():
        here = distribution_of(package)
        if here is not None and here.pin != wanted and " @ " not in wanted:
            found[wanted] = here.version
    return found


def _advice(differing: Mapping[str, str]) -> str:
    versions = [
        f"the worker has {name} {here}, this process {version}"
        for (name, _, version), here in ((wanted.partition("=="), here) for wanted, here in differing.items())
    ]
    return f"{'; '.join(versions)}: pin dependencies={list(differing)!r} to have the same"


def _missing(module: str, packages: Mapping[str, str]) -> str:
    top = module.partition(".")[0]
    for package, wanted in packages.items():
        if package.partition(".")[0] == top:
            return (
                f"the worker lacks {module!r}: give the endpoint dependencies=[{wanted!r}], the version of this process"
            )
    return (
        f"the worker lacks {module!r}: give the endpoint dependencies=[{top!r}], or the name of its distribution where "
        "that is another"
    )
