# SPDX-License-Identifier: Apache-2.0
"""A generator handler: its pieces are streamed, and nothing is asked to collect them."""

from collections.abc import Iterator
from typing import Any

import runpod


def handler(job: dict[str, Any]) -> Iterator[Any]:
    for number in range(job["input"]["count"]):
        yield {"number": number}
    if job["input"].get("then_raise"):
        raise ValueError("the generator broke")


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
