# SPDX-License-Identifier: Apache-2.0
"""`runpod_flash.Endpoint(id=…)`, the queue client of runpod-flash 1.21."""

import asyncio
from typing import Any

from runpod_flash import Endpoint  # type: ignore[import-not-found, unused-ignore]
from transcript import Setting, describe, play, until_there  # type: ignore[import-not-found]


async def run_and_wait(setting: Setting) -> Any:
    job = await Endpoint(id=setting.jobs).run({"greeting": "hello"})
    done_at_once = job.done
    await job.wait(timeout=60)
    return {
        "id": job.id,
        "done_at_once": done_at_once,
        "done": job.done,
        "output": job.output,
        "error": job.error,
    }


async def many_at_once(setting: Setting) -> Any:
    endpoint = Endpoint(id=setting.jobs)
    jobs = await asyncio.gather(*(endpoint.run({"number": number}) for number in range(20)))
    await asyncio.gather(*(job.wait(timeout=60) for job in jobs))
    return [job.output for job in jobs]


async def run_with_webhook(setting: Setting) -> Any:
    job = await Endpoint(id=setting.jobs).run({"greeting": "by webhook"}, webhook=setting.webhook)
    await job.wait(timeout=60)
    return job.id


async def runsync(setting: Setting) -> Any:
    job = await Endpoint(id=setting.jobs).runsync({"greeting": "hello"})
    return {"done": job.done, "output": job.output, "raw": job._data}


async def runsync_of_a_failing_job(setting: Setting) -> Any:
    job = await Endpoint(id=setting.jobs).runsync({"raise": "boom"})
    return {"done": job.done, "output": job.output, "error": job.error}


async def status(setting: Setting) -> Any:
    job = await Endpoint(id=setting.frozen).run({"greeting": "never"})
    return {"status": await job.status(), "done": job.done}


async def wait_times_out(setting: Setting) -> Any:
    job = await Endpoint(id=setting.frozen).run({"greeting": "never"})
    try:
        await job.wait(timeout=1)
    except TimeoutError as error:
        return describe(error)
    return {"type": None}


async def cancel_queued(setting: Setting) -> Any:
    job = await Endpoint(id=setting.frozen).run({"greeting": "never"})
    await job.cancel()
    return {"done": job.done, "after": await job.status()}


async def cancel_running_by_id(setting: Setting) -> Any:
    endpoint = Endpoint(id=setting.jobs)
    job = await endpoint.run({"gate": str(setting.path("flash-cancel"))})
    await until_there(setting.path("flash-cancel.started"))
    before, cancelled = await job.status(), await endpoint.cancel(job.id)
    reached = await until_there(setting.path("flash-cancel.cancelled"))
    return {"before": before, "done": cancelled.done, "after": await job.status(), "reached": reached}


async def failed_job(setting: Setting) -> Any:
    job = await Endpoint(id=setting.jobs).run({"raise": "boom"})
    await job.wait(timeout=60)
    return {"status": await job.status(), "error": job.error}


async def unknown_endpoint(setting: Setting) -> Any:
    try:
        await Endpoint(id="no-such-endpoint").run({"greeting": "hello"})
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return describe(error)
    return {"type": None}


if __name__ == "__main__":
    play(
        [
            run_and_wait,
            many_at_once,
            run_with_webhook,
            runsync,
            runsync_of_a_failing_job,
            status,
            wait_times_out,
            cancel_queued,
            cancel_running_by_id,
            failed_job,
            unknown_endpoint,
        ]
    )
