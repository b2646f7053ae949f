# SPDX-License-Identifier: Apache-2.0
"""Files, fields and parameters as they arrive."""

from __future__ import annotations

import asyncio
import io
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from flash_plugins.client.forms import form_of, with_query


def parts_of(fields: dict[str, Any], files: dict[str, Any]) -> list[Message]:
    body, content_type = asyncio.run(form_of(fields, files))
    whole = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    parts = whole.get_payload()
    assert isinstance(parts, list)
    return [part for part in parts if isinstance(part, Message)]


def said(part: Message) -> tuple[object, object, object, object]:
    name = part.get_param("name", header="content-disposition")
    return name, part.get_filename(), part.get_content_type(), part.get_payload(decode=True)


def test_fields_alone_are_a_query_in_the_body() -> None:
    assert asyncio.run(form_of({"a": ["x", "y&"], "b": True}, {})) == (
        b"a=x&a=y%26&b=true", "application/x-www-form-urlencoded",
    )  # fmt: skip


def test_a_file_is_bytes_or_a_file_with_or_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(b"\x89PNG")
    with path.open("rb") as file:
        file.read()
        parts = parts_of(
            {"n": 3},
            {"a": b"1", "b": ("b.txt", "two"), "c": file, "d": ("d", io.BytesIO(b"4"), "x/y"), "e": [b"5", b"6"]},
        )
    assert [said(part) for part in parts] == [
        ("n", None, "text/plain", b"3"),
        ("a", "upload", "application/octet-stream", b"1"),
        ("b", "b.txt", "text/plain", b"two"),
        ("c", "cat.png", "image/png", b"\x89PNG"),
        ("d", "d", "x/y", b"4"),
        ("e", "upload", "application/octet-stream", b"5"),
        ("e", "upload", "application/octet-stream", b"6"),
    ]


@pytest.mark.parametrize("file", ["text", io.StringIO("text"), 3, ("name", 3)])
def test_what_is_no_file_is_an_error(file: Any) -> None:
    with pytest.raises(TypeError, match="file 'f' is neither bytes nor"):
        asyncio.run(form_of({}, {"f": file}))


def test_parameters_take_the_place_of_those_in_the_url() -> None:
    assert with_query("http://h/a b?q=1&r=2", {"q": ["x", True], "s": None}) == "http://h/a%20b?q=x&q=true&r=2&s="
    assert with_query("http://h/a?q=1", {}) == "http://h/a?q=1"
