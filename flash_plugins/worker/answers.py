# SPDX-License-Identifier: Apache-2.0
"""What a route function returns, yields or raises, as an HTTP answer. It knows nothing of requests' parameters.

    Response of FastAPI      as it is
    bytes                    as they are, application/octet-stream
    generator                one value after the other, as they come: see `_streamed`
    anything else            JSON: also models of pydantic, dataclasses, dates, sets, arrays; NaN becomes null
    HTTPException            its status and detail
    any other exception      500 and `{"error": message, "error_type": name, "traceback": text}`

Functions with `async` run in the event loop, others in threads.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import anyio
from fastapi.exceptions import RequestValidationError
from pydantic_core import PydanticSerializationError, to_json
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from ..failure import describe_exception

__all__ = ["answer"]

logger = logging.getLogger(__name__)

_END = object()


async def answer(
    name: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    accepts_events: bool,
) -> Response:
    """Run a route function and return its answer.

    Args:
        name: The route, for messages.
        accepts_events: Whether the caller asked for server-sent events, which matters for generators.

    Raises:
        HTTPException: The function raised it; so does RequestValidationError come out.
    """
    try:
        value = await _result(function, args, kwargs)
        if inspect.isgenerator(value) or inspect.isasyncgen(value):
            return await _streamed(name, value, accepts_events=accepts_events)
        return _whole(name, value)
    except (HTTPException, RequestValidationError):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code raises anything: the caller is told
        return Response(_encode(_failure(name, error)), 500, media_type="application/json")


async def _result(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if _runs_in_loop(function):
        value = function(*args, **kwargs)
    else:
        value, error = await run_in_threadpool(_called, function, args, kwargs)
        if error is not None:
            raise error
    # Also what an undecorated wrapper passes through, and calls of decorated functions.
    return await value if inspect.isawaitable(value) else value


def _runs_in_loop(function: Any) -> bool:
    function = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _called(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, BaseException | None]:
    """Call it in this thread; an exception is returned, so that its traceback begins here."""
    try:
        return function(*args, **kwargs), None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code raises anything: raised again in the loop
        return None, error


def _failure(name: str, error: BaseException) -> dict[str, str]:
    told = describe_exception(error)
    logger.error("%s failed\n%s", name, told["error_traceback"].rstrip())
    return {"error": told["error_message"], "error_type": told["error_type"], "traceback": told["error_traceback"]}


def _whole(name: str, value: Any) -> Response:
    if isinstance(value, Response):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return Response(bytes(value), media_type="application/octet-stream")
    try:
        return Response(_encode(value), media_type="application/json")
    except (PydanticSerializationError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name} returned {_kind_of(value)}, which has no JSON form ({error}); return dicts, lists, numbers, "
            "texts, models or arrays, bytes for raw content, or a Response of fastapi"
        ) from error


async def _streamed(name: str, values: Any, *, accepts_events: bool) -> Response:
    """Answer with what a generator yields, each value as soon as it is there.

    `Accept: text/event-stream` gets server-sent events, `data: JSON`; a generator that begins with bytes sends them
    as they are; else it is one line of JSON for each value. An exception before the first value is an answer of its
    own; after it, the last event (`event: error`) or line is the failure. Raw bytes are cut off.
    """
    pull = _puller(values)
    first = await pull()
    is_raw = isinstance(first, bytes | bytearray | memoryview)
    media_type = "application/octet-stream" if is_raw else "application/jsonl"
    if accepts_events:
        media_type, is_raw = "text/event-stream", False

    def framed(value: Any, event: str = "") -> bytes:
        if is_raw:
            return bytes(value)
        line = _encode(value)
        return b"%bdata: %b\n\n" % (event.encode(), line) if accepts_events else line + b"\n"

    async def body() -> AsyncIterator[bytes]:
        value = first
        try:
            while value is not _END:
                yield framed(value)
                value = await pull()
        except (Exception, SystemExit) as error:  # user code raises anything: the caller is told
            told = _failure(name, error)
            if is_raw:
                raise  # the connection breaks: the caller must not take this for the end
            yield framed(told, "event: error\n")
        finally:
            with anyio.CancelScope(shield=True):
                await _close(values)

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(body(), media_type=media_type, headers=headers)


def _puller(values: Any) -> Callable[[], Any]:
    """Return what gets the next value, `_END` after the last."""
    if inspect.isasyncgen(values):

        async def following() -> Any:
            return await anext(values, _END)

        return following

    async def following_of_thread() -> Any:
        value, error = await run_in_threadpool(_called, next, (values, _END), {})
        if error is not None:
            raise error
        return value

    return following_of_thread


async def _close(values: Any) -> None:
    if inspect.isasyncgen(values):
        await values.aclose()
    else:
        await run_in_threadpool(values.close)


def _encode(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="null", bytes_mode="base64", fallback=_plain)


def _plain(value: Any) -> Any:
    """Return what stands for a value that pydantic does not know: arrays, tensors and numbers of other packages."""
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    raise TypeError(f"{_kind_of(value)} inside")


def _kind_of(value: Any) -> str:
    kind = type(value)
    return f"a {kind.__qualname__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"
