# SPDX-License-Identifier: Apache-2.0
"""The hooks a plugin may implement. Specifications only; nothing here calls or registers anything.

Gate hooks may change or refuse something: their exceptions reach the user as `HookError`, naming the plugin.
Observer hooks are told what happened: their exceptions are logged with plugin and traceback, and the call
goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from ..config import EndpointConfig
    from ..images import LocalImage
    from ..objects.store import ObjectStore
    from ..platforms.base import Platform
    from ..settings import Settings
    from ..work import Work

__all__ = ["PROJECT", "CallEvent", "CallStage", "hookimpl", "hookspec"]

#: Name of the pluggy project and of the entry-point group that plugins use.
PROJECT = "flash_plugins"

#: Decorator for the specifications below.
hookspec = pluggy.HookspecMarker(PROJECT)
#: Decorator for a plugin's hook functions.
hookimpl = pluggy.HookimplMarker(PROJECT)


class CallStage(StrEnum):
    """Where on its road a call is."""

    QUEUED = "queued"  # accepted here, not sent yet
    SENT = "sent"  # on its way to the platform
    STARTED = "started"  # a worker has begun it, as far as known
    RETURNED = "returned"  # a worker that had begun it gave it back, or was lost, and it waits again
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """True when nothing follows for this call."""
        return self in (CallStage.DONE, CallStage.FAILED, CallStage.CANCELLED)


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One step of one call.

    Attributes:
        stage: What just happened.
        endpoint: Name of the endpoint.
        function: Qualified name of the called function or method.
        call_id: Number of the call in this process, from 1.
        job_id: The platform's id, once known.
        worker_id: The worker that ran it, once done.
        seconds: The worker's own compute time, once done.
        tasks: How many tasks of the user's it carries: a batch of joblib's has several.
        work: What it is part of, with a label and a total; None for a call on its own.
    """

    stage: CallStage
    endpoint: str
    function: str
    call_id: int
    job_id: str | None = None
    worker_id: str | None = None
    seconds: float | None = None
    tasks: int = 1
    work: Work | None = None


@hookspec(firstresult=True)
def flash_choose_platform(settings: Settings) -> Platform | None:
    """Return the platform that this process uses, or None to leave the choice to the next plugin.

    Gate. Called once per process, in the thread of the first call, before anything is started or sent.
    The first answer that is not None wins; the built-in choice answers last.
    """


@hookspec(firstresult=True)
def flash_local_image(image: str, config: EndpointConfig) -> LocalImage | None:
    """Return the command that stands for a container image on the local platform, None to leave it to the next plugin.

    Gate. Called in the caller's process, in a thread of its own, before an endpoint with `image=` is created or
    brought up to date on the local platform. The first answer that is not None wins; the configuration files and
    then Docker are asked last.
    """


@hookspec(firstresult=True)
def flash_object_store(url: str) -> ObjectStore | None:
    """Return the store of large objects at a URL, None to leave it to the next plugin.

    Gate. Called in the caller's process and in workers, so the plugin must be installed on both sides, at most once per
    process and URL, in whatever thread needs the store first; nothing has to be asked or written yet. The first answer
    that is not None wins; `file://` and `s3://` are opened by the built-in plugin, which is asked last, and on workers
    no plugin is asked about these. Keys come from the environment of each side, never in the URL, which travels.
    """


@hookspec
def flash_platform_chosen(platform: Platform) -> None:
    """Be told which platform was chosen. Observer. Called once per process, right after the choice."""


@hookspec
def flash_notice(text: str, endpoint: str | None) -> None:
    """Be told what the user should know while calls go on: an endpoint that changes, why calls wait. Observer.

    Called in the caller's process, from a thread of the dispatcher's, rarely: a few times in the life of an endpoint.

    Args:
        text: One line, or a few where a worker's log is quoted; without secrets.
        endpoint: Name of the endpoint it is about, None for no certain one.
    """


@hookspec
def flash_call_event(event: CallEvent) -> None:
    """Be told that a call moved on. Observer.

    Called in the caller's process, from the dispatcher's thread, two to four times per call: keep it
    under a few microseconds and hand longer work to a thread of your own. The end of a call is told before whoever
    waits for it is woken.
    """
