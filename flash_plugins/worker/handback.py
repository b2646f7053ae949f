# SPDX-License-Identifier: Apache-2.0
"""When work that waits in a worker behind a long call goes back to its caller, to be run by another worker."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HandBack"]


@dataclass(frozen=True, slots=True)
class HandBack:
    """The rules of one worker.

    The official loop takes as many jobs as it declares, and cannot return one: where the platform hands out more than
    runs, others wait here.

    Attributes:
        after_s: Seconds that a call runs after which what waits behind it goes back.
        batch_s: Seconds after which a batch gives back what it has not begun: callers aim at one second, so its calls
            take longer than those that they learned from.
        waiting_max: Most jobs that wait here for a slot, further ones go back as they come; None where the platform
            does not hand out more than it knows to begin soon.
        wait_s: Seconds after which a job goes back that waits here for a slot, None for what the other rules say.
    """

    after_s: float = 2.0
    batch_s: float = 3.0
    waiting_max: int | None = None
    wait_s: float | None = None

    @classmethod
    def with_cap(cls) -> HandBack:
        """Return the rules for the local platform, which hands out a job ahead where what runs should end soon."""
        return cls(wait_s=0.6)

    @classmethod
    def without_cap(cls, concurrency: int) -> HandBack:
        """Return the rules for a platform that hands out what the worker declares.

        Two jobs for each that runs keep the worker busy, also while its caller hears of the end of short ones after
        some round trips only. Found with the model that `queue.Declaration` describes: with one, tasks of 0.3 s take a
        tenth longer, and 2.0 s is a little worse for calls of a second.
        """
        return cls(after_s=3.0, waiting_max=2 * concurrency)
