# SPDX-License-Identifier: Apache-2.0
"""Many calls in one job: their arguments as one run of bytes, their results as another. No JSON per call.

arguments   count, then the length of each, then each
results     for each: place, kind, seconds, length; then the pickled value, or the failure as JSON
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import EnvelopeError

__all__ = ["CallResult", "join_parts", "pack_results", "split_parts", "unpack_results"]

_COUNT = struct.Struct("<I")
_RESULT = struct.Struct("<IBdI")
_VALUE, _FAILURE = 0, 1


@dataclass(frozen=True, slots=True)
class CallResult:
    """What came of one call of a batch: exactly one of `result` and `failure` is set.

    Attributes:
        index: Its place in the batch, from 0.
        seconds: The worker's own time for it.
        result: The pickled value.
        failure: What it raised, as `failure.encode_exception` describes it.
    """

    index: int
    seconds: float
    result: bytes | None = None
    failure: Mapping[str, Any] | None = None


def join_parts(parts: Sequence[bytes]) -> bytes:
    """Return several runs of bytes as one."""
    lengths = struct.pack(f"<{len(parts)}I", *map(len, parts))
    return b"".join([_COUNT.pack(len(parts)), lengths, *parts])


def split_parts(joined: bytes) -> tuple[bytes, ...]:
    """Return what `join_parts` was given.

    Raises:
        EnvelopeError: It was cut or changed.
    """
    try:
        (count,) = _COUNT.unpack_from(joined)
        lengths = struct.unpack_from(f"<{count}I", joined, _COUNT.size)
    except struct.error as error:
        raise EnvelopeError(f"a batch of calls is damaged: {error}") from error
    parts, at = [], _COUNT.size * (1 + count)
    for length in lengths:
        parts.append(joined[at : at + length])
        at += length
    if at != len(joined):
        raise EnvelopeError(f"a batch of {count} calls is damaged: it has {len(joined)} bytes instead of {at}")
    return tuple(parts)


def pack_results(results: Iterable[CallResult]) -> bytes:
    """Return results as bytes."""
    packed: list[bytes] = []
    for one in results:
        is_value = one.result is not None
        content = one.result if one.result is not None else json.dumps(one.failure).encode()
        packed.append(_RESULT.pack(one.index, _VALUE if is_value else _FAILURE, one.seconds, len(content)))
        packed.append(content)
    return b"".join(packed)


def unpack_results(packed: bytes) -> list[CallResult]:
    """Return what `pack_results` was given.

    Raises:
        EnvelopeError: It was cut or changed.
    """
    results, at = [], 0
    while at < len(packed):
        try:
            index, kind, seconds, length = _RESULT.unpack_from(packed, at)
            at += _RESULT.size
            content = packed[at : at + length]
            if len(content) != length:
                raise ValueError(f"{length - len(content)} bytes are missing")
            failure = json.loads(content) if kind == _FAILURE else None
        except (struct.error, ValueError) as error:
            raise EnvelopeError(f"the results of a batch are damaged: {error}") from error
        results.append(CallResult(index, seconds, content if kind == _VALUE else None, failure))
        at += length
    return results
