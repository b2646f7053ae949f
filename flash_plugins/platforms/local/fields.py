# SPDX-License-Identifier: Apache-2.0
"""Fields of REST v2 requests, checked one by one. It knows no resource: see `endpoints`, `templates`, `volumes`.

Each check takes a value and its path, such as `$.workers.min`, and returns what is wrong as texts that start
with the path: the form of the service's own refusals (REST v2 description, 2026-08).
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "CONTAINER_CHECKS",
    "CUDA_VERSION",
    "Check",
    "JsonObject",
    "Refused",
    "array",
    "boolean",
    "nullable",
    "number",
    "object_of",
    "one_of",
    "refuse",
    "string",
    "string_map",
]

#: JSON of a request, checked field by field.
JsonObject = dict[str, Any]
#: Returns what is wrong with a value (JSON, hence `Any`) at a path.
Check = Callable[[Any, str], list[str]]

#: A CUDA version as REST v2 wants it.
CUDA_VERSION = re.compile(r"\d+\.\d+", re.ASCII)


#: Largest whole number that any field takes: it must fit 64 bits, as in the service.
_WHOLE_MAX = 2**63 - 1
#: Wrong fields that one refusal names.
_ERRORS_MAX = 20


class Refused(Exception):
    """A request that REST v2 refuses.

    Attributes:
        status: 400 for a rule conflict, 404 for something it names that is unknown, 422 for wrong fields.
        detail: One sentence.
        errors: One text per wrong field, for 422.
    """

    def __init__(self, status: int, detail: str, errors: list[str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors or []


def refuse(errors: list[str]) -> None:
    """Raise what is wrong with a request's fields, if anything is.

    Raises:
        Refused: There are errors.
    """
    if not errors:
        return
    if len(errors) > _ERRORS_MAX:
        errors = [*errors[:_ERRORS_MAX], f"and {len(errors) - _ERRORS_MAX:,} more"]
    raise Refused(422, "the request does not match the schema: " + "; ".join(errors), errors)


def _shown(value: Any) -> str:
    """Return any value as a short text, however long or deep it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 100
    return short.repr(value)


def object_of(fields: Mapping[str, Check], *, required: tuple[str, ...] = ()) -> Check:
    """Return a check of an object with these fields and no others."""

    def check(value: Any, path: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{path}: must be an object"]
        unknown = [name if len(name) <= 100 else _shown(name) for name in value if name not in fields]
        errors = [f"{path}: additional properties '{name}' not allowed" for name in unknown]
        errors += [f"{path}: missing property '{name}'" for name in required if name not in value]
        for name in value:
            if name in fields:
                errors += fields[name](value[name], f"{path}.{name}")
        return errors

    return check


def string(*, at_least: int = 0, pattern: re.Pattern[str] | None = None) -> Check:
    """Return a check of a text of at least so many characters; an empty one need not fit the pattern."""

    def check(value: Any, path: str) -> list[str]:
        if not isinstance(value, str):
            return [f"{path}: must be a string"]
        if len(value) < at_least:
            return [f"{path}: must not be empty"]
        if pattern is not None and value and not pattern.fullmatch(value):
            return [f"{path}: {_shown(value)} is not a version such as 12.8"]
        return []

    return check


def one_of(*values: str) -> Check:
    """Return a check of one of a few texts."""

    def check(value: Any, path: str) -> list[str]:
        return (
            []
            if isinstance(value, str) and value in values
            else [f"{path}: must be one of {', '.join(values)}, not {_shown(value)}"]
        )

    return check


def number(minimum: float, maximum: float = _WHOLE_MAX, *, is_whole: bool = True) -> Check:
    """Return a check of a finite number in a range; a whole one may be written `3.0`."""

    def check(value: Any, path: str) -> list[str]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return [f"{path}: must be {'an integer' if is_whole else 'a number'}"]
        if isinstance(value, float) and not (value.is_integer() if is_whole else math.isfinite(value)):
            return [f"{path}: must be {'an integer' if is_whole else 'a finite number'}"]
        if not minimum <= value <= maximum:
            limits = f"{minimum:g} to {maximum:g}" if maximum != _WHOLE_MAX else f"at least {minimum:g}"
            limits = limits if value < minimum or maximum != _WHOLE_MAX else f"at most {_WHOLE_MAX}"
            return [f"{path}: must be {limits}, not {_shown(value)}"]
        return []

    return check


def array(item: Check, *, at_least: int = 0, is_unique: bool = False) -> Check:
    """Return a check of an array with one check for all items."""

    def check(value: Any, path: str) -> list[str]:
        if not isinstance(value, list):
            return [f"{path}: must be an array"]
        errors = [error for index, one in enumerate(value) for error in item(one, f"{path}[{index}]")]
        if len(value) < at_least:
            errors.append(f"{path}: needs at least {at_least} item")
        if is_unique and not errors and len({json.dumps(one, sort_keys=True) for one in value}) < len(value):
            errors.append(f"{path}: items must be unique")
        return errors

    return check


def nullable(inner: Check) -> Check:
    """Return a check that lets null pass."""
    return lambda value, path: [] if value is None else inner(value, path)


def string_map(value: Any, path: str) -> list[str]:
    """Check an object whose values are texts."""
    if not isinstance(value, dict):
        return [f"{path}: must be an object"]
    wrong = [name for name, one in value.items() if not isinstance(one, str)]
    return [f"{path}.{name if len(name) <= 100 else _shown(name)}: must be a string" for name in wrong]


def boolean(value: Any, path: str) -> list[str]:
    """Check true or false."""
    return [] if isinstance(value, bool) else [f"{path}: must be a boolean"]


#: What REST v2 says about a container, the same for endpoints and templates.
CONTAINER_CHECKS: Mapping[str, Check] = {
    "image": string(),
    "args": string(),
    "disk": number(1),
    "env": string_map,
    "ports": array(string()),
    "registry": nullable(string()),
}
