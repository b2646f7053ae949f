# SPDX-License-Identifier: Apache-2.0
"""Three ways to scale, and bursts of calls at once."""

import asyncio

from runpod_flash import Endpoint, GpuType, ServerlessScalerType


@Endpoint(
    name="p07-to-zero",
    gpu=GpuType.NVIDIA_GEFORCE_RTX_4090,
    workers=(0, 2),
    idle_timeout=300,
    scaler_type=ServerlessScalerType.QUEUE_DELAY,
    scaler_value=1,
)
async def to_zero(payload: dict) -> dict:
    return {"strategy": "to zero", "size": payload.get("size", 1)}


@Endpoint(
    name="p07-always-on",
    gpu=[GpuType.NVIDIA_GEFORCE_RTX_4090, GpuType.NVIDIA_RTX_A5000],
    workers=(1, 2),
    idle_timeout=60,
    max_concurrency=8,
)
async def always_on(payload: dict) -> dict:
    """Eight of these share one worker and wait at the same time."""
    import os

    await asyncio.sleep(0.5)
    return {"strategy": "always on", "pid": os.getpid(), "number": payload["number"]}


@Endpoint(
    name="p07-throughput",
    cpu="cpu5c-2-4",
    workers=(2, 2),
    scaler_type=ServerlessScalerType.REQUEST_COUNT,
    scaler_value=1,
)
def throughput(number: int) -> dict:
    import os
    import time

    time.sleep(0.3)
    return {"number": number, "pid": os.getpid()}


async def main() -> None:
    import time

    print(await to_zero({"size": 3}))
    await always_on({"number": -1})  # a worker is warm now
    started = time.perf_counter()
    answers = await asyncio.gather(*(always_on({"number": number}) for number in range(8)))
    print([answer["number"] for answer in answers], "at once:", time.perf_counter() - started < 0.5 * 8)
    burst = await asyncio.gather(*(throughput(number) for number in range(16)))
    print(
        [answer["number"] for answer in burst] == list(range(16)), "workers:", len({answer["pid"] for answer in burst})
    )


if __name__ == "__main__":
    asyncio.run(main())
