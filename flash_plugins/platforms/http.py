# SPDX-License-Identifier: Apache-2.0
"""Requests to one platform, and the errors that its refusals become.

It knows no operation of the platform and repeats nothing. Importing this module imports aiohttp (0.15 s, more on a slow
machine): do it off the user's thread.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from multidict import CIMultiDict

from ..errors import ApiError
from . import api
from .answer import Answer, Sent
from .base import Connection
from .carrier import AiohttpCarrier, Carrier, public
from .failures import (
    AuthenticationError,
    NotFoundError,
    RateLimited,
    RequestTimeout,
    StatusError,
    TransportFailure,
)

__all__ = ["READ_TIMEOUT_S", "HttpClient", "RateLimited", "RequestTimeout", "StatusError", "TransportFailure"]

#: Seconds to wait for an answer that is not held.
READ_TIMEOUT_S = 60.0


class HttpClient:
    """Requests to one platform. Used from one event loop only.

    Args:
        connection: Where the platform is.
        max_connections: Most requests open at once.
    """

    def __init__(self, connection: Connection, *, max_connections: int = 1000) -> None:
        self.connection = connection
        self._is_closed = False
        self._headers = CIMultiDict(
            {
                "Authorization": f"Bearer {connection.key}",
                "Content-Type": "application/json",
                "User-Agent": "flash-plugins",
            }
        )
        self._shown = Sent.without_key(self._headers.items())
        # No cookies, no redirects; proxies of the environment where TLS is, as on loopback there are none.
        is_tls = connection.api_base.startswith("https")
        carrier = AiohttpCarrier(max_connections=max_connections, uses_proxies=is_tls)
        self._carrier: Carrier = connection.wrap(carrier) if connection.wrap else carrier

    async def aclose(self) -> None:
        """Close all connections; whoever still asks is told that nothing was sent."""
        self._is_closed = True
        await self._carrier.aclose()

    async def json(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Return the object that a request is answered with; raises as `accepted` does."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.accepted(method, url, content, read_timeout_s=read_timeout_s)
        try:
            said = answer.json()
        except ValueError as error:
            raise self.not_understood(method, url, answer, error) from error
        if not isinstance(said, dict):
            raise self.not_understood(method, url, answer, None)
        return said

    def not_understood(self, method: str, url: str, answer: Answer, error: Exception | None) -> ApiError:
        """Return the error for an answer that the description does not explain."""
        words = _without(self.connection.key, answer.text)
        return ApiError(
            f"the answer to {method} {public(url)} is not what Runpod's description says "
            f"({error or 'not an object'}): {words[:200]!r}",
            status=answer.status_code,
        )

    async def accepted(
        self, method: str, url: str, content: bytes | None = None, *, read_timeout_s: float = READ_TIMEOUT_S
    ) -> Answer:
        """Send a request and return its answer, whole.

        Raises:
            TransportFailure: No answer came.
            AuthenticationError: The key is refused (401, 403).
            NotFoundError: There is no such thing (404).
            RateLimited: Fewer requests are wanted (429).
            ApiError: Any other refusal.
        """
        answer = await self.answer(method, url, content, read_timeout_s=read_timeout_s)
        if answer.status_code >= 400:
            raise self.refusal(answer)
        return answer

    async def answer(
        self,
        method: str,
        url: str,
        content: bytes | None = None,
        *,
        headers: Iterable[tuple[str, str]] = (),
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> Answer:
        """Send a request and return its answer, whole and whatever its status. `headers` win over the usual ones.

        Raises:
            TransportFailure: No answer came.
        """
        sent, all_headers = self._begun(method, url, headers)
        return await self._carrier.whole(sent, all_headers, content, read_timeout_s)

    def refusal(self, answer: Answer) -> StatusError:
        """Return the error for an answer that is none."""
        sent, connection = answer.request, self.connection
        detail, errors = _detail(answer, connection.key)
        words = detail or answer.reason_phrase
        said = f"{sent.method} {public(sent.address)} was answered with {answer.status_code}: {words}"
        is_of_worker = api.WORKER_ID_HEADER in answer.headers  # which has keys of its own, or none
        match answer.status_code:
            case 401 | 403 as status:
                advice = "" if connection.key_advice is None else f"; {connection.key_advice}"
                may_not = "; the key is known but may not do this: give it more permissions" if status == 403 else ""
                said = said if is_of_worker else f"{said}{may_not}{advice}"
                return AuthenticationError(said, answer=answer, detail=detail)
            case 404:
                return NotFoundError(said, answer=answer, detail=detail, errors=errors)
            case 429:
                wait_s = _retry_after_s(answer)
                return RateLimited(said, answer=answer, detail=detail, retry_after_s=wait_s)
            case _:
                return StatusError(said, answer=answer, detail=detail, errors=errors)

    @contextlib.asynccontextmanager
    async def lines(
        self, url: str, headers: Mapping[str, str], *, read_timeout_s: float = READ_TIMEOUT_S
    ) -> AsyncIterator[AsyncIterator[str]]:
        """Get what a server sends line by line for as long as it likes; raises as `accepted` does, also between lines.

        Args:
            url: What to get.
            headers: Sent besides those of every request.
            read_timeout_s: Longest silence, seconds.
        """
        sent, all_headers = self._begun("GET", url, headers.items())
        async with self._carrier.streamed(sent, all_headers, read_timeout_s) as answer:
            if answer.status_code >= 400:
                raise self.refusal(await answer.whole())
            async with contextlib.aclosing(answer.lines()) as lines:
                yield lines

    def _begun(self, method: str, url: str, headers: Iterable[tuple[str, str]]) -> tuple[Sent, Mapping[str, str]]:
        """Return a request and all headers of it.

        Raises:
            TransportFailure: We are closed.
        """
        if self._is_closed:
            raise TransportFailure(f"{method} {public(url)}: the connection is closed", was_sent=False)
        own = list(headers)
        if not own:
            return Sent(method, url, self._shown), self._headers
        names = {name.lower() for name, _ in own}
        merged = [*((name, value) for name, value in self._headers.items() if name.lower() not in names), *own]
        return Sent(method, url, Sent.without_key(merged)), CIMultiDict(merged)


def _detail(answer: Answer, key: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the platform's words, whole and by field."""
    try:
        said = answer.json()
    except ValueError:
        return _without(key, answer.text)[:500] or None, ()
    if not isinstance(said, Mapping):
        return _without(key, str(said))[:500], ()
    words = [str(said[name]) for name in ("title", "detail", "error", "message") if said.get(name)]
    if isinstance(kind := said.get("error_type"), str) and words:  # of an exception that a worker of ours tells of
        words[0] = f"{kind.rpartition('.')[2]}: {words[0]}"
    listed = said.get("errors")
    errors = tuple(_without(key, str(entry)) for entry in listed) if isinstance(listed, list) else ()
    words += [error for error in errors if not any(error in word for word in words)]
    return _without(key, "; ".join(words))[:2000] or None, errors


def _retry_after_s(answer: Answer) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "1")))
    except ValueError:  # an HTTP date: rare, and a second is a fair guess
        return 1.0


def _without(key: str, text: str) -> str:
    """Return the platform's words without the key, which some servers repeat in their errors."""
    return text.replace(key, "[key]") if key else text
