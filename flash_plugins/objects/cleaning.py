# SPDX-License-Identifier: Apache-2.0
"""What goes from a store that many share: by age, by size, never what a job may still need."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from ..errors import StoreError
from .parallel import side_by_side
from .remote import MIN_AGE_S, RemoteStore
from .store import ObjectEntry, ObjectStore

__all__ = ["Cleaned", "clean", "clean_daily", "clean_in_background", "overdue"]

logger = logging.getLogger(__name__)

#: Removals at once: each is a request, or two, of its own.
_AT_ONCE: Final = 8
#: Seconds without a use after which an object goes by itself: somebody pays for every gigabyte of a volume.
UNUSED_MAX_S: Final = 30 * 86_400.0
#: Seconds between two looks, whoever looks.
_EVERY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What `clean` did.

    Attributes:
        removed: How many objects went.
        removed_bytes: How large they were.
        kept: How many are left.
        kept_bytes: How large those are.
    """

    removed: int
    removed_bytes: int
    kept: int
    kept_bytes: int


def overdue(
    entries: Iterable[ObjectEntry], *, now: float, max_age_s: float | None = None, max_bytes: int | None = None
) -> list[ObjectEntry]:
    """Return what is to go, least recently used first; nothing that was used within the last `MIN_AGE_S`.

    Args:
        entries: What is stored.
        now: Seconds since 1970.
        max_age_s: What was not used for longer goes; None for any age.
        max_bytes: What was used least recently goes until no more than this is left; None for any size.
    """
    ordered = sorted(entries, key=lambda entry: entry.used_at)
    left = sum(entry.ref.size for entry in ordered)
    chosen = []
    for entry in ordered:
        age_s = now - entry.used_at
        is_old = max_age_s is not None and age_s > max_age_s
        is_too_much = max_bytes is not None and left > max_bytes
        if age_s > MIN_AGE_S and (is_old or is_too_much):
            chosen.append(entry)
            left -= entry.ref.size
    return chosen


def clean(
    store: ObjectStore,
    *,
    max_age_s: float | None = None,
    max_bytes: int | None = None,
    everything: bool = False,
    now: Callable[[], float] = time.time,
) -> Cleaned:
    """Remove what `overdue` names, or all there is.

    Args:
        store: Where.
        max_age_s: As there.
        max_bytes: As there.
        everything: All, also what jobs that run need: those get it sent again by their callers, if these still live.
        now: Clock, seconds since 1970.

    Raises:
        StoreError: The store cannot be listed or written to.
    """
    entries = list(store.entries())
    going = entries if everything else overdue(entries, now=now(), max_age_s=max_age_s, max_bytes=max_bytes)
    side_by_side([_removal(store, entry) for entry in going], at_once=_AT_ONCE)
    removed_bytes = sum(entry.ref.size for entry in going)
    total_bytes = sum(entry.ref.size for entry in entries)
    return Cleaned(len(going), removed_bytes, len(entries) - len(going), total_bytes - removed_bytes)


def clean_daily(store: RemoteStore, *, now: Callable[[], float] = time.time) -> Cleaned | None:
    """Remove what nobody has used for `UNUSED_MAX_S`, unless somebody looked within a day: then None.

    Raises:
        StoreError: The store cannot be listed or written to.
    """
    last = store.noted_at("cleaned")
    if last is not None and now() - last < _EVERY_S:
        return None
    store.note("cleaned")
    return clean(store, max_age_s=UNUSED_MAX_S, now=now)


def clean_in_background(store: RemoteStore) -> threading.Thread:
    """Call `clean_daily` in a thread of its own, which ends with the process. What fails is logged."""

    def work() -> None:
        try:
            done = clean_daily(store)
        except StoreError as error:  # keys that may not list or delete are good enough for calls
            logger.info("unused objects were not removed: %s", error)
        else:
            if done is not None and done.removed:
                logger.info("removed %d objects of %s that nobody has used for 30 days", done.removed, store.url)

    thread = threading.Thread(target=work, name="flash-clean", daemon=True)
    thread.start()
    return thread


def _removal(store: ObjectStore, entry: ObjectEntry) -> Callable[[], None]:
    return lambda: store.delete(entry.ref)
