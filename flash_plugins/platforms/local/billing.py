# SPDX-License-Identifier: Apache-2.0
"""The bill of serverless endpoints: nothing, in the form of REST v2, because this machine is the user's own.

Windows follow Runpod's REST v2 description (2026-08): ends are moved out to the ends of their buckets.
"""

from __future__ import annotations

import datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from .. import api
from .clock import Clock
from .fields import JsonObject, Refused, one_of, refuse
from .restroute import answer, moment_of, route, whole_number

__all__ = ["billing_routes"]

_BUCKETS: Final = ("hour", "day", "week", "month", "year")
#: The window of a query that names none, days.
_DEFAULT_DAYS: Final = 30
_AMOUNTS: Final = ("totalAmount", "gpuAmount", "cpuAmount", "diskAmount", "feeAmount")


def _floor(moment: datetime.datetime, bucket: str) -> datetime.datetime:
    """Return the start of the bucket that a moment is in."""
    start = moment.replace(minute=0, second=0, microsecond=0)
    if bucket == "hour":
        return start
    start = start.replace(hour=0)
    if bucket == "week":
        return start - datetime.timedelta(days=start.weekday())
    if bucket == "month":
        return start.replace(day=1)
    return start.replace(day=1, month=1) if bucket == "year" else start


def _shift(start: datetime.datetime, bucket: str, count: int) -> datetime.datetime:
    """Return the start of a bucket so many further on, or further back."""
    if bucket in ("month", "year"):
        months = start.year * 12 + start.month - 1 + count * (12 if bucket == "year" else 1)
        return start.replace(year=months // 12, month=months % 12 + 1)
    return start + count * datetime.timedelta(**{f"{bucket}s": 1})


def _window(query: dict[str, str], bucket: str, now: datetime.datetime) -> tuple[str, str]:
    """Return the start and the end of the window that a query asks for."""
    last = query.get("lastN")
    if last is not None:
        count = whole_number(last, "lastN", 1)
        if query.keys() & {"startTime", "endTime"}:
            raise Refused(400, "lastN and startTime/endTime exclude each other")
        end = _shift(_floor(now, bucket), bucket, 1)
        start = _shift(end, bucket, -count)
    else:
        month_ago = now - datetime.timedelta(days=_DEFAULT_DAYS)
        start = moment_of(query["startTime"], "startTime") if "startTime" in query else month_ago
        until = moment_of(query["endTime"], "endTime") if "endTime" in query else now
        if start >= until:
            raise Refused(400, f"startTime ({start.isoformat()}) must be before endTime ({until.isoformat()})")
        start, end = _floor(start, bucket), _floor(until, bucket)
        end = end if end == until else _shift(end, bucket, 1)
    return _text(start), _text(end)


def _text(moment: datetime.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def billing_routes(clock: Clock) -> list[BaseRoute]:
    """Return the route of REST v2 for serverless endpoints."""

    async def serverless(request: Request) -> Response:
        query = dict(request.query_params)
        bucket = query.get("bucketSize", "day")
        refuse(one_of(*_BUCKETS)(bucket, "query.bucketSize"))
        now = datetime.datetime.fromtimestamp(clock.wall(), datetime.UTC)
        try:
            start, end = _window(query, bucket, now)
        except (OverflowError, ValueError) as error:
            raise Refused(400, f"the window leaves the calendar: {error}") from error
        resolved: JsonObject = {"startTime": start, "endTime": end, "bucketSize": bucket}
        if "serverlessId" in query:
            resolved["serverlessId"] = query["serverlessId"]
        metadata = {
            "query": resolved,
            "recordCount": 0,
            "uniqueServerlessCount": 0,
            "totals": dict.fromkeys(_AMOUNTS, 0.0),
        }
        return answer({"records": [], "metadata": metadata})

    return [route(f"{api.BILLING_PATH}/serverless", {"GET": serverless})]
