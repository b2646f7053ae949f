# SPDX-License-Identifier: Apache-2.0
"""What a caller and a load-balanced worker say to one another about a call. It sends nothing.

    POST   /flash/calls                  begin this call, or say what became of it
    GET    /flash/calls/{id}?after=&hold=   what became of it, and what it yielded from the place `after` on
    DELETE /flash/calls/{id}             stop it

A request is held until there is news, for a limited time. The body of a POST is one message (see `binary`): the
call's envelope, and beside it what `request_body` says. The body of an answer is several: the first says how
the call stands, the others are outcomes: yielded values in order, then what ends the call.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from . import binary
from .errors import EnvelopeError
from .payload import CallEnvelope

__all__ = ["CALLS_PATH", "KEY_HEADER", "MOST_HOLD_S", "CallAnswer", "CallState", "proof_of", "request_body"]

#: Where calls go, below the address of an endpoint.
CALLS_PATH: Final = "/flash/calls"
#: Header with the proof that the caller knows the platform's key, which itself must not reach workers.
KEY_HEADER: Final = "X-Flash-Plugins-Key"
#: Longest time that a worker holds a request without news, seconds: far below the 330 s that balancers allow.
MOST_HOLD_S: Final = 60.0


#: How the first message of the usual answer begins, which has nothing but an outcome; the worker's id follows.
_DONE: Final = b"D"


class CallState(StrEnum):
    """How a call stands at its worker."""

    #: There is an outcome, which the answer has.
    DONE = "done"
    #: It is the worker's now, and runs or has values that were not asked for: ask again.
    ACCEPTED = "accepted"
    #: It was not begun, as others run, and is forgotten: send it again.
    BUSY = "busy"
    #: The process that ran it ended; `reason` says how.
    LOST = "lost"
    #: It was stopped after its time limit.
    TIMED_OUT = "timed out"
    #: Somebody cancelled it.
    CANCELLED = "cancelled"
    #: The worker failed, and `reason` says in which way.
    FAILED = "failed"
    #: The worker has no such call.
    UNKNOWN = "unknown"


@functools.lru_cache(maxsize=4)
def proof_of(key: str) -> str:
    """Return what shows that somebody knows a key, without telling it."""
    return hmac.digest(key.encode(), b"flash-plugins calls", hashlib.sha256).hex()


def request_body(
    call_id: str,
    envelope: CallEnvelope,
    blobs: Iterable[str],
    *,
    streams: bool,
    hold_s: float,
    limit_s: float | None = None,
) -> bytes:
    """Return the body that begins a call.

    Args:
        call_id: Names it at its worker: a call that is sent again under its id is not begun again.
        envelope: The call.
        blobs: Digests of the blobs that ride along.
        streams: Whether the caller takes what is yielded.
        hold_s: Seconds to hold the request.
        limit_s: Seconds that the call may run, where the envelope has no limit; None for no limit.
    """
    head = {"id": call_id, "streams": streams, "hold_s": hold_s, "limit_s": limit_s}
    return binary.pack({**head, **envelope.fields(blobs)})


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """What a worker answers.

    Attributes:
        state: How the call stands.
        reason: Why it has no outcome.
        worker: The worker's id.
        first: Place of the first of `chunks`.
        chunks: Messages of values that were yielded.
        outcome: Message of what ended the call.
    """

    state: CallState
    reason: str | None = None
    worker: str | None = None
    first: int = 0
    chunks: Sequence[bytes | memoryview] = ()
    outcome: bytes | memoryview | None = None

    def body(self, worker: str | None = None) -> list[bytes]:
        """Return the body in parts that follow one another."""
        worker = worker or self.worker
        outcome = [] if self.outcome is None else [bytes(self.outcome)]
        if self.state is CallState.DONE and not self.chunks and not self.first:  # the usual one
            return binary.frames([_DONE + (worker or "").encode(), *outcome])
        head = {"state": self.state, "reason": self.reason, "worker": worker, "first": self.first}
        return binary.frames([binary.pack(head), *map(bytes, self.chunks), *outcome])

    @classmethod
    def parse(cls, body: bytes) -> CallAnswer:
        """Return what a body says.

        Raises:
            EnvelopeError: It was damaged, or is the answer of something else.
        """
        messages = binary.split(body)
        if not messages:
            raise EnvelopeError("the answer to a call is empty; does the endpoint run flash_plugins.worker?")
        if bytes(messages[0][:1]) == _DONE and len(messages) == 2:
            return cls(CallState.DONE, worker=bytes(messages[0][1:]).decode() or None, outcome=messages[1])
        head = binary.unpack(messages[0])
        try:
            state = CallState(head["state"])
            outcome = messages.pop() if state is CallState.DONE and len(messages) > 1 else None
            if (state is CallState.DONE) != (outcome is not None):
                raise EnvelopeError("the answer to a call has no outcome, though it says that the call is done")
            return cls(state, head.get("reason"), head.get("worker"), int(head["first"]), messages[1:], outcome)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, EnvelopeError):
                raise
            raise EnvelopeError(f"the answer to a call says {head!r}, which this version does not know") from error
