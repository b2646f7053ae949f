# SPDX-License-Identifier: Apache-2.0
"""Tasks through an official client: `official_client.py CLIENT ENDPOINT`, with `runpod1`, `runpod2` or `runpod_flash`.

Prints `warm` when it can begin; for each line on stdin, a JSON list of lengths in seconds, it runs so many jobs of
these lengths (null: a job that does nothing), all at once, and prints the seconds that took.
"""

# mypy: ignore-errors

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

#: Runs jobs of these lengths and returns what they returned.
Run = Callable[[list[float]], Awaitable[list[float]]]

#: Seconds that a job may take, waiting included.
TIMEOUT_S = 900


def runpod1(endpoint_id: str) -> Run:
    import aiohttp
    import runpod

    runpod.api_key = os.environ["RUNPOD_API_KEY"]

    async def run(lengths: list[float]) -> list[float]:
        async with aiohttp.ClientSession() as session:
            endpoint = runpod.AsyncioEndpoint(endpoint_id, session)

            async def one(seconds: float) -> float:
                job = await endpoint.run({"seconds": seconds})
                return await job.output(timeout=TIMEOUT_S)

            return await asyncio.gather(*map(one, lengths))

    return run


def runpod2(endpoint_id: str) -> Run:
    from runpod.apps.targets import QueueClient, _headers

    async def run(lengths: list[float]) -> list[float]:
        queue = QueueClient(endpoint_id, _headers)

        async def one(seconds: float) -> float:
            answer = await queue.invoke({"input": {"seconds": seconds}}, timeout=TIMEOUT_S)
            return answer["output"]

        return await asyncio.gather(*map(one, lengths))

    return run


def runpod_flash(endpoint_id: str) -> Run:
    from runpod_flash import Endpoint

    async def run(lengths: list[float]) -> list[float]:
        endpoint = Endpoint(id=endpoint_id)

        async def one(seconds: float) -> float:
            job = await endpoint.run({"seconds": seconds})
            await job.wait(timeout=TIMEOUT_S)
            return job.output

        return await asyncio.gather(*map(one, lengths))

    return run


def main() -> None:
    clients = {"runpod1": runpod1, "runpod2": runpod2, "runpod_flash": runpod_flash}
    run = clients[sys.argv[1]](sys.argv[2])
    print("warm", flush=True)
    for line in sys.stdin:
        lengths = [seconds or 0.0 for seconds in json.loads(line)]
        began = time.perf_counter()
        answers = asyncio.run(run(lengths))
        assert answers == lengths, answers
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
