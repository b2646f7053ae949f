# SPDX-License-Identifier: Apache-2.0
"""One job on its way, and the calls that it carries. It sends nothing: see `queue_lane`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import FlashPluginsError
from ..payload import CallEnvelope

if TYPE_CHECKING:
    from .call import Call
    from .lane import Submission

__all__ = ["Flight", "for_each"]


@dataclass(slots=True, eq=False)
class Flight:
    """One job and its calls, one or several of one function. Dispatcher's loop only.

    Attributes:
        submissions: The calls by their place in the job.
        expected_s: How long the worker will need for them, None if nothing is known.
        is_ahead: Whether it was sent while fewer jobs flew than workers run at once: it should not have to wait.
        open: Those that have no outcome yet, by place; one that is handed back leaves it too.
        job_id: The platform's id, None until known.
        is_asking: Whether the platform may have a job whose id is not known here yet.
        is_running: Whether a worker has the job, as the platform says.
        has_begun: Whether a worker has it, as far as can be told without asking: see `begun`.
        busy_s: What the worker took for the calls of a batch that have an outcome, seconds.
        returned: How many of its calls a worker handed back without having begun them.
        told_records: How much of what the worker printed outside the calls was shown.
    """

    submissions: Sequence[Submission]
    expected_s: float | None = None
    is_ahead: bool = True
    began_at: float = field(default_factory=time.monotonic)
    open: dict[int, Submission] = field(init=False)
    job_id: str | None = None
    is_asking: bool = False
    is_cancel_sent: bool = False
    is_cancel_done: bool = False
    is_running: bool = False
    has_begun: bool = False
    busy_s: float = 0.0
    returned: int = 0
    told_records: int = 0

    def __post_init__(self) -> None:
        self.open = dict(enumerate(self.submissions))

    def __repr__(self) -> str:
        """Return the words for messages: the call, or how many of what."""
        if not self.is_batch:
            return repr(self.call)
        job = f" {self.job_id}" if self.job_id else ""
        call = self.call
        which = f"of {call.title}" if call.name is None else f"({call.title}, and others)"
        return f"<job{job} with {len(self.submissions)} calls {which} on {call.endpoint_name!r}>"

    @property
    def is_batch(self) -> bool:
        """Whether it carries several calls, or did."""
        return len(self.submissions) > 1

    @property
    def call(self) -> Call[Any]:
        """Its call, or the first of them."""
        return self.submissions[0].call

    @property
    def needs_cancel(self) -> bool:
        """Whether the platform may run the job and does not know that nobody wants it."""
        return self.is_asking or (self.job_id is not None and not self.is_cancel_done)

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody waits for anything that is still to come of it."""
        return all(one.is_cancelled or one.verdict is not None for one in self.open.values())

    def begin_job(self) -> None:
        """Forget an earlier job of these calls."""
        self.is_cancel_sent = self.is_cancel_done = self.is_running = False
        self.name_job(None)
        for submission in self.open.values():
            submission.call._begin_job()

    def name_job(self, job_id: str | None) -> None:
        """Note the id of the job."""
        self.job_id = job_id
        for submission in self.open.values():
            submission.call.job_id = job_id

    def envelope(self) -> CallEnvelope:
        """Return what is sent: the call, or the calls that have no outcome yet. Places count from these anew."""
        self.submissions = list(self.open.values())
        self.open = dict(enumerate(self.submissions))
        first = self.submissions[0]
        if not self.is_batch:
            whole = first.envelope if first.envelope.args is first.args else replace(first.envelope, args=first.args)
            return whole if first.suspect is None else replace(whole, suspect=first.suspect)
        packages, blobs = dict(first.envelope.packages), dict(first.envelope.blobs)
        for one in self.submissions:
            if one.envelope is not first.envelope:
                packages.update(one.envelope.packages)
                blobs.update(one.envelope.blobs)
        batch = tuple(one.args for one in self.submissions)
        return replace(first.envelope, args=b"", batch=batch, packages=packages, blobs=blobs)


def for_each(error: FlashPluginsError, count: int) -> list[FlashPluginsError]:
    """Return an error for each of so many calls: one object raised in several threads would mix their tracebacks."""
    errors = [error][:count]
    while len(errors) < count:
        another = type(error).__new__(type(error), *error.args)  # not made anew: each class takes other arguments
        another.args = error.args  # which those that are also an OSError set only when they are made
        another.__dict__.update(error.__dict__)
        another.__cause__ = error.__cause__
        errors.append(another)
    return errors
