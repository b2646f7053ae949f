# SPDX-License-Identifier: Apache-2.0
"""Requests to one platform over one pooled HTTP client, and the errors that its refusals become.

It knows no operation of the platform and repeats nothing. Importing this module imports httpx and aiohttp (half a
second on a slow machine): do it off the user's thread.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import httpx
from httpx_aiohttp.transport import AiohttpTransport, map_aiohttp_exceptions
from multidict import CIMultiDict
from yarl import URL

from .. import errors
from ..errors import ApiError, PlatformUnavailable
from . import api
from .answer import Answer
from .base import Connection
from .resolver import LastingResolver

__all__ = ["READ_TIMEOUT_S", "HttpClient", "RateLimited", "RequestTimeout", "StatusError", "TransportFailure"]

#: Seconds to connect, and to wait for an answer that is not held.
_CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
#: Seconds an idle connection is kept; servers keep theirs longer, so that no request meets a closing one.
_KEEPALIVE_S = 15.0
#: Larger bodies are sent in slices of this size, so that writing one does not hold up the loop.
_SLICE_BYTES = 262_144


class TransportFailure(PlatformUnavailable, httpx.TransportError):
    """No answer came. Also httpx's own error, which programs written for other clients of Runpod expect.

    Attributes:
        was_sent: Whether the request may have reached the platform; False means surely not.
    """

    def __init__(self, message: str, *, was_sent: bool, request: httpx.Request | None = None) -> None:
        Exception.__init__(self, message)
        self._request = request  # what httpx's `request` gives out
        self.was_sent = was_sent


class RequestTimeout(TransportFailure, TimeoutError, httpx.TimeoutException):
    """No answer came in time."""


class StatusError(ApiError, httpx.HTTPStatusError):
    """The answer to a request is a refusal: `response` is it, whole, as httpx has it."""

    def __init__(
        self, message: str, *, response: httpx.Response, detail: str | None = None, errors: Sequence[str] = ()
    ) -> None:
        Exception.__init__(self, message)  # the next in line, httpx's, takes other arguments
        self.status = response.status_code
        self.detail = detail
        self.errors = tuple(errors)
        self.response = response
        self.request = response.request


class AuthenticationError(StatusError, errors.AuthenticationError):
    """401 or 403."""


class NotFoundError(StatusError, errors.NotFoundError):
    """404."""


class RateLimited(StatusError):
    """The platform wants fewer requests (429); nothing was accepted.

    Attributes:
        retry_after_s: Seconds it asks to wait, 1.0 if it named none.
    """

    def __init__(self, message: str, *, response: httpx.Response, detail: str | None, retry_after_s: float) -> None:
        super().__init__(message, response=response, detail=detail)
        self.retry_after_s = retry_after_s


class HttpClient:
    """Requests to one platform. Used from one event loop only.

    Args:
        connection: Where the platform is.
        max_connections: Most requests open at once.
    """

    def __init__(self, connection: Connection, *, max_connections: int = 1000) -> None:
        self.connection = connection
        self._resolver = LastingResolver()
        self._is_closed = False
        self._headers = [
            ("Authorization", f"Bearer {connection.key}"),
            ("Content-Type", "application/json"),
            ("User-Agent", "flash-plugins"),
        ]
        self._usual = CIMultiDict(self._headers)
        self._pool: aiohttp.ClientSession | None = None
        # httpx's transport interface rather than its client: what the client adds (cookies, redirects, auth
        # flows, environment proxies) is of no use here and takes 0.4 ms of every call, half of the sending side.
        # What is not read line by line goes past that, too, unless somebody stands in between: see `Answer`.
        is_tls = connection.api_base.startswith("https")
        self._max_connections, self._uses_proxies = max_connections, is_tls
        transport = AiohttpTransport(verify=is_tls, client=self._session)
        self._transport: httpx.AsyncBaseTransport = connection.wrap(transport) if connection.wrap else transport

    async def aclose(self) -> None:
        """Close all connections; whoever still asks is told that nothing was sent."""
        self._is_closed = True
        await self._transport.aclose()
        if self._pool is not None:
            await self._pool.close()
        await self._resolver.close()

    async def json(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Return the object that a request is answered with; raises as `request` does."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.accepted(method, url, content, read_timeout_s=read_timeout_s)
        try:
            said = answer.json()
        except ValueError as error:
            raise self.not_understood(method, url, answer, error) from error
        if not isinstance(said, dict):
            raise self.not_understood(method, url, answer, None)
        return said

    def not_understood(
        self, method: str, url: str, answer: Answer | httpx.Response, error: Exception | None
    ) -> ApiError:
        """Return the error for an answer that the description does not explain."""
        words = _without(self.connection.key, answer.text)
        return ApiError(
            f"the answer to {method} {_public(url)} is not what Runpod's description says "
            f"({error or 'not an object'}): {words[:200]!r}",
            status=answer.status_code,
        )

    async def request(
        self, method: str, url: str, content: bytes | None = None, *, read_timeout_s: float = READ_TIMEOUT_S
    ) -> httpx.Response:
        """Send a request and return its answer, whole, as httpx has it.

        Raises:
            TransportFailure: No answer came.
            AuthenticationError: The key is refused (401, 403).
            NotFoundError: There is no such thing (404).
            RateLimited: Fewer requests are wanted (429).
            ApiError: Any other refusal.
        """
        response = await self.exchange(method, url, content, read_timeout_s=read_timeout_s)
        if response.status_code >= 400:
            raise self.refusal(response)
        return response

    async def accepted(
        self, method: str, url: str, content: bytes | None = None, *, read_timeout_s: float = READ_TIMEOUT_S
    ) -> Answer | httpx.Response:
        """Send a request and return its answer, whole; raises as `request` does."""
        answer = await self.answer(method, url, content, read_timeout_s=read_timeout_s)
        if answer.status_code >= 400:
            raise self.refusal(answer if isinstance(answer, httpx.Response) else answer.response(self._headers))
        return answer

    async def exchange(
        self,
        method: str,
        url: str,
        content: bytes | None = None,
        *,
        headers: Iterable[tuple[str, str]] = (),
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> httpx.Response:
        """Send a request and return its answer, whole and whatever its status. `headers` win over the usual ones.

        Raises:
            TransportFailure: No answer came.
        """
        headers = list(headers)
        answer = await self.answer(method, url, content, headers=headers, read_timeout_s=read_timeout_s)
        return answer if isinstance(answer, httpx.Response) else answer.response(_merged(self._headers, headers))

    async def answer(
        self,
        method: str,
        url: str,
        content: bytes | None = None,
        *,
        headers: Iterable[tuple[str, str]] = (),
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> Answer | httpx.Response:
        """Do what `exchange` does, for those who need no response of httpx's."""
        if self.connection.wrap is not None:
            return await self._wrapped_answer(method, url, content, list(headers), read_timeout_s)
        if self._is_closed:
            raise TransportFailure(f"{method} {_public(url)}: the connection is closed", was_sent=False)
        all_headers, body = self._usual, cast("bytes | AsyncIterator[bytes] | None", content)
        if headers:
            all_headers = CIMultiDict(_merged(self._headers, list(headers)))
        if content is not None and len(content) > _SLICE_BYTES:
            all_headers, body = all_headers.copy(), _slices(content)
            all_headers["Content-Length"] = str(len(content))
        try:
            with map_aiohttp_exceptions():
                async with self._session().request(
                    method,
                    _url(url),
                    data=body,
                    headers=all_headers,
                    allow_redirects=False,
                    auto_decompress=False,
                    timeout=_timeout(_CONNECT_TIMEOUT_S, read_timeout_s),
                ) as got:
                    return Answer(method, url, got, await got.read())
        except httpx.TransportError as error:
            raise _broken(httpx.Request(method, url, headers=list(all_headers.items())), error) from error

    async def _wrapped_answer(
        self, method: str, url: str, content: bytes | None, headers: list[tuple[str, str]], read_timeout_s: float
    ) -> httpx.Response:
        response = await self._answered(method, url, content, headers, read_timeout_s)
        try:
            await response.aread()
        except httpx.TransportError as error:
            raise _broken(response.request, error) from error
        finally:
            await response.aclose()  # also where the caller was cancelled: the connection is not left to a stream
        return response

    def refusal(self, response: httpx.Response) -> StatusError:
        """Return the error for an answer that is none."""
        request, connection = _keyless(response.request), self.connection
        detail, errors = _detail(response, connection.key)
        words = detail or response.reason_phrase
        said = f"{request.method} {_public(str(request.url))} was answered with {response.status_code}: {words}"
        is_of_worker = api.WORKER_ID_HEADER in response.headers  # which has keys of its own, or none
        match response.status_code:
            case 401 | 403 as status:
                advice = "" if connection.key_advice is None else f"; {connection.key_advice}"
                may_not = "; the key is known but may not do this: give it more permissions" if status == 403 else ""
                said = said if is_of_worker else f"{said}{may_not}{advice}"
                return AuthenticationError(said, response=response, detail=detail)
            case 404:
                return NotFoundError(said, response=response, detail=detail, errors=errors)
            case 429:
                wait_s = _retry_after_s(response)
                return RateLimited(said, response=response, detail=detail, retry_after_s=wait_s)
            case _:
                return StatusError(said, response=response, detail=detail, errors=errors)

    @contextlib.asynccontextmanager
    async def lines(
        self, url: str, headers: Mapping[str, str], *, read_timeout_s: float = READ_TIMEOUT_S
    ) -> AsyncIterator[AsyncIterator[str]]:
        """Get what a server sends line by line for as long as it likes; raises as `request` does, also between lines.

        Args:
            url: What to get.
            headers: Sent besides those of every request.
            read_timeout_s: Longest silence, seconds.
        """
        response = await self._answered("GET", url, None, list(headers.items()), read_timeout_s)
        try:
            if response.status_code >= 400:
                await response.aread()
                raise self.refusal(response)
            yield response.aiter_lines()
        except TransportFailure:  # of what is done with the lines
            raise
        except httpx.TransportError as error:
            raise _broken(response.request, error) from error
        finally:
            await response.aclose()

    async def _answered(
        self, method: str, url: str, content: bytes | None, headers: list[tuple[str, str]], read_timeout_s: float
    ) -> httpx.Response:
        """Send a request and return its answer, whose body is still to be read."""
        if self._is_closed:
            raise TransportFailure(f"{method} {_public(url)}: the connection is closed", was_sent=False)
        timeout = {"connect": _CONNECT_TIMEOUT_S, "read": read_timeout_s, "write": read_timeout_s, "pool": None}
        headers, body = _merged(self._headers, headers), cast("bytes | AsyncIterator[bytes] | None", content)
        if content is not None and len(content) > _SLICE_BYTES:
            headers, body = [*headers, ("Content-Length", str(len(content)))], _slices(content)
        request = httpx.Request(method, _parsed(url), headers=headers, content=body, extensions={"timeout": timeout})
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError as error:
            raise _broken(request, error) from error
        response.request = request
        return response

    def _session(self) -> aiohttp.ClientSession:
        if self._pool is None:
            self._pool = self._new_session()
        return self._pool

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._max_connections, keepalive_timeout=_KEEPALIVE_S, resolver=self._resolver
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._uses_proxies,  # of the environment; on loopback there are none, and looking costs 0.2 ms
        )


async def _slices(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _SLICE_BYTES):
        yield content[start : start + _SLICE_BYTES]


def _merged(usual: list[tuple[str, str]], headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    if not headers:
        return usual
    names = {name.lower() for name, _ in headers}
    return [header for header in usual if header[0].lower() not in names] + headers


def _keyless(request: httpx.Request) -> httpx.Request:
    """Take the key out of a request that becomes a part of an error, and may travel with it."""
    request.headers["Authorization"] = "[key]"
    return request


#: What to look at where not even a connection came about.
_UNREACHED = "; is the network up, and is this address right (RUNPOD_API_BASE_URL, RUNPOD_ENDPOINT_BASE_URL)?"


def _broken(request: httpx.Request, error: httpx.TransportError) -> TransportFailure:
    # httpx-aiohttp maps a broken connection to ConnectTimeout: only aiohttp's own class tells "never connected"
    # (safe to repeat) from "connection lost" (not safe).
    was_sent = not isinstance(error.__cause__, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
    kind = RequestTimeout if was_sent and isinstance(error, httpx.ReadTimeout) else TransportFailure
    return kind(
        f"{_keyless(request).method} {_public(str(request.url))} got no answer: "
        f"{type(error.__cause__ or error).__name__}: {error}{'' if was_sent else _UNREACHED}",
        was_sent=was_sent,
        request=request,
    )


#: Parsing a URL takes 0.15 ms; most requests go to a few.
_parsed = functools.lru_cache(maxsize=256)(httpx.URL)
_url = functools.lru_cache(maxsize=256)(URL)


@functools.lru_cache(maxsize=16)
def _timeout(connect_s: float, read_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(sock_connect=connect_s, sock_read=read_s)


def _detail(response: httpx.Response, key: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the platform's words, whole and by field."""
    try:
        answer = response.json()
    except ValueError:
        return _without(key, response.text)[:500] or None, ()
    if not isinstance(answer, Mapping):
        return _without(key, str(answer))[:500], ()
    words = [str(answer[name]) for name in ("title", "detail", "error", "message") if answer.get(name)]
    if isinstance(kind := answer.get("error_type"), str) and words:  # of an exception that a worker of ours tells of
        words[0] = f"{kind.rpartition('.')[2]}: {words[0]}"
    listed = answer.get("errors")
    errors = tuple(_without(key, str(entry)) for entry in listed) if isinstance(listed, list) else ()
    words += [error for error in errors if not any(error in word for word in words)]
    return _without(key, "; ".join(words))[:2000] or None, errors


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("Retry-After", "1")))
    except ValueError:  # an HTTP date: rare, and a second is a fair guess
        return 1.0


def _without(key: str, text: str) -> str:
    """Return the platform's words without the key, which some servers repeat in their errors."""
    return text.replace(key, "[key]") if key else text


def _public(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
