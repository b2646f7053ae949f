# SPDX-License-Identifier: Apache-2.0
"""CPU workers, with the instance type as a member and as a text, and a function that is no coroutine."""

import asyncio
import logging

from runpod_flash import CpuInstanceType, Endpoint

logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
log = logging.getLogger("words")

STOP_WORDS = {"a", "the", "of"}  # a global of the script travels with the function that uses it


def normalised(text: str) -> list[str]:
    """A helper of the script travels too."""
    return [word.strip(".,").lower() for word in text.split()]


@Endpoint(name="p02-count", cpu=CpuInstanceType.CPU3C_1_2, idle_timeout=5)
async def count_words(payload: dict) -> dict:
    words = [word for word in normalised(payload["text"]) if word not in STOP_WORDS]
    log.info("counted %d words", len(words))
    return {"words": len(words), "longest": max(words, key=len)}


@Endpoint(name="p02-hash", cpu="cpu5c-2-4", workers=(0, 2))
def digest(text: str, *, algorithm: str = "sha256") -> str:
    import hashlib

    return hashlib.new(algorithm, text.encode()).hexdigest()[:8]


async def main() -> None:
    print(await count_words({"text": "The length of a needlessly long sentence."}))
    print(await digest("flash"), await digest("flash", algorithm="md5"))
    (refused,) = await asyncio.gather(digest("flash", algorithm="none such"), return_exceptions=True)
    print("refused:", type(refused).__name__, "unsupported hash type" in str(refused))


if __name__ == "__main__":
    asyncio.run(main())
