# SPDX-License-Identifier: Apache-2.0
"""What a client submits to `/run` and `/runsync`, checked. It never queues anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...payload import is_envelope
from .. import api
from .wire import MalformedJson, dump, parse_object

__all__ = ["Submission", "parse_milliseconds", "parse_submission"]

#: Members of a request that the worker gets; the service does not say what becomes of others, so they are dropped.
_KNOWN = frozenset({"input", "webhook", "policy", "s3Config"})
#: Digits of the longest number of milliseconds that is looked at; Python refuses to read thousands of them.
_DIGITS_MAX = 20


@dataclass(frozen=True, slots=True)
class Submission:
    """One checked request. `None` limits mean the defaults of the endpoint and the service."""

    body: bytes
    is_input_empty: bool = False
    webhook: str | None = None
    execution_timeout_s: float | None = None
    ttl_s: float = api.TTL_DEFAULT_MS / 1000
    is_low_priority: bool = False
    #: How long a worker will need for it, seconds, where its caller knows: a call of this package.
    expected_s: float | None = None


def parse_submission(body: bytes) -> Submission:
    """Check the body of a `/run` or `/runsync`.

    Raises:
        MalformedJson: It is no JSON object, has no `input`, or a policy out of range; the text names the field.
    """
    request = parse_object(body)
    if "input" not in request:
        raise MalformedJson('"input" is missing: send {"input": …}, any JSON value')
    if not request.keys() <= _KNOWN:
        request = {name: request[name] for name in request if name in _KNOWN}
        body = dump(request)
    webhook = request.get("webhook")
    if webhook is not None and not (isinstance(webhook, str) and webhook.startswith(("http://", "https://"))):
        raise MalformedJson(f'"webhook" must be an http or https URL, not {webhook!r}')
    if len(request) == 1:  # the hot path: only an input
        content = request["input"]
        return Submission(body=body, is_input_empty=content == {}, expected_s=_expected_s(content))
    policy = request.get("policy") or {}
    if not isinstance(policy, dict):
        raise MalformedJson(f'"policy" must be an object, not {type(policy).__name__}')
    execution_ms = _policy_milliseconds(policy, "executionTimeout", api.EXECUTION_TIMEOUT_MIN_MS)
    ttl_ms = _policy_milliseconds(policy, "ttl", api.TTL_MIN_MS)
    low_priority = policy.get("lowPriority", False)
    if not isinstance(low_priority, bool):
        raise MalformedJson(f'"policy.lowPriority" must be true or false, not {low_priority!r}')
    return Submission(
        body=body,
        is_input_empty=request["input"] == {},
        webhook=webhook,
        execution_timeout_s=None if execution_ms is None else execution_ms / 1000,
        ttl_s=(api.TTL_DEFAULT_MS if ttl_ms is None else ttl_ms) / 1000,
        is_low_priority=low_priority,
        expected_s=_expected_s(request["input"]),
    )


def parse_milliseconds(text: str, name: str, *, minimum_ms: int, maximum_ms: int) -> float:
    """Return the seconds that the query parameter `name` says in milliseconds.

    Raises:
        MalformedJson: It is not a whole number in the allowed range.
    """
    is_number = text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX
    if not is_number or not minimum_ms <= int(text) <= maximum_ms:
        raise MalformedJson(f'"{name}" must be {minimum_ms} to {maximum_ms} milliseconds, not {text[:100]!r}')
    return int(text) / 1000


def _expected_s(content: object) -> float | None:
    if not isinstance(content, dict) or not is_envelope(content):
        return None
    expected_s = content.get("expected_s")
    return expected_s if isinstance(expected_s, float) and expected_s >= 0 else None


def _policy_milliseconds(policy: dict[str, Any], name: str, minimum_ms: int) -> float | None:
    value = policy.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not minimum_ms <= value <= api.POLICY_MAX_MS:
        raise MalformedJson(f'"policy.{name}" must be {minimum_ms} to {api.POLICY_MAX_MS} milliseconds, not {value!r}')
    return float(value)
