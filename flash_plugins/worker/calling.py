# SPDX-License-Identifier: Apache-2.0
"""One call made: what it returns, coroutines awaited, in the form in which it travels. It never sends anything."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from .. import code
from ..errors import JobTimeout, UnpicklableError
from ..payload import RESULT_REMEDY, check_size, encoded_size
from .store import result_sink

__all__ = [
    "CANCELLATIONS",
    "CallCancelled",
    "Drive",
    "drained",
    "is_stream",
    "name_of",
    "pickled",
    "refuse_stream",
    "timeout_of",
    "value_of",
]

#: What a coroutine that was cancelled raises here, and what one in the event loop of another thread does.
CANCELLATIONS = (asyncio.CancelledError, concurrent.futures.CancelledError)

#: What runs a coroutine to its end and returns what it returns.
Drive = Callable[[Any], Any]


class CallCancelled(BaseException):
    """Raised inside a running call that was cancelled. Not an `Exception`, so that user code lets it through."""


def value_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], drive: Drive) -> Any:
    """Make a call and return its value, or the iterator of its values."""
    value = function(*args, **kwargs)
    return drive(_awaited(value)) if inspect.isawaitable(value) else value


def is_stream(value: Any) -> bool:
    """Return whether a value is an iterator that a generator function made."""
    return inspect.isgenerator(value) or inspect.isasyncgen(value)


def drained(values: AsyncIterator[Any], drive: Drive) -> Iterator[Any]:
    """Return the values of an asynchronous iterator, one after another."""

    async def following() -> Any:
        return await anext(values, _END)

    while (value := drive(following())) is not _END:
        yield value


def refuse_stream(function: Callable[..., Any]) -> None:
    """Refuse an iterator where one value is expected.

    Raises:
        UnpicklableError: Always.
    """
    raise UnpicklableError(
        f"{name_of(function)}() returned a generator, which cannot travel; make it a generator function "
        "itself (a `yield` in its own body) to stream, or return a list"
    )


def pickled(
    value: Any, function: Callable[..., Any], limit_bytes: int, *, size: Callable[[int], int] = encoded_size
) -> bytes:
    """Return the result of a call as bytes; `size` says how many so many bytes take on the wire.

    Raises:
        UnpicklableError: It holds something that cannot travel.
        PayloadTooLarge: It takes more than `limit_bytes` on the wire.
    """
    what = f"the result of {name_of(function)}()"
    content = code.dumps(value, what=what, sink=result_sink()).data
    check_size(size(len(content)), limit_bytes, what, RESULT_REMEDY)
    return content


def name_of(function: Callable[..., Any]) -> str:
    """Return how messages name what is called."""
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def timeout_of(limit_s: float | None, cancelled: BaseException | None = None) -> JobTimeout:
    """Return the error of a call that ran longer than its limit.

    Args:
        cancelled: What was raised inside the call to stop it: the error has its traceback, which shows where it was.
    """
    message = f"the call ran longer than its limit of {limit_s:g} s and was stopped on the worker"
    error = JobTimeout(message, limit="run_timeout")
    return error if cancelled is None else error.with_traceback(cancelled.__traceback__)


async def _awaited(value: Any) -> Any:
    return await value


_END = object()
