# SPDX-License-Identifier: Apache-2.0
"""Files and fields as the body of a request, and parameters as its query. Importing it imports aiohttp."""

from __future__ import annotations

import io
import mimetypes
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import aiohttp
from yarl import URL

__all__ = ["form_of", "with_query"]


class _Body:
    """Takes what aiohttp writes of a form."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    async def write(self, part: bytes) -> None:
        self.parts.append(bytes(part))


async def form_of(fields: Mapping[str, Any], files: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return a form and its content type.

    Args:
        fields: Values by name; a list for several of one name.
        files: By name: bytes, a file, or (file name, either[, content type]); a list for several of one name.

    Raises:
        TypeError: A file was opened as text, or is none.
    """
    form = aiohttp.FormData(quote_fields=False)
    for name, value in _each(fields):
        form.add_field(name, _text(value))
    for name, file in _each(files):
        file_name, content, content_type = _file(name, file)
        form.add_field(name, io.BytesIO(content), filename=file_name, content_type=content_type)
    payload, body = form(), _Body()
    await payload.write(cast("aiohttp.abc.AbstractStreamWriter", body))
    return b"".join(body.parts), payload.headers["Content-Type"]


def with_query(url: str, params: Mapping[str, Any]) -> str:
    """Return a URL with parameters added to its query, in the place of those of the same names."""
    if not params:
        return str(URL(url))
    listed = {name: [_text(one) for _, one in _each({name: value})] for name, value in params.items()}
    return str(URL(url).update_query(listed))


def _each(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            yield name, one


def _text(value: Any) -> str:  # Any: the user's
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _file(name: str, file: Any) -> tuple[str, bytes, str]:  # Any: the user's
    file_name, content, content_type = None, file, None
    if isinstance(file, tuple):
        file_name, content, content_type = (*file, None)[:3]
    if hasattr(content, "read"):
        file_name = file_name or Path(str(getattr(content, "name", "upload"))).name
        if getattr(content, "seekable", bool)():
            content.seek(0)
        content = content.read()
    if isinstance(content, str) and isinstance(file, tuple):  # a text given as a file's content
        content = content.encode()
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(
            f"file {name!r} is neither bytes nor a file that was opened as binary ('rb'), but {content!r:.80}"
        )
    file_name = file_name or "upload"
    return file_name, bytes(content), content_type or mimetypes.guess_type(file_name)[0] or "application/octet-stream"
