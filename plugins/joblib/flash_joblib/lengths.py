# SPDX-License-Identifier: Apache-2.0
"""How many items an iterator gives in all, where it tells without giving any. It runs no code of the user's.

joblib knows that of sized inputs only, and most of its callers, scikit-learn among them, hand it a generator expression
over something that is sized.
"""

from __future__ import annotations

import dis
import functools
import itertools
import warnings
from types import CodeType, GeneratorType
from typing import Any, Final

__all__ = ["total_of"]

#: Iterators that tell what they iterate when asked how to be pickled.
_OVER_ONE: Final[tuple[type, ...]] = (type(iter([])), type(iter(())), type(iter(range(0))))
#: How deep iterators may be nested.
_MOST_DEPTH: Final = 8


def total_of(iterator: object, *, depth: int = 0) -> int | None:
    """Return how many items there are, those that were given already included; None if that is unknown.

    It may be too many: whatever is exhausted earlier than it says ends the iteration.
    """
    if depth > _MOST_DEPTH:
        return None
    try:
        return _total_of(iterator, depth + 1)
    except Exception:  # noqa: BLE001 - it asks classes of the interpreter about their insides, which may differ
        return None


def _total_of(iterator: Any, depth: int) -> int | None:
    if isinstance(iterator, GeneratorType):
        frame = iterator.gi_frame
        if frame is None or not _gives_one_for_each(iterator.gi_code):
            return None
        return total_of(frame.f_locals[".0"], depth=depth)
    if type(iterator) is itertools.product:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from 3.14 on it does not tell at all
            pools = iterator.__reduce__()[1]
        return functools.reduce(lambda total, pool: total * len(pool), pools, 1)
    if type(iterator) is enumerate:
        return total_of(iterator.__reduce__()[1][0], depth=depth)
    if type(iterator) is zip:
        totals = [total_of(one, depth=depth) for one in iterator.__reduce__()[1]]
        known = [total for total in totals if total is not None]
        return min(known) if len(known) == len(totals) and known else None
    if isinstance(iterator, _OVER_ONE):
        reduced = iterator.__reduce__()
        return len(reduced[1][0])
    return None


@functools.lru_cache(maxsize=256)
def _gives_one_for_each(code: CodeType) -> bool:
    """Return whether a generator is an expression with one `for` and no condition."""
    if code.co_name != "<genexpr>":
        return False
    names = [instruction.opname for instruction in dis.get_instructions(code)]
    return names.count("FOR_ITER") == 1 and not any("POP_JUMP" in name or "JUMP_IF" in name for name in names)
