# SPDX-License-Identifier: Apache-2.0
"""`runpod_flash.Endpoint(id=…)`, the client of load-balanced endpoints of runpod-flash 1.21."""

from typing import Any

import balanced_names  # type: ignore[import-not-found]
from runpod_flash import Endpoint  # type: ignore[import-not-found, unused-ignore]
from transcript import Setting, describe, play  # type: ignore[import-not-found]


async def post(setting: Setting) -> Any:
    return await Endpoint(id=setting.balanced).post("/generate", {"prompt": "hello"})


async def other_verbs(setting: Setting) -> Any:
    endpoint = Endpoint(id=setting.balanced)
    return [
        await endpoint.get("/items/1"),
        await endpoint.put("/items/2", {"a": 1}),
        await endpoint.patch("/items/3", {"a": 2}),
        await endpoint.delete("/items/4"),
    ]


async def error_of_the_worker(setting: Setting) -> Any:
    try:
        await Endpoint(id=setting.balanced).get("/items/404")
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return describe(error)
    return {"type": None}


async def unknown_endpoint(setting: Setting) -> Any:
    try:
        await Endpoint(id="nosuchendpoint").get("/items/1")
    except Exception as error:  # noqa: BLE001 - any error is the answer here
        return describe(error)
    return {"type": None}


if __name__ == "__main__":
    balanced_names.install()
    play([post, other_verbs, error_of_the_worker, unknown_endpoint])
