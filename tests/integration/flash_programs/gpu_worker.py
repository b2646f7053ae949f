# SPDX-License-Identifier: Apache-2.0
"""One function on a GPU worker, called once."""

import asyncio

from runpod_flash import Endpoint, GpuType


@Endpoint(name="p01-gpu", gpu=GpuType.NVIDIA_GEFORCE_RTX_4090)
async def describe(payload: dict) -> dict:
    """Say where this runs; a GPU is used where there is one."""
    import os
    import platform

    try:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    except ImportError:
        device = "cpu"
    return {
        "greeting": payload.get("greeting", "hello") + " from a worker",
        "device": device,
        "python": platform.python_version(),
        "pid": os.getpid(),
    }


async def main() -> None:
    import os
    import platform

    first = await describe({"greeting": "hi"})
    second = await describe({})
    print(first["greeting"], "/", second["greeting"])
    print("device", first["device"])
    print("same python", first["python"] == platform.python_version())
    print("another process", first["pid"] != os.getpid(), "kept warm", first["pid"] == second["pid"])


if __name__ == "__main__":
    asyncio.run(main())
