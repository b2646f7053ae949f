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
        waiting_max: Most jobs that wait here for a slot, further ones go back as they come; None where the platform
            hands out no more than runs, and no whole job goes back.
    """

    after_s: float = 2.0
    waiting_max: int | None = None

    @classmethod
    def without_cap(cls, concurrency: int) -> HandBack:
        """Return the rules for a platform that hands out what the worker declares.

        One job for each that runs keeps the worker busy. Found with the model that `queue.Declaration` describes: 2.0 s
        is a little worse for calls of a second.
        """
        return cls(after_s=3.0, waiting_max=concurrency)
