# SPDX-License-Identifier: Apache-2.0
"""The calls of one batch, made one after another in the runner. What one of them does to itself, the next never feels.

It knows no jobs and sends nothing (see `runner`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..batches import CallResult
from ..failure import encode_exception
from ..payload import CallEnvelope
from ..platforms import api
from . import calling, capture
from .calling import CallCancelled, Drive
from .handshake import Handshake
from .run import Preparer

__all__ = ["Batch"]


class Batch:
    """The calls of an envelope.

    Args:
        function: What they are calls of.
        drive: What runs a coroutine.
        inline: They run in the main thread, and nothing beside them.
        is_cancelled: Tells whether the job was cancelled, when a call of it has been.
    """

    def __init__(
        self,
        envelope: CallEnvelope,
        function: Callable[..., Any],
        *,
        preparer: Preparer,
        handshake: Handshake,
        drive: Drive,
        inline: bool,
        is_cancelled: Callable[[], bool],
    ) -> None:
        self._arguments: Sequence[bytes] = envelope.batch
        self._packages: Mapping[str, str] = envelope.packages
        self._function = function
        self._preparer = preparer
        self._handshake = handshake
        self._drive = drive
        self._inline = inline
        self._is_cancelled = is_cancelled
        self.results: list[CallResult] = []
        #: What the calls printed and logged; each record says under "call" which one.
        self.records: list[dict[str, Any]] = []

    def run(self) -> None:
        """Make the calls.

        Raises:
            CallCancelled: The job was cancelled.
        """
        for index in range(len(self._arguments)):
            with capture.recording(inline=self._inline) as recorder:
                result = self._make(index)
            if recorder.records:
                self.records += ({**record, "call": index} for record in recorder.records)
            self.results.append(result)
            if self._is_cancelled():
                raise CallCancelled

    def _make(self, index: int) -> CallResult:
        started = time.perf_counter()
        is_loading = True
        try:
            args, kwargs = self._preparer.arguments(self._arguments[index])
            is_loading = False
            value = calling.value_of(self._function, args, kwargs, self._drive)
            if calling.is_stream(value):
                calling.refuse_stream(self._function)
            content = calling.pickled(value, self._function, api.RUN_MAX_BYTES)
            return CallResult(index, time.perf_counter() - started, content)
        except CallCancelled:
            raise
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit included
            self._handshake.explain(error, self._packages, is_loading=is_loading)
            return CallResult(index, time.perf_counter() - started, failure=encode_exception(error))
