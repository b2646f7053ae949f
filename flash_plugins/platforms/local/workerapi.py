# SPDX-License-Identifier: Apache-2.0
"""What workers ask and report over HTTP: the protocol of the official SDK, 1.12 and 2.0. It decides nothing.

Observed with both versions (2026-10): `job-take`, `job-take-batch` and `job-stop` are long polls, `job-done`
and `job-stream` carry JSON under a form's content type, pings come from a process of their own. Each URL
carries the worker's own token in its query, because the SDK replaces the `Authorization` header by whatever
key it finds in the user's `~/.runpod/config.toml`.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import unquote

from .. import api
from .asgi import BodyTooLarge, Call, is_connection_gone, read_body, send_empty, send_error, send_json
from .clock import Clock
from .endpoints import EndpointSpec
from .fleet import Fleet
from .jobs import Job
from .wire import MalformedJson, dump
from .workers import QueueWorker, Worker

__all__ = ["WORKER_OPERATIONS", "find_worker", "protocol_environment"]

#: How long a poll is held, seconds; the SDK gives up after 90.
HOLD_S: Final = 20.0

WorkerOperation = Callable[[Call, Fleet, QueueWorker, Clock], Awaitable[None]]


def protocol_environment(
    base_url: str, spec: EndpointSpec, worker: Worker, cache_dir: str, *, is_capped: bool = True
) -> Mapping[str, str]:
    """Return the variables by which the SDK finds the platform. `$…` are placeholders the SDK fills in."""
    base = f"{base_url}/v2/{spec.id}"
    query = f"gpu=local&token={worker.token}"
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?{query}",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?{query}",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?{query}",
        "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?{query}",
        "RUNPOD_POD_ID": worker.id,
        "RUNPOD_POD_HOSTNAME": f"{worker.id}-local",
        "RUNPOD_ENDPOINT_ID": spec.id,
        # Without one the SDK sends no pings; it opens nothing but this worker's own paths.
        "RUNPOD_AI_API_KEY": worker.token,
        # Their limits are made for data centers; a laptop fails them, and 1.12's need the internet.
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
        "RUNPOD_SKIP_FITNESS_CHECKS": "1",
        api.CACHE_DIR_ENV: cache_dir,
        **({api.CAPPED_ENV: "1"} if is_capped else {}),
    }


def find_worker(call: Call, fleet: Fleet) -> QueueWorker | None:
    """Return the worker a request comes from, None unless its token is right."""
    worker = fleet.workers.get(call.parts[0]) if call.parts else None
    if worker is None:
        return None
    token = call.query().get("token", "")
    return worker if hmac.compare_digest(token.encode(), worker.token.encode()) else None


async def _job_take(call: Call, fleet: Fleet, worker: QueueWorker, clock: Clock) -> None:
    jobs = await _take(call, fleet, worker, clock, want=1)
    if jobs:
        await send_json(call.send, 200, jobs[0].for_worker())
    else:
        await send_empty(call.send)


async def _job_take_batch(call: Call, fleet: Fleet, worker: QueueWorker, clock: Clock) -> None:
    size = call.query().get("batch_size", "1")
    if not size.isdigit() or size == "0":
        await send_error(call.send, 400, f"batch_size must be a positive number, not {size!r}")
        return
    jobs = await _take(call, fleet, worker, clock, want=int(size))
    if jobs:
        await send_json(call.send, 200, b"[" + b",".join(job.for_worker() for job in jobs) + b"]")
    else:
        await send_empty(call.send)


async def _take(call: Call, fleet: Fleet, worker: QueueWorker, clock: Clock, *, want: int) -> list[Job]:
    taken: asyncio.Future[list[Job]] = asyncio.get_running_loop().create_future()
    poll = fleet.poll(worker, want, taken.set_result)
    if not taken.done():
        timer = clock.call_later(HOLD_S, lambda: fleet.withdraw(worker, poll))
        await taken
        timer.cancel()
    # Between the hand-over and now a job can have been cancelled, or the worker's connection lost.
    jobs = [job for job in taken.result() if worker.leases.get(job.id) is job]
    if jobs and is_connection_gone(call.receive):
        fleet.take_back(worker, jobs)
        return []
    return jobs


async def _job_stop(call: Call, fleet: Fleet, worker: QueueWorker, clock: Clock) -> None:
    asked: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    fleet.await_stops(worker, asked.set_result)
    if not asked.done():

        def give_up() -> None:
            if not asked.done():
                worker.end_stop_poll()

        timer = clock.call_later(HOLD_S, give_up)
        await asked
        timer.cancel()
    stops = asked.result()
    if not stops:
        await send_empty(call.send)
    elif is_connection_gone(call.receive):
        worker.stops = stops + worker.stops
    else:
        await send_json(call.send, 200, dump({"jobsToStop": stops}))


async def _job_done(call: Call, fleet: Fleet, worker: QueueWorker, clock: Clock) -> None:
    job_id = call.parts[1]
    try:
        fleet.job_done(worker, job_id, await read_body(call.receive, api.RESULT_MAX_BYTES))
    except BodyTooLarge as error:
        # The SDK would send it three times and then lose it: the job would hang until it times out.
        fleet.fail_job(worker, job_id, f"result too large: {error}")
    except MalformedJson as error:
        fleet.fail_job(worker, job_id, f"the worker's result cannot be read: {error}")
    await send_json(call.send, 200, b"{}")


async def _job_stream(call: Call, fleet: Fleet, worker: QueueWorker, clock: Clock) -> None:
    job_id = call.parts[1]
    try:
        fleet.job_chunk(worker, job_id, await read_body(call.receive, api.STREAM_CHUNK_MAX_BYTES))
    except BodyTooLarge as error:
        fleet.fail_job(worker, job_id, f"streamed chunk too large: {error}")
    except MalformedJson as error:
        fleet.fail_job(worker, job_id, f"a streamed chunk cannot be read: {error}")
    await send_json(call.send, 200, b"{}")


async def _ping(call: Call, fleet: Fleet, worker: QueueWorker, clock: Clock) -> None:
    query = call.query()
    is_unhealthy = query.get("status") == "unhealthy"
    fleet.ping(
        worker,
        ailment=query.get("reason", "unhealthy") if is_unhealthy else None,
        job_ids=filter(None, unquote(query.get("job_id", "")).split(",")),
    )
    await send_empty(call.send, 200)


#: Operation → methods, path segments behind it, what answers it.
WORKER_OPERATIONS: Mapping[str, tuple[tuple[str, ...], int, WorkerOperation]] = {
    "job-take": (("GET",), 1, _job_take),
    "job-take-batch": (("GET",), 1, _job_take_batch),
    "job-stop": (("GET",), 1, _job_stop),
    "job-done": (("POST",), 2, _job_done),
    "job-stream": (("POST",), 2, _job_stream),
    "ping": (("GET",), 1, _ping),
}
