# SPDX-License-Identifier: Apache-2.0
"""Which blobs a call takes along: those that no worker of the endpoint is known to have. It sends nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import EnvelopeError
from ..payload import CallEnvelope

__all__ = ["MOST_SENDS", "Carried"]

#: Blobs up to this many bytes in all ride along until a worker is known to have them; larger ones once.
_SMALL_BLOBS_BYTES = 16_384
#: How often a call is sent because workers lacked blobs: each worker of a large endpoint may lack them once.
MOST_SENDS = 8


class Carried:
    """What is known of the blobs of one endpoint."""

    def __init__(self) -> None:
        self._known: set[str] = set()  # digests that some worker has
        self._sent: set[str] = set()  # digests that were sent at least once

    def begin(self, envelope: CallEnvelope) -> list[str]:
        """Return the blobs that a call takes along at first."""
        unknown = [digest for digest in envelope.needs if digest not in self._known]
        if sum(len(envelope.blobs[digest]) for digest in unknown) > _SMALL_BLOBS_BYTES:
            unknown = [digest for digest in unknown if digest not in self._sent]
        return unknown

    def note_sent(self, blobs: Sequence[str]) -> None:
        """These were sent."""
        self._sent.update(blobs)

    def note_known(self, envelope: CallEnvelope) -> None:
        """A worker has run the call."""
        self._known.update(envelope.needs)

    def lacking(
        self, envelope: CallEnvelope, missing: Sequence[str], what: str, *, are_elsewhere: bool = False
    ) -> list[str]:
        """Return the blobs to send again to a worker that named those that it lacks.

        Args:
            envelope: The call.
            missing: Their names.
            what: The call, for messages.
            are_elsewhere: Whether some went to where the worker looks for them, so that it may be none.

        Raises:
            EnvelopeError: The call has none of them.
        """
        blobs = [digest for digest in missing if digest in envelope.blobs]
        if not blobs and not are_elsewhere:
            raise EnvelopeError(f"the worker asks for {tuple(missing)}, which {what} does not have")
        return blobs
