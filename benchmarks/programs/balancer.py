# SPDX-License-Identifier: Apache-2.0
"""Small JSON requests to one worker, through the local balancer and straight to it: `balancer.py REPEATS REQUESTS`.

Both ways take turns: request by request where one is in flight, round by round where 32 are. Prints JSON:
milliseconds of each request by way and number in flight, one list per repeat.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from flash_plugins.platforms.local.launch import launch

APP = Path(__file__).with_name("balanced_app.py")
CONCURRENT = 32
WARM_UP = 200
BODY = json.dumps({"x": [1.5, 2.5, 3.5], "name": "small"}).encode()

#: A URL and the headers for it.
Way = tuple[str, dict[str, str]]


async def ask(session: aiohttp.ClientSession, way: Way) -> float:
    """Return the milliseconds that one request takes, its answer read."""
    began = time.perf_counter()
    async with session.post(way[0], data=BODY, headers=way[1]) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
    return (time.perf_counter() - began) * 1e3


async def one_by_one(session: aiohttp.ClientSession, ways: dict[str, Way], requests: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(requests):
        for name, way in ways.items():
            taken[name].append(await ask(session, way))
    return taken


async def at_once(session: aiohttp.ClientSession, way: Way, requests: int) -> list[float]:
    taken: list[float] = []

    async def client() -> None:
        for _ in range(requests // CONCURRENT):
            taken.append(await ask(session, way))

    await asyncio.gather(*(client() for _ in range(CONCURRENT)))
    return taken


async def measure(ways: dict[str, Way], repeats: int, requests: int) -> dict[str, Any]:
    found: dict[str, Any] = {f"{name}-{n}": [] for name in ways for n in (1, CONCURRENT)}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await one_by_one(session, ways, WARM_UP)
        for way in ways.values():
            await at_once(session, way, WARM_UP)
        for repeat in range(repeats):
            for name, taken in (await one_by_one(session, ways, requests)).items():
                found[f"{name}-1"].append(taken)
            for name in sorted(ways, reverse=bool(repeat % 2)):
                found[f"{name}-{CONCURRENT}"].append(await at_once(session, ways[name], requests * 2))
    return found


async def deploy(url: str, key: str) -> dict[str, Way]:
    """Create the endpoint, wake its worker up, and return both ways to it."""
    headers = {"Authorization": f"Bearer {key}"}
    body = {
        "name": "balanced",
        "type": "LOAD_BALANCER",
        "image": "python:3.12-slim",
        "cpu": [{"id": "cpu3c", "vcpuCount": 2}],
        "scaling": {"type": "REQUEST_COUNT", "requestCount": 1000},
        "workers": {"min": 1, "max": 1},
        "args": f"python {APP}",
    }
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(f"{url}/v2/serverless", json=body) as answer:
            base = (await answer.json())["requestUrls"]["base"]
        async with session.post(f"{base}/", data=BODY) as answer:
            port = (await answer.json())["port"]
    sent = {"Content-Type": "application/json"}
    return {"balancer": (f"{base}/predict", {**headers, **sent}), "direct": (f"http://127.0.0.1:{port}/predict", sent)}


def main() -> None:
    repeats, requests = map(int, sys.argv[1:])
    platform = launch()
    try:
        ways = asyncio.run(deploy(platform.url, platform.key))
        print(json.dumps(asyncio.run(measure(ways, repeats, requests))))
    finally:
        platform.stop()


if __name__ == "__main__":
    main()
