# SPDX-License-Identifier: Apache-2.0
"""Calls whose large objects are still on their way to a store: they are sent when those are there.

pickled ──► uploads (threads of the space) ──► all done: the lane of that name
                                          └──► one failed: the outcome of the call
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ..errors import FlashPluginsError, StoreError

if TYPE_CHECKING:
    from ..objects.space import Lease
    from .lane import Submission
    from .session import Session

__all__ = ["Uploads", "uploads_of"]


class Uploads:
    """The calls of one process that wait for a store. Loop thread.

    Args:
        session: Whose calls.
        resume: Takes a call whose objects are stored.
    """

    def __init__(self, session: Session, resume: Callable[[Submission], object]) -> None:
        self._session = session
        self._resume = resume
        self._waiting: dict[Submission, int] = {}  # how many uploads

    def __iter__(self) -> Iterator[Submission]:
        return iter(list(self._waiting))

    def wait(self, submission: Submission) -> bool:
        """Keep a call until its objects are stored, or one cannot be; False, at once, if they are."""
        uploads = uploads_of(submission.call._held)
        if not uploads:
            return False
        self._waiting[submission] = len(uploads)
        for upload in uploads:
            upload.add_done_callback(lambda done: self._session.loop.post(lambda: self._ended(submission, done)))
        return True

    def drop(self, submission: Submission) -> bool:
        """Forget a call that nobody wants any more; False if it is not here."""
        return self._waiting.pop(submission, None) is not None

    def _ended(self, submission: Submission, upload: Future[None]) -> None:
        if submission not in self._waiting:
            return
        error = upload_error(upload)
        if error is not None:
            del self._waiting[submission]
            submission.lane.settle_error(submission, error)
            return
        self._waiting[submission] -= 1
        if not self._waiting[submission]:
            del self._waiting[submission]
            self._resume(submission)


def uploads_of(lease: Lease | None) -> list[Future[None]]:
    """Return the uploads of what a call refers to, those that are not done and those that failed."""
    if lease is None:
        return []
    remote = [(space, ref) for space, ref in lease.places() if space.remote is not None]
    return [upload for space, ref in remote for upload in space.uploads([ref])]


def upload_error(upload: Future[None]) -> FlashPluginsError | None:
    """Return why an upload that has ended failed, None if it did not."""
    if upload.cancelled():
        return StoreError("an upload was given up: the program ends, or the platform was left")
    error = upload.exception()
    if error is None or isinstance(error, FlashPluginsError):
        return error
    unexpected = StoreError(f"an upload failed: {error!r}")
    unexpected.__cause__ = error
    return unexpected
