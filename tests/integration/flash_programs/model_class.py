# SPDX-License-Identifier: Apache-2.0
"""A class whose model is made once per worker, and its methods called many times."""

import asyncio

from runpod_flash import Endpoint, GpuGroup


@Endpoint(name="p05-painter", gpu=GpuGroup.ADA_24, workers=(0, 1), idle_timeout=300, gpu_count=1)
class Painter:
    """Text to "image": a deterministic picture of noise instead of a diffusion model."""

    def __init__(self, size: int = 4) -> None:
        import os
        import random

        self.size = size
        self.loads = 1
        self.made_in = os.getpid()
        self.weights = random.Random(7).sample(range(256), size)

    async def paint(self, prompt: str, steps: int = 2) -> dict:
        import base64

        pixels = bytes((weight + len(prompt) * steps) % 256 for weight in self.weights)
        return {"prompt": prompt, "image_base64": base64.b64encode(pixels).decode(), "pid": self.made_in}

    def facts(self) -> dict:
        return {"size": self.size, "loads": self.loads, "weights": len(self.weights)}


async def main() -> None:
    import base64

    painter = Painter(size=6)
    images = await asyncio.gather(*(painter.paint(prompt) for prompt in ("a cat", "a dog", "a heron")))
    print([len(base64.b64decode(image["image_base64"])) for image in images])
    print("loaded once:", len({image["pid"] for image in images}) == 1)
    print(await painter.facts())
    print("deterministic:", (await painter.paint("a cat"))["image_base64"] == images[0]["image_base64"])


if __name__ == "__main__":
    asyncio.run(main())
