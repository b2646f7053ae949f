# SPDX-License-Identifier: Apache-2.0
"""Requests over one pool of connections of aiohttp. It makes nothing of a status, and repeats nothing itself.

Importing this module imports aiohttp (0.15 s, more on a slow machine): do it off the user's thread.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from .answer import Answer, Sent
from .failures import RequestTimeout, TransportFailure
from .resolver import LastingResolver

__all__ = ["AiohttpCarrier", "Carrier", "Streamed", "broken", "public"]

#: Seconds to connect.
_CONNECT_TIMEOUT_S = 10.0
#: Seconds an idle connection is kept; servers keep theirs longer, so that no request meets a closing one.
_KEEPALIVE_S: Final = 15.0
#: Larger bodies are sent in slices of this size, so that writing one does not hold up the loop.
_SLICE_BYTES: Final = 262_144
#: What to look at where not even a connection came about.
_UNREACHED: Final = "; is the network up, and is this address right (RUNPOD_API_BASE_URL, RUNPOD_ENDPOINT_BASE_URL)?"


class Streamed:
    """An answer whose body is still to come.

    Args:
        sent: What it answers.
        got: It, as aiohttp has it.

    Attributes:
        status_code: HTTP status.
    """

    def __init__(self, sent: Sent, got: aiohttp.ClientResponse) -> None:
        self._sent, self._got = sent, got
        self.status_code = got.status

    async def whole(self) -> Answer:
        """Return it once the rest is there; raises as `Carrier.whole`."""
        with _Translated(self._sent):
            return await _whole(self._sent, self._got)

    async def lines(self) -> AsyncGenerator[str]:
        """Yield the lines of its text, without their ends; raises as `Carrier.whole`, also between them."""
        decoder, waiting = codecs.getincrementaldecoder("utf-8")("replace"), ""
        with _Translated(self._sent):
            async for piece in self._got.content.iter_any():
                *lines, waiting = (waiting + decoder.decode(piece)).split("\n")
                for line in lines:
                    yield line.removesuffix("\r")
            if waiting:
                yield waiting


class Carrier(Protocol):
    """Sends requests and returns their answers, whatever their status. Used from one event loop only."""

    async def whole(self, sent: Sent, headers: Mapping[str, str], content: bytes | None, read_s: float) -> Answer:
        """Send a request and return its answer, whole.

        Args:
            sent: What it is, without its key.
            headers: All of its headers, with the key.
            content: Its body.
            read_s: Longest silence, seconds.

        Raises:
            TransportFailure: No answer came.
        """

    def streamed(self, sent: Sent, headers: Mapping[str, str], read_s: float) -> AbstractAsyncContextManager[Streamed]:
        """Send a request and return its answer as it comes; raises as `whole` does."""

    async def aclose(self) -> None:
        """Close all connections."""


class AiohttpCarrier:
    """Sends requests over one pool of connections. Used from one event loop only.

    Args:
        max_connections: Most requests open at once.
        uses_proxies: Whether it takes the proxies that the environment names.
    """

    def __init__(self, *, max_connections: int, uses_proxies: bool) -> None:
        self._max_connections, self._uses_proxies = max_connections, uses_proxies
        self._resolver = LastingResolver()
        self._pool: aiohttp.ClientSession | None = None

    async def whole(self, sent: Sent, headers: Mapping[str, str], content: bytes | None, read_s: float) -> Answer:
        """See `Carrier`."""
        with _Translated(sent):
            async with self._asked(sent, headers, content, read_s) as got:
                return await _whole(sent, got)

    @contextlib.asynccontextmanager
    async def streamed(self, sent: Sent, headers: Mapping[str, str], read_s: float) -> AsyncIterator[Streamed]:
        """See `Carrier`."""
        with _Translated(sent):
            got = await self._asked(sent, headers, None, read_s)
        try:
            yield Streamed(sent, got)
        finally:
            got.close()  # its connection is not left to what may still come

    async def aclose(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            await self._pool.close()
        await self._resolver.close()

    def _asked(
        self, sent: Sent, headers: Mapping[str, str], content: bytes | None, read_s: float
    ) -> aiohttp.client._RequestContextManager:
        body: bytes | AsyncIterator[bytes] | None = content
        if content is not None and len(content) > _SLICE_BYTES:
            headers = CIMultiDict(headers)
            headers["Content-Length"], body = str(len(content)), _slices(content)
        return self._session().request(
            sent.method,
            _url(sent.address),
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=_timeout(_CONNECT_TIMEOUT_S, read_s),
        )

    def _session(self) -> aiohttp.ClientSession:
        if self._pool is None:
            self._pool = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections, keepalive_timeout=_KEEPALIVE_S, resolver=self._resolver
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=self._uses_proxies,
            )
        return self._pool


async def _whole(sent: Sent, got: aiohttp.ClientResponse) -> Answer:
    return Answer(sent, got.status, got.headers, await got.read(), got.reason or "")


async def _slices(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _SLICE_BYTES):
        yield content[start : start + _SLICE_BYTES]


class _Translated:
    """Makes what aiohttp raises a failure of ours. One of contextlib's takes three times as long."""

    __slots__ = ("_sent",)

    def __init__(self, sent: Sent) -> None:
        self._sent = sent

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, (aiohttp.ClientError, OSError)) and not isinstance(error, TransportFailure):
            raise broken(self._sent, error) from error


def broken(sent: Sent, error: Exception) -> TransportFailure:
    """Return the failure of a request for what aiohttp raised."""
    # A connection that was never made is safe to repeat, one that was lost is not.
    was_sent = not isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL))
    kind = RequestTimeout if was_sent and isinstance(error, TimeoutError) else TransportFailure
    return kind(
        f"{sent.method} {public(sent.address)} got no answer: {type(error).__name__}: {error}"
        f"{'' if was_sent else _UNREACHED}",
        was_sent=was_sent,
        sent=sent,
    )


def public(url: str) -> str:
    """Return a URL without its query, which may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


#: Parsing a URL takes long; most requests go to a few.
_url = functools.lru_cache(maxsize=256)(URL)


@functools.lru_cache(maxsize=16)
def _timeout(connect_s: float, read_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(sock_connect=connect_s, sock_read=read_s)
