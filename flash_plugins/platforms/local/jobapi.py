# SPDX-License-Identifier: Apache-2.0
"""What clients ask of a queue endpoint over HTTP: Runpod's job API. It decides nothing: see `fleet`.

Source: Runpod's job API documentation (2026-08). Its rate limits are kept by `faults`, where they are asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from .. import api
from .asgi import BodyTooLarge, Call, Send, break_off, read_body, send_error, send_json, wait_held
from .balanced import BalancedFleet
from .clock import Clock
from .fleet import Fleet
from .jobs import Job
from .submission import parse_milliseconds, parse_submission
from .wire import MalformedJson, dump

__all__ = ["JOB_OPERATIONS", "JobOperation", "send_balanced_health"]

#: How long `/stream` is held until there is a chunk or an end, seconds. The blocking client of runpod 1.x gives
#: up after 10 without a byte, and raises.
STREAM_HOLD_S: Final = 8.0

#: Answers one request to the job API of an endpoint.
JobOperation = Callable[[Call, Fleet, Clock], Awaitable[None]]


async def _run(call: Call, fleet: Fleet, clock: Clock) -> None:
    job = await _submit(call, fleet, api.RUN_MAX_BYTES, is_sync=False)
    if job is not None:
        await send_json(call.send, 200, b'{"id":"%b","status":"IN_QUEUE"}' % job.id.encode())


async def _runsync(call: Call, fleet: Fleet, clock: Clock) -> None:
    wait_s = api.RUNSYNC_WAIT_DEFAULT_MS / 1000
    if call.query_string:
        try:
            wait_s = _milliseconds(call, "wait", api.RUNSYNC_WAIT_MIN_MS, api.RUNSYNC_WAIT_MAX_MS) or wait_s
        except MalformedJson as error:
            await send_error(call.send, 400, str(error))
            return
    job = await _submit(call, fleet, api.RUNSYNC_MAX_BYTES, is_sync=True)
    if job is None:
        return
    # "Up to 5 minutes with a long wait": at least as long as the caller may be waiting.
    job.retention_s = max(job.retention_s, wait_s)
    if not job.status.is_terminal and not await _changed(job, fleet, wait_s, call, clock):
        return
    await send_json(call.send, 200, job.to_json() if job.status.is_terminal else _short(job))


async def _submit(call: Call, fleet: Fleet, limit_bytes: int, *, is_sync: bool) -> Job | None:
    try:
        submission = parse_submission(await read_body(call.receive, limit_bytes))
    except BodyTooLarge as error:
        await send_error(call.send, 413, str(error))
    except MalformedJson as error:
        await send_error(call.send, 400, str(error))
    else:
        return fleet.submit(submission, is_sync=is_sync)
    return None


async def _status(call: Call, fleet: Fleet, clock: Clock) -> None:
    job = await _find(call, fleet)
    if job is None:
        return
    try:
        # The documentation's example is 6000, below the minimum of a policy (2026-08); it names no limit here.
        ttl_s = _milliseconds(call, "ttl", 1, api.POLICY_MAX_MS)
    except MalformedJson as error:
        await send_error(call.send, 400, str(error))
        return
    if ttl_s is not None:
        fleet.jobs.set_life(job, ttl_s)
    await send_json(call.send, 200, job.to_json())


async def _stream(call: Call, fleet: Fleet, clock: Clock) -> None:
    job = await _find(call, fleet)
    if job is None:
        return
    is_waiting = job.chunks_read == len(job.chunks) and not job.status.is_terminal
    if is_waiting and not await _changed(job, fleet, STREAM_HOLD_S, call, clock, is_chunk_enough=True):
        return
    chunks = b",".join(b'{"output":%b}' % chunk for chunk in job.unread_chunks())
    error = b',"error":' + job.error if job.error is not None else b""
    answer = b'{"id":"%b","status":"%b","stream":[%b]%b}'
    await send_json(call.send, 200, answer % (job.id.encode(), job.status.value.encode(), chunks, error))


async def _cancel(call: Call, fleet: Fleet, clock: Clock) -> None:
    job = await _find(call, fleet)
    if job is not None:
        fleet.cancel(job)
        await send_json(call.send, 200, _short(job))


async def _retry(call: Call, fleet: Fleet, clock: Clock) -> None:
    job = await _find(call, fleet)
    if job is None:
        return
    status = job.status
    if fleet.retry(job):
        await send_json(call.send, 200, b'{"id":"%b","status":"IN_QUEUE"}' % job.id.encode())
    else:
        await send_error(call.send, 400, f"job {job.id} is {status}: only FAILED and TIMED_OUT jobs can be retried")


async def _purge_queue(call: Call, fleet: Fleet, clock: Clock) -> None:
    await send_json(call.send, 200, dump({"removed": fleet.jobs.purge(), "status": "completed"}))


async def _health(call: Call, fleet: Fleet, clock: Clock) -> None:
    counts = fleet.jobs.counts
    answer = {
        "jobs": {
            "completed": counts.completed,
            "failed": counts.failed,
            "inProgress": counts.in_progress,
            "inQueue": fleet.jobs.queued + fleet.jobs.ahead,
            "retried": counts.retried,
        },
        "workers": _worker_counts(fleet.worker_counts()),
    }
    await send_json(call.send, 200, dump(answer))


async def send_balanced_health(send: Send, fleet: BalancedFleet) -> None:
    """Answer `/health` for a load-balanced endpoint: its workers, and its requests in the place of jobs.

    Runpod documents only the workers' own health path for these (2026-08).
    """
    jobs = {"completed": 0, "failed": 0, "inProgress": fleet.in_flight, "inQueue": fleet.waiting, "retried": 0}
    await send_json(send, 200, dump({"jobs": jobs, "workers": _worker_counts(fleet.worker_counts())}))


def _worker_counts(workers: dict[str, int]) -> dict[str, int]:
    return {**workers, "ready": workers["idle"] + workers["running"]}


async def _requests(call: Call, fleet: Fleet, clock: Clock) -> None:
    # Runpod does not publish the shape of this answer.
    await send_json(call.send, 200, b'{"requests":[' + b",".join(job.summary() for job in fleet.jobs) + b"]}")


async def _find(call: Call, fleet: Fleet) -> Job | None:
    job = fleet.jobs.get(call.parts[0])
    if job is None:
        await send_error(call.send, 404, f"job {call.parts[0]} not found: it is unknown or its result has expired")
    return job


async def _changed(
    job: Job, fleet: Fleet, seconds: float, call: Call, clock: Clock, *, is_chunk_enough: bool = False
) -> bool:
    """Wait until the job has ended, or has a chunk, at most so long.

    Returns False if there is nobody to answer: the client has gone, or the platform is going, which the client learns
    from the connection. How its job would have ended nobody knows.
    """
    changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_change(job: Job) -> None:
        is_enough = job.status.is_terminal or (is_chunk_enough and job.chunks_read < len(job.chunks))
        if is_enough and not changed.done():
            changed.set_result(None)

    job.listeners.append(on_change)
    try:
        is_there = await wait_held(changed, seconds, clock=clock, receive=call.receive)
    finally:
        job.listeners.remove(on_change)
    if is_there and fleet.is_ending:
        await break_off(call.send)
        return False
    return is_there


def _short(job: Job) -> bytes:
    return b'{"id":"%b","status":"%b"}' % (job.id.encode(), job.status.value.encode())


def _milliseconds(call: Call, name: str, minimum_ms: int, maximum_ms: int) -> float | None:
    text = call.query().get(name)
    return None if text is None else parse_milliseconds(text, name, minimum_ms=minimum_ms, maximum_ms=maximum_ms)


_READ: Final = ("GET", "POST")

#: Operation → methods, path segments behind it, what answers it.
JOB_OPERATIONS: Mapping[str, tuple[tuple[str, ...], int, JobOperation]] = {
    "run": (("POST",), 0, _run),
    "runsync": (("POST",), 0, _runsync),
    "status": (_READ, 1, _status),
    "stream": (_READ, 1, _stream),
    "cancel": (("POST",), 1, _cancel),
    "retry": (("POST",), 1, _retry),
    "purge-queue": (("POST",), 0, _purge_queue),
    "health": (("GET",), 0, _health),
    "requests": (("GET",), 0, _requests),
}
