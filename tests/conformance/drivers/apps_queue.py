# SPDX-License-Identifier: Apache-2.0
"""The queue client of runpod 2.0: `QueueClient` by endpoint id, `Job` handles on it, and the `Queue` stub."""

from typing import Any

import runpod
from runpod.apps.job import Job
from runpod.apps.targets import LiveTarget, QueueClient, _headers, build_job_options
from transcript import Setting, describe, play, until_there  # type: ignore[import-not-found]


def client(endpoint_id: str) -> QueueClient:
    return QueueClient(endpoint_id, _headers)


async def run_and_wait(setting: Setting) -> Any:
    queue = client(setting.jobs)
    submitted = await queue.run({"input": {"greeting": "hello"}})
    return {"submitted": submitted, "final": await queue.wait(submitted, timeout=60)}


async def invoke(setting: Setting) -> Any:
    return await client(setting.jobs).invoke({"input": {"greeting": "hello"}}, timeout=60)


async def invoke_with_empty_marker(setting: Setting) -> Any:
    return await client(setting.jobs).invoke({"input": {"__empty": True}}, timeout=60)


async def invoke_falls_back_to_polling(setting: Setting) -> Any:
    # An observer makes the client ask for the shortest wait, 1 s, and poll from then on.
    seen: list[dict[str, Any]] = []
    gate = setting.path("apps-invoke")

    def note(answer: dict[str, Any]) -> None:
        seen.append(dict(answer))
        if len(seen) == 2:
            gate.touch()

    final = await client(setting.jobs).invoke({"input": {"gate": str(gate)}}, timeout=60, on_status=note)
    return {"seen": seen, "final": final}


async def invoke_of_a_failing_job(setting: Setting) -> Any:
    return await client(setting.jobs).invoke({"input": {"raise": "boom"}}, timeout=60)


async def soft_error(setting: Setting) -> Any:
    return await client(setting.jobs).invoke({"input": {"error": "out of ideas"}}, timeout=60)


async def job_handle(setting: Setting) -> Any:
    target = LiveTarget(setting.jobs)
    job = Job(await target.submit({"input": {"greeting": "hello"}}), target)
    first = await job.status.aio()
    return {"first": first, "result": await job.result.aio(timeout=60), "last": await job.status.aio()}


def job_handle_without_a_loop(setting: Setting) -> Any:
    import asyncio

    target = LiveTarget(setting.jobs)
    job = Job(asyncio.run(target.submit({"input": {"greeting": "hello"}})), target)
    return {"result": job.result(timeout=60), "done": job.done}


async def job_handle_of_a_failing_job(setting: Setting) -> Any:
    target = LiveTarget(setting.jobs)
    job = Job(await target.submit({"input": {"raise": "boom"}}), target)
    try:
        return {"type": None, "text": await job.result.aio(timeout=60)}
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return describe(error)


async def cancel_queued(setting: Setting) -> Any:
    queue = client(setting.frozen)
    job = await queue.run({"input": {"greeting": "never"}})
    answer = await queue.cancel(job["id"])
    return {"id": job["id"], "answer": answer, "after": await queue.status(job["id"])}


async def cancel_running(setting: Setting) -> Any:
    queue = client(setting.jobs)
    gate = setting.path("apps-cancel")
    job = await queue.run({"input": {"gate": str(gate)}})
    await until_there(setting.path("apps-cancel.started"))
    before, answer = await queue.status(job["id"]), await queue.cancel(job["id"])
    reached = await until_there(setting.path("apps-cancel.cancelled"))
    after = await queue.status(job["id"])
    return {"id": job["id"], "before": before, "answer": answer, "after": after, "reached": reached}


async def retry(setting: Setting) -> Any:
    queue = client(setting.jobs)
    job = await queue.run({"input": {"fail_once": str(setting.path("apps-retry"))}})
    failed = await queue.wait(job, timeout=60)
    answer = await queue.retry(job["id"])
    return {
        "id": job["id"],
        "failed": failed,
        "answer": answer,
        "final": await queue.wait(answer, timeout=60),
    }


async def retry_of_a_completed_job(setting: Setting) -> Any:
    queue = client(setting.jobs)
    job = await queue.invoke({"input": {"greeting": "hello"}}, timeout=60)
    try:
        return {"status": None, "text": await queue.retry(job["id"])}
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return {**describe(error), "still": (await queue.status(job["id"]))["status"]}


async def stream(setting: Setting) -> Any:
    queue = client(setting.streams)
    job = await queue.run({"input": {"chunks": 3, "pause_s": 1}})
    return [chunk async for chunk in queue.stream(job["id"], timeout=60)]


async def stream_after_the_end(setting: Setting) -> Any:
    # The client stops at the first answer with a final status: that answer must hold all that is left.
    queue = client(setting.streams)
    job = await queue.run({"input": {"chunks": 40}})
    await queue.wait(job, timeout=60)
    return [chunk async for chunk in queue.stream(job["id"], timeout=60)]


async def stream_of_a_failing_job(setting: Setting) -> Any:
    queue = client(setting.streams)
    job = await queue.run({"input": {"chunks": 0, "pause_s": 1, "then_raise": True}})
    chunks: list[Any] = []
    try:
        async for chunk in queue.stream(job["id"], timeout=60):
            chunks.append(chunk)
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return {**describe(error), "chunks": chunks}
    return {"type": None, "chunks": chunks}


async def options(setting: Setting) -> Any:
    queue = client(setting.jobs)
    chosen = build_job_options(webhook=setting.webhook, execution_timeout=60_000, ttl=600_000, low_priority=False)
    return await queue.invoke({"input": {"greeting": "with options"}, **chosen}, timeout=60)


async def unknown_endpoint(setting: Setting) -> Any:
    try:
        return {"type": None, "text": await client("no-such-endpoint").run({"input": {"greeting": "hello"}})}
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return describe(error)


async def stub_of_something_not_deployed(setting: Setting) -> Any:
    try:
        return {
            "type": None,
            "text": await runpod.Queue(app="app", name="nothing").spawn.aio(greeting="hello"),
        }
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return describe(error)


async def wrong_key(setting: Setting) -> Any:
    queue = QueueClient(setting.jobs, lambda: {"Authorization": "Bearer wrong"})
    try:
        return {"type": None, "text": await queue.run({"input": {"greeting": "hello"}})}
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return describe(error)


if __name__ == "__main__":
    play(
        [
            run_and_wait,
            invoke,
            invoke_with_empty_marker,
            invoke_falls_back_to_polling,
            invoke_of_a_failing_job,
            soft_error,
            job_handle,
            job_handle_without_a_loop,
            job_handle_of_a_failing_job,
            cancel_queued,
            cancel_running,
            retry,
            retry_of_a_completed_job,
            stream,
            stream_after_the_end,
            stream_of_a_failing_job,
            options,
            unknown_endpoint,
            stub_of_something_not_deployed,
            wrong_key,
        ]
    )
