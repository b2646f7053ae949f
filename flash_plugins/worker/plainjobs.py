# SPDX-License-Identifier: Apache-2.0
"""Jobs in plain JSON, made in the runner: see `deployed` for what they look like. It sends nothing itself."""

from __future__ import annotations

import inspect
import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ..failure import describe_exception
from ..payload import RESULT_REMEDY, check_size
from ..platforms import api
from . import calling, capture
from .calling import CallCancelled, Drive
from .deployed import Deployed
from .forms import CHUNK_REMEDY
from .handshake import Handshake
from .link import PLAIN
from .plain import plain
from .run import Prepared

__all__ = ["PlainJobs"]

logger = logging.getLogger(__name__)

#: Sends a yielded value.
Send = Callable[[Any], None]


class PlainJobs:
    """Makes what jobs in plain JSON ask for.

    Args:
        deployed: What turns plain JSON into a call.
        handshake: Says what may be wrong with what is installed here.
        preparing: Encloses the time in which the user's code is loaded.
    """

    def __init__(
        self, deployed: Deployed, handshake: Handshake, preparing: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._deployed = deployed
        self._handshake = handshake
        self._preparing = preparing

    def answer(self, job_id: str, content: Any, drive: Drive, *, send: Send | None) -> Any:
        """Return what the job loop reports for a job.

        Args:
            send: Takes what the call makes, one value after another; then None is returned. None where the endpoint
                does not stream.
        """
        started = time.perf_counter()
        prepared: Prepared | None = None
        try:
            capture.follow_log_level(logging.INFO)
            with self._preparing():
                prepared = self._deployed.prepare(content)
            value = self._make(prepared, drive, send)
        except CallCancelled:
            raise
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit included
            self._handshake.explain(error, self._deployed.packages, is_loading=prepared is None)
            told = describe_exception(error)
            logger.error("job %s failed\n%s", job_id, told["error_traceback"].rstrip())
            return {"error": json.dumps(told)}
        return None if send is not None else {PLAIN: value, "seconds": time.perf_counter() - started}

    def _make(self, call: Prepared, drive: Drive, send: Send | None) -> Any:
        value = calling.value_of(call.function, call.args, call.kwargs, drive)
        if inspect.isasyncgen(value):
            value = calling.drained(value, drive)
        if send is None:
            what = f"the result of {calling.name_of(call.function)}()"
            found = plain(list(value) if inspect.isgenerator(value) else value, what)
            check_size(_json_size(found), api.RUN_MAX_BYTES, what, RESULT_REMEDY)
            return found
        for part in value if inspect.isgenerator(value) else [value]:
            found = plain(part, "a yielded value")
            check_size(_json_size(found), api.STREAM_CHUNK_MAX_BYTES, "a yielded value", CHUNK_REMEDY)
            send(found)
        return None


def _json_size(value: Any) -> int:
    """Return how many bytes the JSON of it has, as it is sent."""
    return len(json.dumps(value, ensure_ascii=False).encode())
