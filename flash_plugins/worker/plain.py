# SPDX-License-Identifier: Apache-2.0
"""What a function returns, as values that JSON has. It needs no other package, and knows the usual ones."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import math
import os
import uuid
from collections.abc import Mapping
from typing import Any

__all__ = ["plain"]

#: Levels of containers in one another; more is taken for something that contains itself.
_DEPTH_MAX = 100
#: Kinds whose text is their JSON form.
_TEXTS = (uuid.UUID, decimal.Decimal, os.PathLike)


def plain(value: Any, what: str, _place: str = "", _depth: int = 0) -> Any:
    """Return a value as JSON has it.

    Models of pydantic, dataclasses and dictionaries become objects; tuples, sets, arrays and tensors become lists;
    dates, times and identifiers texts; bytes base64. NaN and infinities, which JSON lacks, become null.

    Args:
        what: How messages name it, such as `the result of f()`.

    Raises:
        TypeError: Something in it has no JSON form; the message has the path to it.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value, what, _place, _depth)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, what, _place)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if _depth > _DEPTH_MAX:
        raise TypeError(f"{what} has no JSON form: it contains itself, or is nested more than {_DEPTH_MAX} levels deep")
    inner = _opened(value)
    if isinstance(inner, dict):
        return {
            _text(key, what, f"{_place}[{key!r}]"): plain(item, what, f"{_place}[{key!r}]", _depth + 1)
            for key, item in inner.items()
        }
    if isinstance(inner, list):
        return [plain(item, what, f"{_place}[{number}]", _depth + 1) for number, item in enumerate(inner)]
    if inner is not value:
        return plain(inner, what, _place, _depth + 1)
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    where = f": it has a {kind} at {_place}" if _place else f": it is a {kind}"
    raise TypeError(
        f"{what} has no JSON form{where}; a job in plain JSON returns dicts, lists, numbers, texts, models or arrays"
    )


def _text(value: str, what: str, place: str) -> str:
    """Return a text that JSON can be made of: file names that are no UTF-8 have halves of characters in them."""
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f" at {place}" if place else ""
        raise TypeError(
            f"{what} has no JSON form: the text{where} has {text[error.start]!r}, half a character; "
            "text.encode(errors='replace').decode() has '?' in its place"
        ) from None
    return text


def _opened(value: Any) -> Any:
    """Return what stands for a value, one level deep; the value itself if nothing does."""
    if isinstance(value, Mapping):
        return {_key(key): item for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if hasattr(type(value), "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if callable(getattr(value, "tolist", None)):  # arrays, tensors and numbers of NumPy, PyTorch and their like
        return value.tolist()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, _TEXTS):
        return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    return value


def _key(key: Any) -> Any:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return key if type(key) is str else str(key)
