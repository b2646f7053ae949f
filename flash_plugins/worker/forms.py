# SPDX-License-Identifier: Apache-2.0
"""How a call comes to a worker and its outcome goes back: in a job, as JSON, or in a request, as bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import binary
from ..payload import REQUEST, Outcome, encode_failure_text, encoded_size
from ..platforms import api

__all__ = ["CHUNK_REMEDY", "Form", "form_of"]

#: What to do about a value that is too large for one chunk.
CHUNK_REMEDY = "yield smaller parts, or return the whole"


@dataclass(frozen=True, slots=True)
class Form:
    """One of the two forms.

    Attributes:
        result_max_bytes: Largest result, as it travels.
        chunk_max_bytes: Largest yielded value, as it travels.
        encode: Returns what the worker answers with.
        encode_chunk: Returns what it answers with for a yielded value.
        size: Returns how many bytes a pickle of so many takes.
    """

    result_max_bytes: int
    chunk_max_bytes: int
    encode: Callable[[Outcome], Any]
    encode_chunk: Callable[[Outcome], Any]
    size: Callable[[int], int]


def form_of(content: object) -> Form:
    """Return the form in which a call came."""
    return _REQUEST if isinstance(content, bytes) else _JOB


def _encoded(outcome: Outcome) -> Any:
    return {"error": encode_failure_text(outcome)} if outcome.failure is not None else outcome.encode()


def _packed(outcome: Outcome) -> bytes:
    return binary.pack(outcome.fields())


_JOB = Form(api.RUN_MAX_BYTES, api.STREAM_CHUNK_MAX_BYTES, _encoded, Outcome.encode, encoded_size)
_REQUEST = Form(REQUEST.max_bytes, REQUEST.max_bytes, _packed, _packed, REQUEST.size)
