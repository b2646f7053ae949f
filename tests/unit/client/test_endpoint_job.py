# SPDX-License-Identifier: Apache-2.0
"""`EndpointJob` and what is asked about a job: what `runpod_flash.EndpointJob` does, and streams."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

import flash_plugins
from flash_plugins import Endpoint, EndpointJob, JobFailed, NotFoundError
from flash_plugins.client import job as job_module
from tests.unit.client.scripted import DROP, Answer, ScriptedServer

STATUS = "GET /v2/abc/status/j1"
QUEUED, RUNNING = {"id": "j1", "status": "IN_QUEUE"}, {"id": "j1", "status": "IN_PROGRESS"}
COMPLETED = {"id": "j1", "status": "COMPLETED", "output": {"text": "hello"}}


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint(id="abc")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between two looks, which take no time."""
    taken: list[float] = []

    async def pause(seconds: float) -> None:
        taken.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(job_module, "_pause", pause)
    return taken


def test_section_4_a_job_shows_what_the_platform_said(endpoint: Endpoint) -> None:
    job = EndpointJob(COMPLETED, endpoint)
    assert (job.id, job.output, job.error, job.done) == ("j1", {"text": "hello"}, None, True)
    assert repr(job) == "EndpointJob(id='j1', status='COMPLETED')"


def test_section_4_a_job_without_anything_is_unknown(endpoint: Endpoint) -> None:
    job = EndpointJob({}, endpoint)
    assert (job.id, job.output, job.error, job.done) == ("", None, None, False)
    assert repr(job) == "EndpointJob(id='', status='UNKNOWN')"


@pytest.mark.parametrize(
    ("status", "is_done"),
    [
        ("IN_QUEUE", False), ("IN_PROGRESS", False), ("RUNNING", False), ("SOMETHING_NEW", False),
        ("COMPLETED", True), ("FAILED", True), ("CANCELLED", True), ("TIMED_OUT", True),
    ],
)  # fmt: skip
def test_section_4_four_states_are_final(endpoint: Endpoint, status: str, is_done: bool) -> None:
    assert EndpointJob({"status": status}, endpoint).done is is_done


@pytest.mark.asyncio
async def test_section_4_status_replaces_what_was_known(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script(STATUS, {"id": "j1", "status": "FAILED", "error": "out of memory"}, {"id": "j1"})
    job = EndpointJob({**QUEUED, "output": "progress"}, endpoint)
    assert await job.status() == "FAILED"
    assert (job.error, job.output, job.done) == ("out of memory", None, True)
    assert await job.status() == "UNKNOWN"


@pytest.mark.asyncio
async def test_section_4_cancel_updates_and_returns_the_same_job(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /v2/abc/cancel/j1", {"id": "j1", "status": "CANCELLED"})
    job = EndpointJob({**RUNNING, "output": "kept"}, endpoint)
    assert await job.cancel() is job
    assert (job.done, job.output) == (True, "kept")
    assert server.seen("POST /v2/abc/cancel/j1")[0].body == b""


@pytest.mark.asyncio
async def test_section_4_wait_looks_in_growing_pauses_until_the_end(
    server: ScriptedServer, endpoint: Endpoint, pauses: list[float]
) -> None:
    server.script(STATUS, *[RUNNING] * 9, COMPLETED)
    job = EndpointJob(QUEUED, endpoint)
    assert await job.wait() is job
    assert job.output == {"text": "hello"}
    assert pauses == pytest.approx([0.25, 0.375, 0.5625, 0.84375, 1.265625, 1.8984, 2.8477, 4.2715, 5, 5], rel=1e-3)


@pytest.mark.asyncio
async def test_section_4_wait_for_a_job_that_is_over_asks_nothing(server: ScriptedServer, endpoint: Endpoint) -> None:
    await EndpointJob(COMPLETED, endpoint).wait()
    assert server.requests == []


@pytest.mark.asyncio
async def test_section_4_wait_ends_with_a_timeout_that_names_job_seconds_and_state(
    server: ScriptedServer, endpoint: Endpoint
) -> None:
    server.script(STATUS, RUNNING)
    with pytest.raises(TimeoutError, match=r"j1 did not complete within 0\.4 s .*IN_PROGRESS"):
        await EndpointJob(QUEUED, endpoint).wait(timeout=0.4)


@pytest.mark.asyncio
async def test_section_4_the_timeout_of_wait_bounds_a_look_that_is_under_way(
    server: ScriptedServer, endpoint: Endpoint
) -> None:
    server.script(STATUS, Answer(COMPLETED, after_s=60))
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="IN_QUEUE"):
        await EndpointJob(QUEUED, endpoint).wait(timeout=0.5)
    assert time.monotonic() - began < 20


@pytest.mark.asyncio
async def test_section_4_wait_goes_on_after_a_look_without_an_answer(
    server: ScriptedServer, endpoint: Endpoint, pauses: list[float]
) -> None:
    server.script(STATUS, DROP, COMPLETED)
    assert (await EndpointJob(QUEUED, endpoint).wait()).done


@pytest.mark.asyncio
async def test_section_4_the_fifth_look_in_a_row_without_an_answer_is_raised(
    server: ScriptedServer, endpoint: Endpoint, pauses: list[float]
) -> None:
    server.script(STATUS, DROP)
    with pytest.raises(httpx.TransportError) as caught:
        await EndpointJob(QUEUED, endpoint).wait()
    assert isinstance(caught.value, flash_plugins.PlatformError)
    assert len(pauses) == 5


@pytest.mark.asyncio
async def test_section_4_an_answer_begins_the_count_anew(
    server: ScriptedServer, endpoint: Endpoint, pauses: list[float]
) -> None:
    look_without_answer = [DROP] * 2  # aiohttp asks again once by itself
    server.script(STATUS, *look_without_answer * 4, RUNNING, *look_without_answer * 4, COMPLETED)
    assert (await EndpointJob(QUEUED, endpoint).wait()).done
    assert len(pauses) == 10


@pytest.mark.parametrize("status", [401, 404, 429, 500])
@pytest.mark.asyncio
async def test_section_4_a_refusal_ends_the_wait_at_once(
    server: ScriptedServer, endpoint: Endpoint, pauses: list[float], status: int
) -> None:
    server.script(STATUS, Answer({"error": "no"}, status=status))
    with pytest.raises(httpx.HTTPStatusError) as caught:
        await EndpointJob(QUEUED, endpoint).wait()
    assert caught.value.response.status_code == status
    assert isinstance(caught.value, flash_plugins.ApiError)
    assert len(server.requests) == 1


@pytest.mark.asyncio
async def test_section_4_the_timeout_wins_over_looks_without_an_answer(
    server: ScriptedServer, endpoint: Endpoint
) -> None:
    server.script(STATUS, DROP)
    with pytest.raises(TimeoutError, match="did not complete"):
        await EndpointJob(QUEUED, endpoint).wait(timeout=0.5)


def test_everything_works_without_asyncio(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /v2/abc/run", QUEUED)
    server.script(STATUS, RUNNING, COMPLETED)
    job = endpoint.run({"prompt": "hello"}).result()
    assert job.status().result() == "IN_PROGRESS"
    assert job.wait(30).result().output == {"text": "hello"}


@pytest.mark.asyncio
async def test_a_job_without_an_id_is_not_asked_about(server: ScriptedServer, endpoint: Endpoint) -> None:
    with pytest.raises(flash_plugins.ConfigError, match="no id"):
        await EndpointJob({}, endpoint).status()
    assert server.requests == []


@pytest.mark.asyncio
async def test_jobs_are_looked_at_cancelled_and_retried_by_id(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script(STATUS, COMPLETED)
    server.script("POST /v2/abc/cancel/j1", {"id": "j1", "status": "CANCELLED"})
    server.script("POST /v2/abc/retry/j1", QUEUED)
    assert (await endpoint.status("j1")).output == {"text": "hello"}
    assert (await endpoint.cancel("j1")).done
    assert (await endpoint.retry("j1")).id == "j1"
    with pytest.raises(NotFoundError, match="not scripted"):
        await endpoint.status("a/b")
    assert server.requests[-1].path == "/v2/abc/status/a%2Fb"


@pytest.mark.asyncio
async def test_queue_and_health_of_an_endpoint(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script("POST /v2/abc/purge-queue", {"removed": 3, "status": "completed"})
    server.script("GET /v2/abc/health", {"jobs": {"inQueue": 0}, "workers": {"idle": 1}})
    assert (await endpoint.purge_queue())["removed"] == 3
    assert (await endpoint.health())["workers"] == {"idle": 1}


STREAM = "GET /v2/abc/stream/j1"


def chunks(status: str, *values: Any) -> dict[str, Any]:
    return {"status": status, "stream": [{"output": value} for value in values]}


@pytest.mark.asyncio
async def test_a_stream_gives_all_values_in_order(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script(
        STREAM, chunks("IN_PROGRESS", 1, 2), chunks("IN_PROGRESS"), chunks("COMPLETED", 3), chunks("COMPLETED")
    )
    assert [value async for value in endpoint.stream("j1")] == [1, 2, 3]


def test_a_stream_is_iterable_without_asyncio(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script(STREAM, chunks("COMPLETED", "a", None), chunks("COMPLETED"))
    assert list(endpoint.stream("j1")) == ["a", None]


@pytest.mark.asyncio
async def test_a_stream_of_a_job_that_fails_ends_with_its_error(server: ScriptedServer, endpoint: Endpoint) -> None:
    server.script(STREAM, chunks("FAILED", 1), chunks("FAILED"))
    server.script(STATUS, {"id": "j1", "status": "FAILED", "error": "no GPU"})
    values = aiter(endpoint.stream("j1"))
    assert await anext(values) == 1
    with pytest.raises(JobFailed, match="no GPU"):
        await anext(values)


@pytest.mark.asyncio
async def test_a_stream_that_is_not_held_is_asked_for_now_and_then(
    server: ScriptedServer, endpoint: Endpoint, pauses: list[float]
) -> None:
    server.script(STREAM, chunks("IN_QUEUE"), chunks("IN_PROGRESS"), chunks("IN_PROGRESS", 1), chunks("COMPLETED"))
    assert [value async for value in endpoint.stream("j1")] == [1]
    assert pauses == [0.5, 0.5]


@pytest.mark.asyncio
async def test_a_new_job_that_a_server_of_the_platform_does_not_know_yet_is_asked_for_again(
    server: ScriptedServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_plugins.client.endpoint._VISIBILITY_PAUSE_S", 0.01)
    server.script("POST /v2/abc/run", QUEUED)
    server.script(STATUS, *[Answer({"error": "job not found"}, status=404)] * 2, COMPLETED)
    job = await endpoint.run({"prompt": "hello"})
    assert await job.status() == "COMPLETED"
    assert len(server.seen("POST /v2/abc/run")) == 1


@pytest.mark.asyncio
async def test_a_job_that_stays_unknown_is_an_error_in_the_end(
    server: ScriptedServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_plugins.client.endpoint._VISIBILITY_PAUSE_S", 0.01)
    monkeypatch.setattr("flash_plugins.platforms.api.JOB_VISIBLE_WITHIN_S", 0.1)
    server.script("POST /v2/abc/run", QUEUED)
    server.script(STATUS, Answer({"error": "job not found"}, status=404))
    with pytest.raises(NotFoundError):
        await (await endpoint.run({"prompt": "hello"})).status()
    assert len(server.seen(STATUS)) > 1
