# SPDX-License-Identifier: Apache-2.0
"""A runner process as the job loop has it, with no platform around it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest

from flash_plugins.code import dumps, loads
from flash_plugins.objects.digest import digest_of
from flash_plugins.payload import CallEnvelope, Outcome, decode_failure_text, decode_outcome
from flash_plugins.platforms import api
from flash_plugins.worker.handback import HandBack
from flash_plugins.worker.run import python_version
from flash_plugins.worker.supervisor import RunnerProcess

#: Generous: the box may be busy.
DEADLINE_S = 60.0


class WorkerEnded(Exception):
    """The worker would have ended here."""


@contextlib.asynccontextmanager
async def runner_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, concurrency: int = 1, hand_back: HandBack | None = None
) -> AsyncIterator[RunnerProcess]:
    """Run a runner of this many slots; where it would end the worker, the test fails."""

    def end_worker(self: RunnerProcess, reason: str, code: int) -> None:
        raise WorkerEnded(f"{reason} ({code})")

    monkeypatch.setattr(RunnerProcess, "_end_worker", end_worker)
    monkeypatch.setenv(api.CACHE_DIR_ENV, str(folder / "cache"))
    monkeypatch.setenv(api.MAX_CONCURRENCY_ENV, str(concurrency))
    runner = RunnerProcess(concurrency, hand_back=hand_back)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield runner
    finally:
        for task in list(runner._tasks):
            task.cancel()
        runner._process.kill()
        await asyncio.to_thread(runner._process.wait)
        if runner._writer is not None:
            runner._writer.close()
        runner._socket.close()


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run a test's coroutine."""
    return asyncio.run(scenario)


def batch_of(
    function: Callable[..., Any],
    arguments: Iterable[tuple[Any, ...]],
    *,
    instance: tuple[Any, ...] | None = None,
    method: str | None = None,
) -> dict[str, Any]:
    """Return the `input` of a job of many calls of one function."""
    contents = [dumps(function, what="it").data]
    if instance is not None:
        contents.append(dumps((instance, {}), what="it").data)
    digests = [digest_of(content) for content in contents]
    envelope = CallEnvelope(
        code=digests[0],
        args=b"",
        python=python_version(),
        instance=digests[1] if instance is not None else None,
        method=method,
        blobs=dict(zip(digests, contents, strict=True)),
        batch=tuple(dumps((args, {}), what="it").data for args in arguments),
    )
    return input_of(envelope)


def single(function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Return the `input` of a job of one call."""
    code = dumps(function, what="it").data
    digest = digest_of(code)
    pickled = dumps((args, {}), what="it").data
    return input_of(CallEnvelope(code=digest, args=pickled, python=python_version(), blobs={digest: code}))


def input_of(envelope: CallEnvelope) -> dict[str, Any]:
    """Return the `input` of a job as a worker gets it."""
    content: dict[str, Any] = json.loads(envelope.encode(envelope.blobs, {}))["input"]
    return content


def outcome_of(answer: dict[str, Any]) -> Outcome:
    """Return what the caller reads of a worker's answer."""
    if "error" in answer:
        outcome = decode_failure_text(answer["error"])
        assert outcome is not None
        return outcome
    return decode_outcome(answer)


def values_of(outcome: Outcome) -> dict[int, Any]:
    """Return, by place in the batch, what the calls returned, and the type and message of what they raised."""
    found: dict[int, Any] = {}
    for one in outcome.results:
        assert one.index not in found, f"call {one.index} ended twice"
        if one.result is not None:
            found[one.index] = loads(one.result)
        else:
            assert one.failure is not None
            found[one.index] = f"{one.failure['type']}: {one.failure['message']}"
    return found
