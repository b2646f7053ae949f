# SPDX-License-Identifier: Apache-2.0
"""Variables and secrets for workers, a template, several data centers, every rarer parameter."""

import asyncio
import os

from runpod_flash import CudaVersion, DataCenter, Endpoint, GpuGroup, PodTemplate

os.environ.setdefault("P09_TOKEN", "token of this machine")


@Endpoint(
    name="p09-settings",
    gpu=[GpuGroup.ADA_24, GpuGroup.AMPERE_24],
    gpu_count=2,
    env={"MODEL_ID": "tiny", "HF_TOKEN": os.environ["P09_TOKEN"]},
    datacenter=[DataCenter.US_GA_2, DataCenter.EU_RO_1],
    execution_timeout_ms=60_000,
    flashboot=False,
    min_cuda_version=CudaVersion.V12_8,
    template=PodTemplate(containerDiskInGb=100),
    accelerate_downloads=False,
)
async def load() -> dict:
    import os

    return {"model": os.getenv("MODEL_ID"), "token": len(os.getenv("HF_TOKEN", "")), "none": os.getenv("P09_NOTHING")}


async def main() -> None:
    print(await load())


if __name__ == "__main__":
    asyncio.run(main())
