# SPDX-License-Identifier: Apache-2.0
"""A file as memory: pages are shared with everybody who maps it, until they are written to, which stays private."""

from __future__ import annotations

import os
import weakref
from typing import Any

__all__ = ["private_view"]

#: Smaller files are read: a mapping costs more than that copy, and a process may have 65,530 of them.
_MAPPED_FROM_BYTES = 512 * 1024


def private_view(descriptor: int, size: int) -> memoryview:
    """Return a file's content, which may be written to: nobody else sees that. The file may be closed and removed."""
    if size < _MAPPED_FROM_BYTES:
        content = bytearray(size)
        view = memoryview(content)
        done = 0
        while done < size and (read := os.preadv(descriptor, [view[done:]], done)):
            done += read
        return view[:done]
    # Not `mmap.mmap`: that keeps a file open for each, of which a process has 1,024.
    import ctypes
    import mmap

    address = _function("mmap", ctypes.c_void_p)(
        *(None, ctypes.c_size_t(size)),
        *(mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, descriptor, ctypes.c_long(0)),
    )
    if address is None or address == ctypes.c_void_p(-1).value:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    pages = (ctypes.c_char * size).from_address(address)
    unmap = _function("munmap", ctypes.c_int)
    # Not at exit: somebody may look at them until the very end.
    weakref.finalize(pages, unmap, ctypes.c_void_p(address), ctypes.c_size_t(size)).atexit = False
    return memoryview(pages).cast("B")


def _function(name: str, result: Any) -> Any:  # of C
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype = result
    return function
