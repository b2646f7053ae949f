# SPDX-License-Identifier: Apache-2.0
"""Contents by key in a bucket of an S3 server: AWS, Runpod's network volumes, or any other.

botocore speaks to it: signatures, connections, retries. What it is asked for is what Runpod's volumes have (2026-11-24:
no DeleteObjects, no pre-signed URLs, PutObject below 500 MB): single requests with path-style addresses, and multipart
uploads for what is large. Parts go up, and ranges come down, several at a time.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final

from ..errors import StoreError
from .location import S3Access, S3Location
from .parallel import side_by_side
from .remote import KeyInfo
from .s3client import broken_read, client_error, code_of, make_client, translated

__all__ = ["BucketKeys"]

logger = logging.getLogger(__name__)

#: Largest content that goes in one request, bytes. Over a long way one connection brings some 10 MB/s.
SINGLE_MAX_BYTES: Final = 32 * 1024 * 1024
#: Length of a part and of a range, bytes: at least 5 MiB, and 10,000 of them must do for one object.
PART_BYTES: Final = 16 * 1024 * 1024
PARTS_MAX: Final = 10_000
#: Parts of one object that are on their way at once.
PARTS_AT_ONCE: Final = 4
#: Tries of a range whose connection broke while it came: no library repeats that.
READ_ATTEMPTS: Final = 3


class BucketKeys:
    """A key space in a bucket. Thread-safe; a forked child makes connections of its own.

    Args:
        location: Which bucket.
        access: Keys; None for those that botocore finds: AWS_* variables, profiles, roles.
    """

    def __init__(self, location: S3Location, access: S3Access | None = None) -> None:
        self._location = location
        self._access = access
        self._made: tuple[int, Any] | None = None  # the process that made it, and its client

    def __repr__(self) -> str:
        return f"BucketKeys({self._location.url!r})"

    def look_up(self, key: str) -> KeyInfo | None:
        """Return what is there, None for nothing.

        Raises:
            StoreError: The bucket cannot be asked.
        """
        with self._translated("asked for an object"):
            try:
                found = self._client.head_object(Bucket=self._location.bucket, Key=self._full(key))
            except client_error() as error:
                if code_of(error) in ("404", "NoSuchKey"):
                    return None
                self._client.list_objects_v2(
                    Bucket=self._location.bucket, Prefix=self._full(key), MaxKeys=1
                )  # says why
                raise
            return KeyInfo(key, int(found["ContentLength"]), _seconds(found["LastModified"]))

    def write(self, key: str, content: memoryview) -> None:
        """Store a content, over whatever was there.

        Raises:
            StoreError: It cannot be stored.
        """
        with self._translated(f"given {len(content):,} bytes"):
            if len(content) <= SINGLE_MAX_BYTES:
                self._client.put_object(Bucket=self._location.bucket, Key=self._full(key), Body=_Window(content))
            else:
                self._write_parts(self._full(key), content)

    def _write_parts(self, key: str, content: memoryview) -> None:
        client, place = self._client, {"Bucket": self._location.bucket, "Key": key}
        upload = client.create_multipart_upload(**place)["UploadId"]

        def send(number: int, part: memoryview) -> dict[str, Any]:
            answer = client.upload_part(**place, UploadId=upload, PartNumber=number, Body=_Window(part))
            return {"ETag": answer["ETag"], "PartNumber": number}

        try:
            parts = side_by_side(
                [lambda n=n, p=p: send(n, p) for n, p in enumerate(_pieces(content), 1)],  # type: ignore[misc]
                at_once=PARTS_AT_ONCE,
            )
            client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            try:
                client.abort_multipart_upload(**place, UploadId=upload)
            except Exception as error:  # noqa: BLE001  what failed first is what counts
                logger.info("object store %s: parts of an upload are left: %s", self._location.url, error)
            raise

    def read(self, key: str, size: int) -> memoryview | None:
        """Return the content in memory of its own, of another length than `size` if it is; None if it is not there.

        Raises:
            StoreError: It cannot be read.
        """
        content = memoryview(bytearray(size))
        with self._translated("asked for an object"):
            try:
                if size <= SINGLE_MAX_BYTES:
                    return self._read_range(key, content, 0, is_whole=True)
                offsets = range(0, size, PART_BYTES)
                pieces = [(offset, content[offset : offset + PART_BYTES]) for offset in offsets]
                got = side_by_side(
                    [lambda o=o, p=p: self._read_range(key, p, o) for o, p in pieces],  # type: ignore[misc]
                    at_once=PARTS_AT_ONCE,
                )
            except client_error() as error:
                if code_of(error) in ("404", "NoSuchKey"):
                    return None
                found = self.look_up(key)
                if found is None or found.size == size:
                    raise
                return content[:0]  # shorter than it should be: servers differ in what they say to the last range
        is_whole = all(len(piece) == len(part) for piece, (_, part) in zip(got, pieces, strict=True))
        return content if is_whole else content[:0]

    def _read_range(self, key: str, into: memoryview, offset: int, *, is_whole: bool = False) -> memoryview:
        """Fill `into` with what is at `offset` and return it, or a part of it where there is less; nothing for more."""
        where = {} if is_whole else {"Range": f"bytes={offset}-{offset + len(into) - 1}"}
        for attempt in range(1, READ_ATTEMPTS + 1):
            answer = self._client.get_object(Bucket=self._location.bucket, Key=self._full(key), **where)
            with answer["Body"] as body:
                length, filled = int(answer["ContentLength"]), 0
                if length > len(into):
                    return into[:0]
                try:
                    while filled < length and (count := body.readinto(into[filled:])):
                        filled += count
                except broken_read() as error:
                    if attempt == READ_ATTEMPTS:
                        raise
                    logger.info("object store %s: read again from %d: %s", self._location.url, offset, error)
                    continue
                if filled == length:
                    return into[:filled]
        raise StoreError(
            f"object store {self._location.url}: the connection ended amid an object, {READ_ATTEMPTS} times"
        )

    def remove(self, key: str) -> None:
        """Remove a content; nothing if it is not there.

        Raises:
            StoreError: It cannot be removed.
        """
        with self._translated("asked to remove an object"):
            try:
                self._client.delete_object(Bucket=self._location.bucket, Key=self._full(key))
            except client_error() as error:
                if code_of(error) not in ("404", "NoSuchKey"):
                    raise

    def walk(self, folder: str) -> Iterator[KeyInfo]:
        """Iterate what is stored under keys that begin with `folder` and a slash.

        Raises:
            StoreError: The bucket cannot be listed.
        """
        begin = len(self._full(""))
        page: dict[str, Any] = {"Bucket": self._location.bucket, "Prefix": self._full(folder) + "/"}
        while True:
            with self._translated("listed"):
                answer = self._client.list_objects_v2(**page)
            for found in answer.get("Contents", ()):
                if not found["Key"].endswith("/"):  # some servers list folders
                    yield KeyInfo(found["Key"][begin:], int(found["Size"]), _seconds(found["LastModified"]))
            if not answer.get("IsTruncated") or "NextContinuationToken" not in answer:
                return
            page["ContinuationToken"] = answer["NextContinuationToken"]

    @property
    def _client(self) -> Any:  # Any: botocore has no types
        """botocore's client of this process: a forked child makes one of its own."""
        made = self._made
        if made is None or made[0] != os.getpid():
            made = self._made = (os.getpid(), make_client(self._location, self._access))
        return made[1]

    def _full(self, key: str) -> str:
        return f"{self._location.prefix}/{key}"

    def _translated(self, what: str) -> AbstractContextManager[None]:
        return translated(self._location.url, what)


class _Window(io.RawIOBase):
    """A content as a file, of which nothing is copied as a whole; botocore goes back to its beginning to try again."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._content)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:  # Any: a writable buffer; Python 3.12 has a name for that
        piece = self._content[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def _pieces(content: memoryview) -> Iterator[memoryview]:
    length = max(PART_BYTES, -(-len(content) // PARTS_MAX))
    return (content[begin : begin + length] for begin in range(0, len(content), length))


def _seconds(when: datetime) -> float:
    return when.timestamp()
