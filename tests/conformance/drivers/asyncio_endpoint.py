# SPDX-License-Identifier: Apache-2.0
"""`runpod.AsyncioEndpoint`, the asynchronous client of runpod 1.x (2.0 carries the same one)."""

import asyncio
import os
from typing import Any

import aiohttp
import runpod
from runpod import AsyncioEndpoint, AsyncioJob
from transcript import Setting, describe, play, until_there  # type: ignore[import-not-found]

runpod.api_key = os.environ["RUNPOD_API_KEY"]


async def run_and_output(setting: Setting) -> Any:
    async with aiohttp.ClientSession() as session:
        job = await AsyncioEndpoint(setting.jobs, session).run({"greeting": "hello"})
        first = await job.status()
        return {"first": first, "output": await job.output(timeout=60), "last": await job.status()}


async def many_at_once(setting: Setting) -> Any:
    async with aiohttp.ClientSession() as session:
        endpoint = AsyncioEndpoint(setting.jobs, session)
        jobs = await asyncio.gather(*(endpoint.run({"number": number}) for number in range(20)))
        return await asyncio.gather(*(job.output(timeout=60) for job in jobs))


async def failed_job(setting: Setting) -> Any:
    async with aiohttp.ClientSession() as session:
        job = await AsyncioEndpoint(setting.jobs, session).run({"raise": "boom"})
        output = await job.output(timeout=60)
        return {"output": output, "status": await job.status()}


async def output_times_out(setting: Setting) -> Any:
    async with aiohttp.ClientSession() as session:
        job = await AsyncioEndpoint(setting.frozen, session).run({"greeting": "never"})
        try:
            return {"type": None, "text": await job.output(timeout=1)}
        except TimeoutError as error:
            return describe(error)


async def cancel_queued(setting: Setting) -> Any:
    async with aiohttp.ClientSession() as session:
        job = await AsyncioEndpoint(setting.frozen, session).run({"greeting": "never"})
        before = await job.status()
        answer = await job.cancel()
        return {"id": job.job_id, "before": before, "answer": answer, "after": await job.status()}


async def cancel_running(setting: Setting) -> Any:
    async with aiohttp.ClientSession() as session:
        gate = setting.path("asyncio-cancel")
        job = await AsyncioEndpoint(setting.jobs, session).run({"gate": str(gate)})
        await until_there(setting.path("asyncio-cancel.started"))
        before, answer = await job.status(), await job.cancel()
        reached = await until_there(setting.path("asyncio-cancel.cancelled"))
        after = await job.status()
        return {"id": job.job_id, "before": before, "answer": answer, "after": after, "reached": reached}


async def stream(setting: Setting) -> Any:
    async with aiohttp.ClientSession() as session:
        job = await AsyncioEndpoint(setting.streams, session).run({"chunks": 3})
        return [chunk async for chunk in job.stream()]


async def purge_queue(setting: Setting) -> Any:
    async with aiohttp.ClientSession() as session:
        endpoint = AsyncioEndpoint(setting.frozen, session)
        for _ in range(3):
            await endpoint.run({"greeting": "never"})
        before = await endpoint.health()
        answer = await endpoint.purge_queue()
        return {"before": before, "answer": answer, "after": await endpoint.health()}


async def health(setting: Setting) -> Any:
    async with aiohttp.ClientSession() as session:
        return await AsyncioEndpoint(setting.jobs, session).health()


async def unknown_job(setting: Setting) -> Any:
    # This client reads the body of every answer as JSON whatever the status, then misses the status field.
    async with aiohttp.ClientSession() as session:
        headers = AsyncioEndpoint(setting.jobs, session).headers
        try:
            job = AsyncioJob(setting.jobs, "no-such-job", session, headers)
            return {"type": None, "text": await job.status()}
        except Exception as error:  # noqa: BLE001 - any error is the answer here
            return describe(error)


if __name__ == "__main__":
    play(
        [
            run_and_output,
            many_at_once,
            failed_job,
            output_times_out,
            cancel_queued,
            cancel_running,
            stream,
            purge_queue,
            health,
            unknown_job,
        ]
    )
