# SPDX-License-Identifier: Apache-2.0
"""JSON texts taken apart without dumping them again. It never interprets what the user put in them.

Inputs and outputs can be megabytes that the platform only passes on. They are parsed once, because
invalid JSON must be refused at the border, and from then on travel as the bytes they arrived in.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["MalformedJson", "dump", "member", "parse_object", "with_member_in_front"]


class MalformedJson(ValueError):
    """A body is not the JSON object it should be; the text says why."""


def parse_object(body: bytes) -> dict[str, Any]:  # Any: whatever JSON the user sent
    """Return the JSON object in `body`.

    Raises:
        MalformedJson: It is not UTF-8, not JSON, or not an object.
    """
    try:
        parsed = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedJson(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:  # a ValueError too: a number of thousands of digits
        raise MalformedJson(f"the body is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise MalformedJson(f"the body must be a JSON object, not {type(parsed).__name__}")
    return parsed


def dump(value: object) -> bytes:
    """Return `value` as compact JSON text, in ASCII: lone surrogates survive only as escapes."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def member(body: bytes, parsed: dict[str, Any], key: str) -> bytes:
    """Return the JSON text of one member of an object; `body` is its text and `parsed` what that says."""
    if len(parsed) == 1:
        start = re.match(rb'\s*\{\s*"%b"\s*:' % key.encode(), body)
        if start:
            return body.rstrip()[start.end() : -1].strip()
    return dump(parsed[key])


def with_member_in_front(body: bytes, head: bytes) -> bytes:
    """Return the non-empty JSON object `body` with the members `head`, such as `"id":"7"`, put first."""
    return b"{" + head + b"," + body.lstrip()[1:]
