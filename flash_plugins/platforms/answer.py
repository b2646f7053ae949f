# SPDX-License-Identifier: Apache-2.0
"""A request as errors tell of it, and what it was answered with, whole. It sends nothing; importing it imports yarl."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDict
from yarl import URL

__all__ = ["Answer", "Sent"]

_CHARSET = re.compile(r"charset=\"?([\w.:-]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent, as far as errors tell of it: without its body and its key.

    Attributes:
        method: In capitals.
        address: Where it went, as it was given.
        fields: Names and values of its headers.
    """

    method: str
    address: str
    fields: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @staticmethod
    def without_key(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Return headers that may be shown."""
        return tuple((name, "[key]" if name.lower() == "authorization" else value) for name, value in headers)

    @property
    def url(self) -> URL:
        """Where it went."""
        return URL(self.address)

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers by name, whatever its case; the key is hidden."""
        return CIMultiDict(self.fields)


class Answer:
    """The answer to one request. Its attributes have the names that responses of httpx and requests give them.

    Args:
        sent: What it answers.
        status_code: HTTP status.
        headers: By name, whatever its case.
        content: The body, decompressed.
        reason_phrase: The words beside the status.

    Attributes:
        request: What it answers.
        status_code: HTTP status.
        headers: By name, whatever its case.
        content: The body, decompressed.
        reason_phrase: The words beside the status.
    """

    __slots__ = ("content", "headers", "reason_phrase", "request", "status_code")

    def __init__(
        self,
        sent: Sent,
        status_code: int,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        reason_phrase: str = "",
    ) -> None:
        self.request = sent
        self.status_code = status_code
        self.headers: Mapping[str, str] = CIMultiDict() if headers is None else headers
        self.content = content
        self.reason_phrase = reason_phrase

    def __repr__(self) -> str:
        return f"<Answer {self.status_code} {self.reason_phrase}>"

    def __reduce__(self) -> tuple[Any, ...]:
        headers = CIMultiDict(self.headers.items())  # what aiohttp gives out cannot be pickled
        return type(self), (self.request, self.status_code, headers, self.content, self.reason_phrase)

    @property
    def text(self) -> str:
        """The body as text, UTF-8 where it does not say otherwise; bytes that are none are replaced."""
        found = _CHARSET.search(self.headers.get("Content-Type", ""))
        try:
            return self.content.decode(found[1] if found else "utf-8", "replace")
        except LookupError:  # of no encoding that we know
            return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return what the JSON of the body says.

        Raises:
            ValueError: It is none.
        """
        return json.loads(self.content)
