# SPDX-License-Identifier: Apache-2.0
"""Packages that workers install before the first call: pinned, with an extra, shared, and none at all."""

import asyncio

from runpod_flash import CpuInstanceType, Endpoint, GpuType

SHARED = ["six==1.16.0"]


@Endpoint(name="p04-gpu", gpu=GpuType.NVIDIA_GEFORCE_RTX_4090, workers=(0, 2), dependencies=SHARED)
async def on_gpu(payload: dict) -> dict:
    import six

    return {"six": six.__version__, "echo": payload}


@Endpoint(
    name="p04-cpu",
    cpu=CpuInstanceType.CPU3C_1_2,
    workers=(0, 2),
    dependencies=[*SHARED, "idna==3.6", "tomli-w>=1.0,<2"],
    system_dependencies=["libgl1"],
)
async def on_cpu(payload: dict) -> dict:
    import idna
    import six
    import tomli_w

    return {
        "six": six.__version__,
        "host": idna.encode(payload["host"]).decode(),
        "idna": idna.__version__,
        "toml": tomli_w.dumps({"a": 1}).strip(),
    }


@Endpoint(name="p04-none", cpu="cpu3c-1-2")
async def without(payload: dict) -> dict:
    import re

    return {"digits": re.findall(r"\d+", payload["text"])}


async def main() -> None:
    gpu, cpu, none = await asyncio.gather(on_gpu({"n": 1}), on_cpu({"host": "bücher.example"}), without({"text": "a1"}))
    print(gpu)
    print(cpu)
    print(none)


if __name__ == "__main__":
    asyncio.run(main())
