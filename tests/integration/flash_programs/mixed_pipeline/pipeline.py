# SPDX-License-Identifier: Apache-2.0
"""Stages on CPU and GPU workers behind one route, and the same chain driven from this program."""

import asyncio

from cpu_stage import clean, report
from gpu_stage import score
from runpod_flash import Endpoint

api = Endpoint(name="p03-pipeline", cpu="cpu3c-1-2", workers=(1, 2))


@api.post("/classify")
async def classify(text: str) -> dict:
    """Clean on a CPU, score on a GPU, report on a CPU."""
    from cpu_stage import clean, report
    from gpu_stage import score

    cleaned = await clean({"text": text})
    scores = await score(cleaned)
    return await report({"scores": scores, "stages": ["clean", "score"]})


async def main() -> None:
    print("route:", await classify("  a  great   day, a fine day "))
    cleaned = await asyncio.gather(*(clean({"text": text}) for text in ("good  good", "bad")))
    scores = await asyncio.gather(*(score(one) for one in cleaned))
    reports = await asyncio.gather(*(report({"scores": one, "stages": []}) for one in scores))
    print("driven:", [one["label"] for one in reports])


if __name__ == "__main__":
    asyncio.run(main())
