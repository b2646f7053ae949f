# SPDX-License-Identifier: Apache-2.0
"""What becomes of requests that get no answer, or a refusal.

These are httpx's errors as well, which programs written for other clients of Runpod expect. Who catches one of httpx's
has imported httpx, and nobody else needs it: so they become httpx's when the first one is made after somebody has
imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .. import errors
from ..errors import ApiError, PlatformUnavailable
from .answer import Answer, Sent

__all__ = [
    "AuthenticationError",
    "NotFoundError",
    "RateLimited",
    "RequestTimeout",
    "StatusError",
    "TransportFailure",
]


class TransportFailure(PlatformUnavailable):
    """No answer came. Also a `httpx.TransportError`.

    Attributes:
        was_sent: Whether the request may have reached the platform; False means surely not.
    """

    def __init__(self, message: str, *, was_sent: bool, sent: Sent | None = None) -> None:
        _join_httpx()
        Exception.__init__(self, message)
        self._sent = sent
        self.was_sent = was_sent

    @property
    def request(self) -> Sent:
        """What was sent, without the key.

        Raises:
            RuntimeError: It is not known; httpx's errors raise the same.
        """
        if self._sent is None:
            raise RuntimeError("the request of this error is not known")
        return self._sent


class RequestTimeout(TransportFailure, TimeoutError):
    """No answer came in time. Also a `httpx.TimeoutException`."""


class StatusError(ApiError):
    """The answer to a request is a refusal. Also a `httpx.HTTPStatusError`."""

    def __init__(self, message: str, *, answer: Answer, detail: str | None = None, errors: Sequence[str] = ()) -> None:
        _join_httpx()
        Exception.__init__(self, message)  # the next in line may be httpx's, which takes other arguments
        self.status = answer.status_code
        self.detail = detail
        self.errors = tuple(errors)
        self._answer = answer

    @property
    def response(self) -> Answer:
        """The answer, whole, with the names that httpx has for its parts."""
        return self._answer

    @property
    def request(self) -> Sent:
        """What was sent, without the key."""
        return self._answer.request


class AuthenticationError(StatusError, errors.AuthenticationError):
    """401 or 403."""


class NotFoundError(StatusError, errors.NotFoundError):
    """404."""


class RateLimited(StatusError):
    """The platform wants fewer requests (429); nothing was accepted.

    Attributes:
        retry_after_s: Seconds it asks to wait, 1.0 if it named none.
    """

    def __init__(self, message: str, *, answer: Answer, detail: str | None, retry_after_s: float) -> None:
        super().__init__(message, answer=answer, detail=detail)
        self.retry_after_s = retry_after_s


def _join_httpx() -> None:
    """Make these classes httpx's, too, where the process has httpx."""
    httpx = sys.modules.get("httpx")
    names = ("TransportError", "TimeoutException", "HTTPStatusError")
    found = [kind for name in names if (kind := getattr(httpx, name, None)) is not None]
    if len(found) < len(names) or issubclass(StatusError, found[-1]):  # it may be half imported by another thread
        return
    transport, timeout, status = found
    TransportFailure.__bases__ = (PlatformUnavailable, transport)
    RequestTimeout.__bases__ = (TransportFailure, TimeoutError, timeout)
    StatusError.__bases__ = (ApiError, status)
