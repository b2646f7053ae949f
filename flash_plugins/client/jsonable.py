# SPDX-License-Identifier: Apache-2.0
"""JSON for requests: what users pass as data, pydantic models and dataclasses included."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

__all__ = ["to_json"]


def to_json(value: Any, what: str) -> bytes:
    """Return a value as JSON; pydantic models and dataclasses become objects.

    Raises:
        TypeError: JSON cannot express it; the message says what, and names the type.
        ValueError: A number in it is not finite, or it contains itself.
    """
    try:
        return json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":")).encode()
    except TypeError as error:
        raise TypeError(f"{what} cannot be sent as JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{what} cannot be sent as JSON: {error}") from None


def _plain(value: Any) -> Any:
    if hasattr(type(value), "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__qualname__} is neither a JSON type, a dataclass nor a pydantic model")
