# SPDX-License-Identifier: Apache-2.0
"""Output of a call, recorded on the worker, shown again in the caller's process as if it had run here."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from .code import loads
from .payload import decode_bytes

__all__ = ["replay"]

logger = logging.getLogger(__name__)

#: Where `warnings` remembers what it showed, for modules that are not loaded here.
_registry: dict[Any, Any] = {}


def replay(records: Iterable[Mapping[str, Any]]) -> None:
    """Print, log and warn what `records` say, in their order.

    Raises:
        Warning: The caller's filters turn this warning into an error, as for a call that runs here.
    """
    for record in records:
        if "stream" in record:
            stream = sys.stdout if record["stream"] == "stdout" else sys.stderr
            if stream is not None:  # a windowed or daemon process may have none
                stream.write(str(record["text"]))
                stream.flush()
        elif "log" in record:
            _log(record)
        elif "warning" in record:
            _warn(record)


def _log(record: Mapping[str, Any]) -> None:
    target = logging.getLogger(str(record["log"]))
    level = int(record["level"])
    if not target.isEnabledFor(level):
        return
    entry = logging.LogRecord(
        target.name, level, record["path"], record["line"], record["text"], (), None, record.get("function")
    )
    entry.created = float(record["created"])
    entry.msecs = float(int((entry.created % 1) * 1000))
    for name, value in record.get("extra", {}).items():
        vars(entry).setdefault(name, value)
    target.handle(entry)


def _warn(record: Mapping[str, Any]) -> None:
    module = str(record["module"])
    loaded = sys.modules.get(module)
    registry = _registry if loaded is None else loaded.__dict__.setdefault("__warningregistry__", {})
    warnings.warn_explicit(_warning_of(record), None, record["path"], record["line"], module=module, registry=registry)


def _warning_of(record: Mapping[str, Any]) -> Warning:
    if record.get("pickle"):
        try:
            warning = loads(decode_bytes(record["pickle"], "a warning"))
        except Exception as error:  # noqa: BLE001 - unpickling somebody's warning class may raise anything
            logger.debug("a warning of the worker cannot be rebuilt here: %s", error)
        else:
            if isinstance(warning, Warning):
                return warning
    return UserWarning(record["warning"])
