# SPDX-License-Identifier: Apache-2.0
"""Contents by key in a folder that others write to over a network: a Runpod volume, mounted in a worker.

An object `k` that is put into such a volume by its S3 API is the file `k` of the folder, so a worker needs no keys.
Files are read, not mapped: whoever writes them is another machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ..errors import StoreError
from .remote import KeyInfo

__all__ = ["FolderKeys"]

#: Beginning of the names of files that are still being written.
_PARTIAL: Final = ".partial-"


class FolderKeys:
    """A key space whose contents are files. Thread-safe.

    Args:
        folder: Where keys begin; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def look_up(self, key: str) -> KeyInfo | None:
        """Return what is there, None for nothing.

        Raises:
            StoreError: The folder cannot be read.
        """
        with self._translated("read"), suppress(FileNotFoundError, NotADirectoryError):
            found = (self._folder / key).stat()
            return KeyInfo(key, found.st_size, found.st_mtime)
        return None

    def write(self, key: str, content: memoryview) -> None:
        """Store a content, over whatever was there.

        Raises:
            StoreError: The folder cannot be written to, or is full.
        """
        path = self._folder / key
        with self._translated("written to"):
            path.parent.mkdir(parents=True, exist_ok=True)
            number, partial = tempfile.mkstemp(prefix=_PARTIAL, dir=path.parent)
            try:
                with open(number, "wb", buffering=0) as file:
                    rest = content
                    while rest:
                        rest = rest[file.write(rest) or 0 :]
                os.replace(partial, path)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(partial)
                raise

    def read(self, key: str, size: int) -> memoryview | None:
        """Return the content in memory of its own, of another length than `size` if it is; None if it is not there.

        Raises:
            StoreError: The folder cannot be read.
        """
        content = memoryview(bytearray(size + 1))  # one more, to see that a file is longer
        with self._translated("read"), suppress(FileNotFoundError, NotADirectoryError):
            with open(self._folder / key, "rb", buffering=0) as file:
                filled = 0
                while count := file.readinto(content[filled:]):
                    filled += count
            return content[:filled]
        return None

    def remove(self, key: str) -> None:
        """Remove a content; nothing if it is not there.

        Raises:
            StoreError: It cannot be removed.
        """
        with self._translated("written to"), suppress(FileNotFoundError, NotADirectoryError):
            (self._folder / key).unlink()

    def walk(self, folder: str) -> Iterator[KeyInfo]:
        """Iterate what is stored under keys that begin with `folder` and a slash.

        Raises:
            StoreError: The folder cannot be read.
        """
        with self._translated("read"):
            for parent, _, names in os.walk(self._folder / folder):
                for name in names:
                    key = Path(parent, name).relative_to(self._folder).as_posix()
                    found = None if name.startswith(_PARTIAL) else self.look_up(key)
                    if found is not None:
                        yield found

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the object store in {self._folder} cannot be {what}: {error.strerror or error}; is the volume full, "
                "or mounted for reading only?"
            ) from error
