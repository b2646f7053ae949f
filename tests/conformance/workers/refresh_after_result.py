# SPDX-License-Identifier: Apache-2.0
"""A handler that asks for a fresh worker from time to time, in its result."""

import os
from typing import Any

import runpod

served = 0


def handler(job: dict[str, Any]) -> dict[str, Any]:
    global served
    served += 1
    return {
        "refresh_worker": job["input"]["refresh"],
        "served": served,
        "process": os.getpid(),
        "worker_id": os.environ["RUNPOD_POD_ID"],
    }


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
