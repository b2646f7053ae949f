# SPDX-License-Identifier: Apache-2.0
"""A network volume that two endpoints share: one writes pictures, the other serves them."""

import asyncio
import logging

from runpod_flash import DataCenter, Endpoint, GpuType, NetworkVolume

log = logging.getLogger(__name__)

MODELS = "/runpod-volume/models"

volume = NetworkVolume(name="p08-pictures", size=50, datacenter=DataCenter.EU_RO_1)


@Endpoint(
    name="p08-writer",
    gpu=GpuType.NVIDIA_GEFORCE_RTX_5090,
    workers=(0, 1),
    idle_timeout=300,
    datacenter=DataCenter.EU_RO_1,
    volume=volume,
    env={"MODEL_CACHE": MODELS},
)
class Writer:
    def __init__(self) -> None:
        import os

        self.models = os.environ["MODEL_CACHE"]
        os.makedirs(self.models, exist_ok=True)
        with open(f"{self.models}/weights.bin", "wb") as file:
            file.write(bytes(range(16)))
        log.info("models in %s: %s", self.models, os.listdir(self.models))

    async def write(self, name: str) -> dict:
        import os
        from pathlib import Path

        folder = Path("/runpod-volume/pictures")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_bytes(Path(self.models, "weights.bin").read_bytes() * 2)
        return {"path": str(path), "size": os.path.getsize(path)}


@Endpoint(name="p08-reader", cpu="cpu3c-1-2", datacenter=DataCenter.EU_RO_1, volume=volume)
async def listing() -> list[str]:
    import os

    folder = "/runpod-volume/pictures"
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


@Endpoint(name="p08-reader", cpu="cpu3c-1-2", datacenter=DataCenter.EU_RO_1, volume=volume)
async def size_of(name: str) -> int:
    from pathlib import Path

    return len(Path(f"/runpod-volume/pictures/{name}").read_bytes())


async def main() -> None:
    writer = Writer()
    print(await writer.write("one.png"))
    print((await writer.write("two.png"))["path"])
    print(await listing(), await size_of("two.png"))


if __name__ == "__main__":
    asyncio.run(main())
