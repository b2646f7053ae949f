# SPDX-License-Identifier: Apache-2.0
"""`runpod.Api`, the stub for somebody else's HTTP endpoint in runpod 2.0, and the client below it."""

from typing import Any

import aiohttp
import balanced_names  # type: ignore[import-not-found]
import runpod
from runpod.apps.targets import QueueClient, _headers
from transcript import Setting, describe, play  # type: ignore[import-not-found]


async def post_by_name(setting: Setting) -> Any:
    return await runpod.Api(app="any", name="routes").post.aio("/generate", {"prompt": "hello"})


async def post_by_id(setting: Setting) -> Any:
    return await runpod.Api(app="any", id=setting.balanced).post.aio("/generate", {"prompt": "hello"})


def post_without_a_loop(setting: Setting) -> Any:
    return runpod.Api(app="any", name="routes").post("/generate", {"prompt": "hello"})


async def other_verbs(setting: Setting) -> Any:
    stub = runpod.Api(app="any", name="routes")
    return [
        await stub.get.aio("/items/1"),
        await stub.put.aio("/items/2", {"a": 1}),
        await stub.patch.aio("/items/3", {"a": 2}),
        await stub.delete.aio("/items/4"),
    ]


async def at_its_own_address(setting: Setting) -> Any:
    return await QueueClient(setting.balanced, _headers).http("POST", "/generate", {"prompt": "hello"})


async def unknown_name(setting: Setting) -> Any:
    try:
        await runpod.Api(app="any", name="nosuch").get.aio("/items/1")
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return describe(error)
    return {"type": None}


if __name__ == "__main__":
    balanced_names.install()
    # The other one asks name servers itself.
    aiohttp.connector.DefaultResolver = aiohttp.ThreadedResolver  # type: ignore[attr-defined]
    play([post_by_name, post_by_id, post_without_a_loop, other_verbs, at_its_own_address, unknown_name])
