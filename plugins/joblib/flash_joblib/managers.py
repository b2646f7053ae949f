# SPDX-License-Identifier: Apache-2.0
"""Lets tasks on this machine use what a `multiprocessing.Manager` of the caller shares, as those of loky do.

Queues, dictionaries and locks of a manager are stand-ins that connect to it when they are unpickled, and prove with a
key that they belong to the same program. Workers elsewhere could not reach a manager anyway, and get no key.
"""

from __future__ import annotations

from multiprocessing import process

__all__ = ["ManagerKey"]


class ManagerKey:
    """The key of this process. Where it is unpickled, that process has the key too; what remains there is None.

    Whatever needs the key must come later in the pickle.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _adopt, (bytes(process.current_process().authkey),)  # the class that it has refuses to be pickled


def _adopt(key: bytes) -> None:
    process.current_process().authkey = key
